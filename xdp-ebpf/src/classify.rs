//! What a frame is, decided from its first bytes: the one decoder that the XDP
//! program, userspace and the tests share. Pure: no map, no clock, no key.
//! Imports `datagram`, `config` and `wire`.
//!
//! Every read is a section of constant length at a constant offset, asked for
//! through [`Frame::section`], so that the kernel's verifier sees one bounds
//! check for each and no pointer arithmetic with variables.

use crate::config::{Config, Reason};
use crate::datagram::{Datagram, UDP4_LEN, UDP6_LEN, udp4, udp6};
use crate::wire::{
    CLEAR_HEADER_LEN, ETH_HEADER_LEN, ETHERTYPE_IPV4, GROUP_IPV4_MAC, GROUP_IPV6_MAC, GROUP_MAC,
    HEADER_LEN, Kind, MAX_CONTROL_LENGTH, MESSAGE_BEACON, MESSAGE_HELLO, MESSAGE_M3,
    MIN_CONTROL_LENGTH, MIN_DATA_LENGTH, MIN_ETHERTYPE, OFFSET_FLAGS, OFFSET_LENGTH,
    OFFSET_MESSAGE_TYPE, OFFSET_SPI, OFFSET_VERSION_KIND, VERSION, VLAN_ID_MASK, VLAN_TAG_LEN,
    VLAN_TPID,
};

/// A received frame, as far as it can be read.
pub trait Frame {
    /// The `N` bytes at `OFFSET` from the destination MAC on, or `None` where
    /// the frame's first buffer ends before them.
    fn section<const OFFSET: usize, const N: usize>(&self) -> Option<&[u8; N]>;

    /// Whether the whole frame, all buffers, has at least `len` bytes (without
    /// the FCS). A question and not a length, since most frames are one buffer
    /// and need no call to find out.
    fn holds(&self, len: usize) -> bool;
}

impl Frame for [u8] {
    #[inline(always)]
    fn section<const OFFSET: usize, const N: usize>(&self) -> Option<&[u8; N]> {
        self.get(OFFSET..)?.first_chunk()
    }

    #[inline(always)]
    fn holds(&self, len: usize) -> bool {
        self.len() >= len
    }
}

/// What to do with a frame. Drops are final; `Data` and `Control` go on to the
/// maps (SPIs and sockets, or gate and buckets).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Not a Tipsec frame (or not on the configured VLAN, or to another IP
    /// address or port): the kernel's.
    Pass,
    /// A Tipsec frame that goes no further.
    Drop(Reason),
    /// A well-formed data frame.
    Data {
        /// The receiver's index for one lane of one SA; never 0.
        spi: u32,
    },
    /// A well-formed handshake or beacon; nothing in it is verified yet.
    Control(Control<'a>),
}

/// A control frame's clear header, its shape checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control<'a> {
    /// Handshake or beacon, never data.
    pub kind: Kind,
    /// The clear header: the gate's input.
    pub clear: &'a [u8; CLEAR_HEADER_LEN],
}

impl Control<'_> {
    /// The XDP gate that the frame carries.
    #[inline(always)]
    pub const fn gate(&self) -> u64 {
        let c = self.clear;
        u64::from_be_bytes([c[8], c[9], c[10], c[11], c[12], c[13], c[14], c[15]])
    }

    /// The message type: 1 to 4 in a handshake, 1 in a beacon.
    #[inline(always)]
    pub const fn message_type(&self) -> u8 {
        self.clear[OFFSET_MESSAGE_TYPE]
    }

    /// Node id of the sender (initiator or beacon's sender in the text of the
    /// protocol); never 0.
    #[inline(always)]
    pub const fn sender(&self) -> u32 {
        let c = self.clear;
        u32::from_be_bytes([c[16], c[17], c[18], c[19]])
    }

    /// Node id of the responder; 0 in a beacon.
    #[inline(always)]
    pub const fn receiver(&self) -> u32 {
        let c = self.clear;
        u32::from_be_bytes([c[20], c[21], c[22], c[23]])
    }

    /// The public id of the master key that the frame was made under.
    #[inline(always)]
    pub const fn master_id(&self) -> u64 {
        let c = self.clear;
        u64::from_be_bytes([c[36], c[37], c[38], c[39], c[40], c[41], c[42], c[43]])
    }
}

/// Where what the EtherType names starts, in an untagged and a tagged frame.
const UNTAGGED: usize = ETH_HEADER_LEN;
const TAGGED: usize = ETH_HEADER_LEN + VLAN_TAG_LEN;

