//! Speaks the admin protocol as any client would: lines over the socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// One connection.
pub(crate) struct Admin(BufReader<UnixStream>);

impl Admin {
    pub(crate) fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends bytes as they are; a daemon that has hung up is no error here.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.get_mut().write_all(bytes);
    }

    /// The next line; empty at the end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(_) => line,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => line,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// Sends a line and reads one.
    pub(crate) fn ask(&mut self, request: &str) -> String {
        self.send(request.as_bytes());
        self.send(b"\n");
        self.line()
    }
}

/// Code and message of a refusal.
pub(crate) fn refusal(line: &str) -> (String, String) {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
    assert_eq!(value["ok"], Value::Bool(false), "{line}");
    let text = |key: &str| value["error"][key].as_str().unwrap().to_owned();
    (text("code"), text("message"))
}

/// Whether a line is a success.
pub(crate) fn is_ok(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|value| value["ok"] == Value::Bool(true))
}
