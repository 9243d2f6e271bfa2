//! WireGuard's cross-platform userspace interface: lines of `key=value` over a
//! unix socket (<https://www.wireguard.com/xplatform/>), so that no `wg` has to
//! be installed. Imports `error`.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};

/// How long a process may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read; a `set` is answered by one line.
const ANSWER_MAX: u64 = 4096;

/// A key pair of one run. It has no `Debug`, as all that holds keys.
pub(super) struct KeyPair {
    private: Vec<u8>,
    public: Vec<u8>,
}

impl KeyPair {
    /// From the operating system's random numbers.
    ///
    /// # Errors
    /// [`Error::Io`] if it has none.
    pub(super) fn draw() -> Result<Self> {
        // The pattern does not matter: only its curve is used.
        let failed =
            |error: snow::Error| Error::io("draw a key pair")(std::io::Error::other(error));
        let pattern = "Noise_NN_25519_ChaChaPoly_SHA256".parse().map_err(failed)?;
        let pair = snow::Builder::new(pattern)
            .generate_keypair()
            .map_err(failed)?;
        Ok(Self {
            private: pair.private,
            public: pair.public,
        })
    }
}

/// One end of a tunnel to one peer.
pub(super) struct Interface<'a> {
    /// Its own keys.
    pub(super) own: &'a KeyPair,
    /// The UDP port of both ends.
    pub(super) port: u16,
    /// The peer's keys, of which the public one is told.
    pub(super) peer: &'a KeyPair,
    /// Where the peer is on the wire.
    pub(super) endpoint: Ipv4Addr,
    /// The network of 24 bits that is behind the peer, its own end's address
    /// included.
    pub(super) inside: Ipv4Addr,
}

impl Interface<'_> {
    fn request(&self) -> String {
        let endpoint = SocketAddrV4::new(self.endpoint, self.port);
        let [a, b, c, _] = self.inside.octets();
        format!(
            "set=1\nprivate_key={}\nlisten_port={}\nreplace_peers=true\npublic_key={}\n\
             endpoint={endpoint}\nreplace_allowed_ips=true\nallowed_ip={a}.{b}.{c}.0/24\n\n",
            hex(&self.own.private),
            self.port,
            hex(&self.peer.public),
        )
    }

    /// Configures the process at the other end of `stream`, which listens at
    /// `socket`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Unreadable`] if it refuses.
    pub(super) fn configure(&self, mut stream: UnixStream, socket: &Path) -> Result<()> {
        let failed = || Error::io(format!("configure WireGuard at {}", socket.display()));
        stream
            .set_read_timeout(Some(ANSWER_WITHIN))
            .map_err(failed())?;
        stream
            .write_all(self.request().as_bytes())
            .map_err(failed())?;
        let mut answer = String::new();
        // One of them keeps the connection open, the other closes it.
        let mut chunk = [0; 256];
        while !answer.contains("\n\n") && (answer.len() as u64) < ANSWER_MAX {
            match stream.read(&mut chunk).map_err(failed())? {
                0 => break,
                len => answer.push_str(&String::from_utf8_lossy(&chunk[..len])),
            }
        }
        if answer.lines().any(|line| line == "errno=0") {
            return Ok(());
        }
        Err(Error::Unreadable {
            what: format!("the answer of {}", socket.display()),
            detail: format!("no errno=0 in {answer:?}"),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    fn keys(private: u8, public: u8) -> KeyPair {
        KeyPair {
            private: vec![private; 32],
            public: vec![public; 32],
        }
    }

    fn configure(answer: &'static str) -> (Result<()>, Vec<String>) {
        let name = format!("tipsec-uapi-{}-{}", std::process::id(), answer.len());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let read: Vec<String> = lines
                .map(|line| line.unwrap())
                .take_while(|line| !line.is_empty())
                .collect();
            (&stream).write_all(answer.as_bytes()).unwrap();
            read
        });
        let interface = Interface {
            own: &keys(0x0a, 0x0b),
            port: 51820,
            peer: &keys(0x0c, 0x0d),
            endpoint: Ipv4Addr::new(10, 78, 0, 2),
            inside: Ipv4Addr::new(10, 77, 0, 1),
        };
        let stream = UnixStream::connect(&path).unwrap();
        let result = interface.configure(stream, &path);
        std::fs::remove_file(&path).unwrap();
        (result, server.join().unwrap())
    }

    #[test]
    fn says_its_own_private_key_and_the_public_one_of_its_peer() {
        let (result, lines) = configure("errno=0\n\n");
        result.unwrap();
        let expected = [
            "set=1".to_owned(),
            format!("private_key={}", "0a".repeat(32)),
            "listen_port=51820".to_owned(),
            "replace_peers=true".to_owned(),
            format!("public_key={}", "0d".repeat(32)),
            "endpoint=10.78.0.2:51820".to_owned(),
            "replace_allowed_ips=true".to_owned(),
            "allowed_ip=10.77.0.0/24".to_owned(),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_refusal_is_an_error() {
        let (result, _) = configure("errno=22\n\n");
        assert!(result.unwrap_err().to_string().contains("errno=22"));
        let (result, _) = configure("");
        assert!(result.is_err(), "closed without an answer");
    }

    #[test]
    fn two_draws_differ() {
        let (a, b) = (KeyPair::draw().unwrap(), KeyPair::draw().unwrap());
        assert_eq!((a.private.len(), a.public.len()), (32, 32));
        assert_ne!(a.private, b.private);
        assert_ne!(a.private, a.public);
    }
}