/// Decides what `frame` is for the node that `config` describes.
#[inline(always)]
pub fn classify<'a, F: Frame + ?Sized>(config: &Config, frame: &'a F) -> Verdict<'a> {
    // A map that nobody has written yet claims no frame.
    if config.ethertype < MIN_ETHERTYPE {
        return Verdict::Pass;
    }
    let Some(eth) = frame.section::<0, ETH_HEADER_LEN>() else {
        return Verdict::Pass;
    };
    let ethertype = u16::from_be_bytes([eth[12], eth[13]]);
    if config.vlan == 0 {
        if ethertype != config.ethertype {
            return Verdict::Pass;
        }
        return carried::<UNTAGGED, { UNTAGGED + UDP4_LEN }, { UNTAGGED + UDP6_LEN }, F>(
            config, eth, frame,
        );
    }
    if ethertype != VLAN_TPID {
        return Verdict::Pass;
    }
    let Some(tag) = frame.section::<ETH_HEADER_LEN, VLAN_TAG_LEN>() else {
        return Verdict::Pass;
    };
    let vlan = u16::from_be_bytes([tag[0], tag[1]]) & VLAN_ID_MASK;
    if vlan != config.vlan || u16::from_be_bytes([tag[2], tag[3]]) != config.ethertype {
        return Verdict::Pass;
    }
    carried::<TAGGED, { TAGGED + UDP4_LEN }, { TAGGED + UDP6_LEN }, F>(config, eth, frame)
}

/// The rest of [`classify`] once the EtherType fits. What it names starts at
/// `LINK`; behind IP and UDP the Tipsec header starts at `UDP4` or `UDP6`.
#[inline(always)]
fn carried<'a, const LINK: usize, const UDP4: usize, const UDP6: usize, F: Frame + ?Sized>(
    config: &Config,
    eth: &[u8; ETH_HEADER_LEN],
    frame: &'a F,
) -> Verdict<'a> {
    if config.port == 0 {
        let to_group = same(
            &[eth[0], eth[1], eth[2], eth[3], eth[4], eth[5]],
            &GROUP_MAC,
        );
        return ours::<LINK, F>(config, eth, &GROUP_MAC, to_group, None, frame);
    }
    if config.ethertype == ETHERTYPE_IPV4 {
        return match udp4::<LINK, F>(config, frame) {
            Datagram::NotOurs => Verdict::Pass,
            Datagram::Bad(reason) => Verdict::Drop(reason),
            Datagram::Ours {
                to_group,
                payload_len,
            } => {
                let room = Some(payload_len);
                ours::<UDP4, F>(config, eth, &GROUP_IPV4_MAC, to_group, room, frame)
            }
        };
    }
    match udp6::<LINK, UDP6, F>(config, frame) {
        Datagram::NotOurs => Verdict::Pass,
        Datagram::Bad(reason) => Verdict::Drop(reason),
        Datagram::Ours {
            to_group,
            payload_len,
        } => {
            let room = Some(payload_len);
            ours::<UDP6, F>(config, eth, &GROUP_IPV6_MAC, to_group, room, frame)
        }
    }
}

/// The rest of [`classify`] once it is clear that the frame is Tipsec's; `AT`
/// is where its header starts. `to_group` says that it is for the group of
/// beacons, whose MAC is `group`; UDP says how long the frame is: `datagram_len`.
#[inline(always)]
fn ours<'a, const AT: usize, F: Frame + ?Sized>(
    config: &Config,
    eth: &[u8; ETH_HEADER_LEN],
    group: &[u8; 6],
    to_group: bool,
    datagram_len: Option<usize>,
    frame: &'a F,
) -> Verdict<'a> {
    let destination = [eth[0], eth[1], eth[2], eth[3], eth[4], eth[5]];
    let source = [eth[6], eth[7], eth[8], eth[9], eth[10], eth[11]];
    let fits = if to_group {
        same(&destination, group)
    } else {
        same(&destination, &config.own_mac)
    };
    if !fits {
        return Verdict::Drop(Reason::NotForUs);
    }
    if same(&source, &config.own_mac) {
        return Verdict::Drop(Reason::Reflected);
    }
    if source[0] & 1 != 0 {
        return Verdict::Drop(Reason::Malformed);
    }
    let Some(header) = frame.section::<AT, HEADER_LEN>() else {
        return Verdict::Drop(Reason::BadLength);
    };
    let first = header[OFFSET_VERSION_KIND];
    if first >> 4 != VERSION {
        return Verdict::Drop(Reason::BadVersion);
    }
    let Some(kind) = Kind::from_byte(first) else {
        return Verdict::Drop(Reason::Malformed);
    };
    if header[OFFSET_FLAGS] != 0 {
        return Verdict::Drop(Reason::Malformed);
    }
    // Only a beacon has business at the group address.
    if to_group && !matches!(kind, Kind::Beacon) {
        return Verdict::Drop(Reason::NotForUs);
    }
    let length = u16::from_be_bytes([header[OFFSET_LENGTH], header[OFFSET_LENGTH + 1]]);
    // UDP's length is exact, and what the kernel's socket will see.
    if datagram_len.is_some_and(|len| len != HEADER_LEN + usize::from(length)) {
        return Verdict::Drop(Reason::BadLength);
    }
    // Ethernet pads short frames, so the frame may be longer, never shorter.
    if !frame.holds(AT + HEADER_LEN + length as usize) {
        return Verdict::Drop(Reason::BadLength);
    }
    match kind {
        Kind::Data => data(header, length),
        Kind::Handshake | Kind::Beacon => {
            if !(MIN_CONTROL_LENGTH..=MAX_CONTROL_LENGTH).contains(&length) {
                return Verdict::Drop(Reason::BadLength);
            }
            match frame.section::<AT, CLEAR_HEADER_LEN>() {
                Some(clear) => control(config, kind, clear),
                None => Verdict::Drop(Reason::BadLength),
            }
        }
    }
}

