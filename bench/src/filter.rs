//! Classic BPF programs that sort frames in the kernel, for every frame and
//! whatever the load (Linux, `Documentation/networking/filter.rst`). A load
//! beyond the end of a frame ends the program with "no". Imports nothing here.

use tipsec_xdp::wire::{DEFAULT_ETHERTYPE, Kind, VERSION};

/// One instruction, as in `struct sock_filter`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip if a comparison holds.
    pub jump_true: u8,
    /// Instructions to skip if it does not.
    pub jump_false: u8,
    /// Constant or offset.
    pub operand: u32,
}

// `linux/bpf_common.h`.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// "Keep the whole frame."
const WHOLE: u32 = 0x4_0000;
/// Where the EtherType and the byte behind it lie.
const OFFSET_ETHERTYPE: u32 = 12;
const OFFSET_KIND: u32 = 14;

/// Where the marker is looked for, in bytes from the start of the frame: behind
/// every header, sealed or not, and inside every payload of over 220 bytes.
pub const MARKER_OFFSET: u32 = 200;
/// Bytes that have to look like the marker there: a sealed frame does so by
/// chance once in 2^48.
pub const MARKER_SPAN: u32 = 12;

fn load(code: u16, offset: u32) -> Instruction {
    Instruction {
        code,
        jump_true: 0,
        jump_false: 0,
        operand: offset,
    }
}

fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        operand,
    }
}

fn answer(bytes: u32) -> Instruction {
    load(RETURN, bytes)
}

/// First byte of a data frame.
const DATA: u32 = Kind::Data.version_byte() as u32;

/// Frames that must not be on the wire: those that are not Tipsec's (another
/// EtherType, version or kind), and those with decimal digits where a payload
/// of the marker would show them.
pub fn alarms() -> Vec<Instruction> {
    let last_kind = u32::from(Kind::Beacon.version_byte());
    let first_kind = u32::from(VERSION << 4);
    let mut program = vec![
        load(LOAD_HALF, OFFSET_ETHERTYPE),
        jump(JUMP_EQUAL, u32::from(DEFAULT_ETHERTYPE), 1, 0),
        answer(WHOLE),
        load(LOAD_BYTE, OFFSET_KIND),
        jump(JUMP_GREATER, last_kind, 1, 0),
        jump(JUMP_GREATER_EQUAL, first_kind, 1, 0),
        answer(WHOLE),
    ];
    // '0'..='9' are 0x30..=0x39. The three words jump to the same "no".
    for (step, words_left) in [(0, 2u8), (4, 1), (8, 0)] {
        program.extend([
            load(LOAD_WORD, MARKER_OFFSET + step),
            load(AND, 0xf0f0_f0f0),
            jump(JUMP_EQUAL, 0x3030_3030, 0, words_left * 3 + 1),
        ]);
    }
    program.extend([answer(WHOLE), answer(0)]);
    program
}

/// Data frames to one address; a byte of each is kept, for they are only
/// counted.
pub fn data_to(destination: [u8; 6]) -> Vec<Instruction> {
    let [a, b, c, d, e, f] = destination;
    vec![
        load(LOAD_WORD, 2),
        jump(JUMP_EQUAL, u32::from_be_bytes([c, d, e, f]), 0, 7),
        load(LOAD_HALF, 0),
        jump(JUMP_EQUAL, u32::from(u16::from_be_bytes([a, b])), 0, 5),
        load(LOAD_HALF, OFFSET_ETHERTYPE),
        jump(JUMP_EQUAL, u32::from(DEFAULT_ETHERTYPE), 0, 3),
        load(LOAD_BYTE, OFFSET_KIND),
        jump(JUMP_EQUAL, DATA, 0, 1),
        answer(1),
        answer(0),
    ]
}

/// Every frame of our EtherType, whole.
pub fn ours() -> Vec<Instruction> {
    vec![
        load(LOAD_HALF, OFFSET_ETHERTYPE),
        jump(JUMP_EQUAL, u32::from(DEFAULT_ETHERTYPE), 0, 1),
        answer(WHOLE),
        answer(0),
    ]
}

