//! What a program does with its messages, the same for those contenders that
//! go from program to program: the sender has the message in a buffer that
//! stays in its cache, from where it is copied once (by the program into frame
//! memory, or by the kernel out of the buffer); the receiver reads one byte of
//! each cache line where it gets the message. Imports nothing.

use std::hint::black_box;

/// Bytes of a cache line.
const LINE: usize = 64;
/// What messages are made of.
const BYTE: u8 = 0x5a;

/// A buffer for messages of up to `len` bytes.
pub(super) fn buffer(len: usize) -> Box<[u8]> {
    vec![BYTE; len].into()
}

/// Reads one byte of each line, which no compiler leaves out; says what they
/// add up to.
pub(super) fn read(message: &[u8]) -> u64 {
    let firsts = message.chunks(LINE).filter_map(<[u8]>::first);
    black_box(firsts.map(|&byte| u64::from(byte)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_of_every_line_is_read() {
        assert_eq!(read(&buffer(1353)), 22 * u64::from(BYTE));
        assert_eq!(read(&[1; 64]) + read(&[1; 65]), 1 + 2);
        assert_eq!(read(&[]), 0);
    }
}