#[inline(always)]
fn data<'a>(header: &[u8; HEADER_LEN], length: u16) -> Verdict<'a> {
    if length < MIN_DATA_LENGTH {
        return Verdict::Drop(Reason::BadLength);
    }
    let spi = u32::from_be_bytes([
        header[OFFSET_SPI],
        header[OFFSET_SPI + 1],
        header[OFFSET_SPI + 2],
        header[OFFSET_SPI + 3],
    ]);
    if spi == 0 {
        return Verdict::Drop(Reason::Malformed);
    }
    Verdict::Data { spi }
}

#[inline(always)]
fn control<'a>(config: &Config, kind: Kind, clear: &'a [u8; CLEAR_HEADER_LEN]) -> Verdict<'a> {
    let control = Control { kind, clear };
    let reserved = clear[5] | clear[6] | clear[7] | clear[54] | clear[55];
    if reserved != 0 || control.sender() == 0 {
        return Verdict::Drop(Reason::Malformed);
    }
    let message_type = control.message_type();
    let receiver = control.receiver();
    if matches!(kind, Kind::Beacon) {
        if message_type != MESSAGE_BEACON || receiver != 0 {
            return Verdict::Drop(Reason::Malformed);
        }
    } else {
        if !(MESSAGE_HELLO..=MESSAGE_M3).contains(&message_type) {
            return Verdict::Drop(Reason::Malformed);
        }
        if receiver != config.node_id {
            return Verdict::Drop(Reason::NotForUs);
        }
    }
    Verdict::Control(control)
}