/// Nothing: for a socket that only sends.
pub fn nothing() -> Vec<Instruction> {
    vec![answer(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do.
    fn run(program: &[Instruction], frame: &[u8]) -> u32 {
        let bytes = |offset: u32, len: usize| {
            let start = offset as usize;
            frame.get(start..start + len).map(|bytes| {
                bytes
                    .iter()
                    .fold(0u32, |value, byte| value << 8 | u32::from(*byte))
            })
        };
        let (mut at, mut a) = (0, 0u32);
        loop {
            let i = program[at];
            at += 1;
            let taken = match i.code {
                LOAD_WORD | LOAD_HALF | LOAD_BYTE => {
                    let len = match i.code {
                        LOAD_WORD => 4,
                        LOAD_HALF => 2,
                        _ => 1,
                    };
                    let Some(value) = bytes(i.operand, len) else {
                        return 0;
                    };
                    a = value;
                    continue;
                }
                AND => {
                    a &= i.operand;
                    continue;
                }
                RETURN => return i.operand,
                JUMP_EQUAL => a == i.operand,
                JUMP_GREATER => a > i.operand,
                JUMP_GREATER_EQUAL => a >= i.operand,
                other => panic!("unknown instruction {other:#x}"),
            };
            at += usize::from(if taken { i.jump_true } else { i.jump_false });
        }
    }

    fn frame(ethertype: u16, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0x54, 0, 0, 0, 1, 2, 0x54, 0, 0, 0, 2];
        frame.extend(ethertype.to_be_bytes());
        frame.push(kind);
        frame.extend(payload);
        frame
    }

    #[test]
    fn alarm_at_what_is_not_ours() {
        let quiet = [0xa5; 300];
        for kind in [0x10, 0x11, 0x12] {
            let frame = frame(0x88b5, kind, &quiet);
            assert_eq!(run(&alarms(), &frame), 0, "kind {kind:#x}");
        }
        for (ethertype, kind) in [
            (0x0800, 0x45),
            (0x86dd, 0x10),
            (0x88b5, 0x13),
            (0x88b5, 0x20),
            (0x88b5, 0x00),
        ] {
            let frame = frame(ethertype, kind, &quiet);
            assert_ne!(run(&alarms(), &frame), 0, "{ethertype:#x} {kind:#x}");
        }
    }

    #[test]
    fn alarm_at_digits_in_our_own_frames() {
        let digits: Vec<u8> = (0..1300u32).map(|i| b'0' + (i % 10) as u8).collect();
        assert_ne!(run(&alarms(), &frame(0x88b5, 0x10, &digits)), 0);
        for hole in [200usize, 203, 204, 208, 211] {
            let mut spoiled = frame(0x88b5, 0x10, &digits);
            spoiled[hole] = 0xa5;
            assert_eq!(run(&alarms(), &spoiled), 0, "byte {hole} is no digit");
        }
        assert_eq!(run(&alarms(), &frame(0x88b5, 0x10, &digits[..100])), 0);
    }

    #[test]
    fn counts_data_to_one_address_only() {
        let filter = data_to([2, 0x54, 0, 0, 0, 1]);
        assert_eq!(run(&filter, &frame(0x88b5, 0x10, &[0; 40])), 1);
        assert_eq!(run(&filter, &frame(0x88b5, 0x11, &[0; 40])), 0);
        assert_eq!(run(&filter, &frame(0x0800, 0x10, &[0; 40])), 0);
        for byte in 0..6 {
            let mut other = frame(0x88b5, 0x10, &[0; 40]);
            other[byte] ^= 1;
            assert_eq!(run(&filter, &other), 0, "address byte {byte}");
        }
        assert_ne!(run(&ours(), &frame(0x88b5, 0x12, &[])), 0);
        assert_eq!(run(&ours(), &frame(0x88b6, 0x12, &[])), 0);
        assert_eq!(run(&nothing(), &frame(0x88b5, 0x10, &[])), 0);
    }
}
