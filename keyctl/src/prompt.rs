//! Asks for a key on the terminal without showing it. Imports `error` and
//! `key_file`.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use tipsec_control::master::{MAX_TEXT_LEN, MasterKey};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::key_file;

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const CLEAR: u8 = 0x15;
const DELETE: u8 = 0x7f;

/// Asks twice and compares.
pub(crate) fn ask_twice() -> Result<MasterKey, Error> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Error::Usage(
            "standard input is not a terminal: say --stdin to read the key from it, or --file FILE"
                .to_owned(),
        ));
    }
    let key = key_file::parse(&ask(stdin.as_fd(), "Master key: ")?, "what you typed")?;
    let again = key_file::parse(&ask(stdin.as_fd(), "Once more: ")?, "the second time")?;
    if key.same_as(&again) {
        Ok(key)
    } else {
        Err(Error::Usage(
            "the two keys differ; nothing was changed".to_owned(),
        ))
    }
}

fn ask(terminal: BorrowedFd<'_>, question: &str) -> Result<Zeroizing<String>, Error> {
    let mut err = io::stderr().lock();
    // A prompt that can't be seen is not worth giving up for.
    let _ = write!(err, "{question}").and_then(|()| err.flush());
    let line = {
        let _hidden = Hidden::new(terminal).map_err(failed)?;
        read_hidden(|| read_byte(terminal))
    };
    let _ = writeln!(err);
    line
}

fn failed(error: Errno) -> Error {
    Error::Usage(format!("cannot read from the terminal: {error}"))
}

/// While it lives, the terminal shows nothing and hands over every byte, also
/// those for signals: a signal would leave the terminal mute.
struct Hidden<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn new(terminal: BorrowedFd<'a>) -> rustix::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes -=
            LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
        hidden.special_codes[SpecialCodeIndex::VMIN] = 1;
        hidden.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(terminal, OptionalActions::Flush, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to restore.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

fn read_byte(terminal: BorrowedFd<'_>) -> Result<Option<u8>, Error> {
    let mut byte = [0];
    loop {
        match rustix::io::read(terminal, &mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// A line of bytes as they come, edited as a terminal would.
fn read_hidden(
    mut next: impl FnMut() -> Result<Option<u8>, Error>,
) -> Result<Zeroizing<String>, Error> {
    // All room at once, and one more to notice what is too long.
    let mut line = Zeroizing::new(String::with_capacity(MAX_TEXT_LEN + 1));
    while let Some(byte) = next()? {
        match byte {
            b'\r' | b'\n' | END => break,
            INTERRUPT => return Err(Error::Usage("interrupted; nothing was changed".to_owned())),
            BACKSPACE | DELETE => drop(line.pop()),
            CLEAR => line.clear(),
            b' '..=b'~' if line.len() <= MAX_TEXT_LEN => line.push(char::from(byte)),
            // Too long or not ASCII: kept as wrong, not silently left out.
            _ if line.len() <= MAX_TEXT_LEN => line.push('\t'),
            _ => {}
        }
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> Result<String, Error> {
        let mut bytes = bytes.iter().copied();
        read_hidden(|| Ok(bytes.next())).map(|line| line.to_string())
    }

    #[test]
    fn lines_are_edited() {
        for (bytes, line) in [
            (&b"abc\rdef"[..], "abc"),
            (b"abc\n", "abc"),
            (b"abc", "abc"),
            (b"abx\x7fc\n", "abc"),
            (b"\x08abc\n", "abc"),
            (b"wrong\x15abc\n", "abc"),
            (b"\n", ""),
            (b"a\xc3\xa4\n", "a\t\t"),
        ] {
            assert_eq!(typed(bytes).unwrap(), line, "{bytes:?}");
        }
        assert!(matches!(typed(b"abc\x03\n"), Err(Error::Usage(_))));
        assert!(typed(&[b'a'; 10_000]).unwrap().len() <= MAX_TEXT_LEN + 1);
    }
}