/// Equality of two MACs in two comparisons, without the call to `memcmp`
/// that comparing arrays makes and BPF does not have.
#[inline(always)]
fn same(a: &[u8; 6], b: &[u8; 6]) -> bool {
    let [a0, a1, a2, a3, a4, a5] = *a;
    let [b0, b1, b2, b3, b4, b5] = *b;
    u32::from_ne_bytes([a0, a1, a2, a3]) == u32::from_ne_bytes([b0, b1, b2, b3])
        && u16::from_ne_bytes([a4, a5]) == u16::from_ne_bytes([b4, b5])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Carrier;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn config(vlan: u16) -> Config {
        Config::new(OWN, Carrier::Ethernet { ethertype: 0x88B5 }, vlan, 1)
    }

    fn ethernet(vlan: u16, destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
        let mut frame = [destination, source].concat();
        if vlan != 0 {
            frame.extend([0x81, 0x00]);
            frame.extend((vlan | 0x6000).to_be_bytes());
        }
        frame.extend([0x88, 0xB5]);
        frame
    }

    fn data_frame(vlan: u16) -> Vec<u8> {
        let mut frame = ethernet(vlan, OWN, PEER);
        frame.extend([0x10, 0, 0, 17, 0, 0x10, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9]);
        frame.extend([0xAA; 17]);
        frame
    }

    fn control_frame(kind: Kind, destination: [u8; 6]) -> Vec<u8> {
        let mut frame = ethernet(0, destination, PEER);
        let mut clear = [0; CLEAR_HEADER_LEN];
        clear[0] = kind.version_byte();
        clear[3] = 56;
        clear[4] = 1;
        clear[8..16].copy_from_slice(&0x0123_4567_89AB_CDEF_u64.to_be_bytes());
        clear[19] = 2;
        clear[23] = u8::from(kind == Kind::Handshake);
        clear[36..44].copy_from_slice(&0xFEDC_BA98_7654_3210_u64.to_be_bytes());
        frame.extend(clear);
        frame.extend([0xBB; 16]);
        frame
    }

    fn with(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
        frame[at] = value;
        frame
    }

    #[test]
    fn data_by_tag() {
        for vlan in [0, 7] {
            let frame = data_frame(vlan);
            let expected = Verdict::Data { spi: 0x0010_0005 };
            assert_eq!(classify(&config(vlan), &frame[..]), expected);
            assert_eq!(classify(&config(9), &frame[..]), Verdict::Pass);
        }
        assert_eq!(classify(&config(0), &data_frame(7)[..]), Verdict::Pass);
        assert_eq!(classify(&config(7), &data_frame(0)[..]), Verdict::Pass);
    }

    #[test]
    fn control_fields_are_read_where_they_are() {
        let frame = control_frame(Kind::Handshake, OWN);
        let Verdict::Control(control) = classify(&config(0), &frame[..]) else {
            panic!("not a control frame");
        };
        assert_eq!(control.kind, Kind::Handshake);
        assert_eq!(control.message_type(), MESSAGE_HELLO);
        assert_eq!((control.sender(), control.receiver()), (2, 1));
        assert_eq!(control.gate(), 0x0123_4567_89AB_CDEF);
        assert_eq!(control.master_id(), 0xFEDC_BA98_7654_3210);
        assert_eq!(control.clear[..], frame[14..70]);
    }

    #[test]
    fn each_defect_has_its_reason() {
        use Reason::{BadLength, BadVersion, Malformed, NotForUs, Reflected};
        let data = data_frame(0);
        let hand = control_frame(Kind::Handshake, OWN);
        let beacon = control_frame(Kind::Beacon, GROUP_MAC);
        let mut no_spi = data.clone();
        no_spi[18..22].fill(0);
        let mut grouped = data.clone();
        grouped[..6].copy_from_slice(&GROUP_MAC);
        let mut mirror = data.clone();
        mirror[6..12].copy_from_slice(&OWN);
        let mut large = hand.clone();
        large.resize(3000, 0);
        large[16..18].copy_from_slice(&1485_u16.to_be_bytes());
        let cases = vec![
            (with(data.clone(), 0, 4), NotForUs),
            (grouped, NotForUs),
            (mirror, Reflected),
            (with(data.clone(), 6, 3), Malformed),
            (with(data.clone(), 14, 0x20), BadVersion),
            (with(data.clone(), 14, 0x13), Malformed),
            (with(data.clone(), 15, 1), Malformed),
            (with(data.clone(), 17, 16), BadLength),
            (with(data.clone(), 17, 18), BadLength),
            (no_spi, Malformed),
            (data[..29].to_vec(), BadLength),
            (with(hand.clone(), 17, 55), BadLength),
            (large, BadLength),
            (with(hand.clone(), 18, 0), Malformed),
            (with(hand.clone(), 18, 5), Malformed),
            (with(hand.clone(), 19, 1), Malformed),
            (with(hand.clone(), 69, 1), Malformed),
            (with(hand.clone(), 33, 0), Malformed),
            (with(hand.clone(), 37, 3), NotForUs),
            (control_frame(Kind::Handshake, GROUP_MAC), NotForUs),
            (with(beacon.clone(), 18, 2), Malformed),
            (with(beacon.clone(), 37, 1), Malformed),
        ];
        for (i, (frame, reason)) in cases.iter().enumerate() {
            let verdict = classify(&config(0), &frame[..]);
            assert_eq!(verdict, Verdict::Drop(*reason), "case {i}");
        }
        for frame in [beacon, control_frame(Kind::Beacon, OWN)] {
            let verdict = classify(&config(0), &frame[..]);
            assert!(matches!(verdict, Verdict::Control(_)));
        }
    }

    #[test]
    fn padding_is_allowed_and_no_prefix_is_read_beyond() {
        let mut padded = data_frame(0);
        padded.resize(60, 0);
        assert!(matches!(
            classify(&config(0), &padded[..]),
            Verdict::Data { .. }
        ));
        for frame in [data_frame(0), control_frame(Kind::Beacon, OWN)] {
            for len in 0..frame.len() {
                let expected = if len < ETH_HEADER_LEN {
                    Verdict::Pass
                } else {
                    Verdict::Drop(Reason::BadLength)
                };
                assert_eq!(classify(&config(0), &frame[..len]), expected, "{len}");
            }
        }
    }

    #[test]
    fn an_unwritten_config_claims_nothing() {
        let zero = Config::from_bytes([0; Config::LEN]);
        assert_eq!(classify(&zero, &data_frame(0)[..]), Verdict::Pass);
        assert_eq!(classify(&zero, &[0; 60][..]), Verdict::Pass);
    }
}
