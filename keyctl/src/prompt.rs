//! Asks for a key on the terminal without showing it. Imports `error` and
//! `key_file`.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::flag::register_conditional_default;
use signal_hook::low_level::pipe::register;
use tipsec_control::master::{MAX_TEXT_LEN, MasterKey};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::key_file;

/// Signals that end a process unless it says otherwise, and that somebody may
/// send while a key is being typed.
const ENDING: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

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
    let signals = Signals::watch()?;
    let ask = |question| ask(stdin.as_fd(), &signals, question);
    let key = key_file::parse(&ask("Master key: ")?, "what you typed")?;
    let again = key_file::parse(&ask("Once more: ")?, "the second time")?;
    if signals.came() {
        return Err(interrupted());
    }
    if key.same_as(&again) {
        Ok(key)
    } else {
        Err(Error::Usage(
            "the two keys differ; nothing was changed".to_owned(),
        ))
    }
}

fn ask(
    terminal: BorrowedFd<'_>,
    signals: &Signals,
    question: &str,
) -> Result<Zeroizing<String>, Error> {
    let mut err = io::stderr().lock();
    // A prompt that can't be seen is not worth giving up for.
    let _ = write!(err, "{question}").and_then(|()| err.flush());
    let line = {
        let _hidden = Hidden::new(terminal).map_err(failed)?;
        read_hidden(|| read_byte(terminal, signals))
    };
    let _ = writeln!(err);
    line
}

fn interrupted() -> Error {
    Error::Usage("interrupted; nothing was changed".to_owned())
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

/// While it lives, the signals of [`ENDING`] end the reading and not the
/// process, which would leave the terminal mute. Later they end it again.
struct Signals {
    pipe: UnixStream,
    end_process: Arc<AtomicBool>,
}

impl Signals {
    fn watch() -> Result<Self, Error> {
        let watch = || -> io::Result<Self> {
            let (pipe, sender) = UnixStream::pair()?;
            let end_process = Arc::new(AtomicBool::new(false));
            for signal in ENDING {
                register_conditional_default(signal, Arc::clone(&end_process))?;
                register(signal, sender.try_clone()?)?;
            }
            Ok(Self { pipe, end_process })
        };
        watch().map_err(|error| Error::Usage(format!("cannot watch for signals: {error}")))
    }

    fn came(&self) -> bool {
        let mut pipe = [PollFd::new(&self.pipe, PollFlags::IN)];
        let now = rustix::event::Timespec::default();
        poll(&mut pipe, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.end_process.store(true, Ordering::Relaxed);
    }
}

fn read_byte(terminal: BorrowedFd<'_>, signals: &Signals) -> Result<Option<u8>, Error> {
    let mut byte = [0];
    loop {
        let mut ready = [
            PollFd::from_borrowed_fd(terminal, PollFlags::IN),
            PollFd::new(&signals.pipe, PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) if signals.came() => return Err(interrupted()),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(failed(error)),
        }
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
            INTERRUPT => return Err(interrupted()),
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
