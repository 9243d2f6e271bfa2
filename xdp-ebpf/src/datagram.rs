//! Whether an IP packet is a UDP datagram of ours: IP and UDP headers, decided
//! for [`crate::classify`]. What is not ours is the kernel's, since the node is
//! an IP host there. Imports `classify`'s [`Frame`], `config` and `wire`.
//!
//! **Fragments.** Only the first tells its port. Ours is dropped, and with it
//! the datagram: the others pass, and the kernel never puts them together.
//! **Options and extension headers** move the UDP header away from its constant
//! offset; such packets pass, and the control thread's socket refuses them.

use crate::classify::Frame;
use crate::config::{Config, Reason};
use crate::wire::{
    GROUP_IPV4, GROUP_IPV6, IPV4_HEADER_LEN, IPV6_FRAGMENT_LEN, IPV6_HEADER_LEN,
    PROTOCOL_IPV6_FRAGMENT, PROTOCOL_UDP, UDP_HEADER_LEN,
};

/// Lengths of IP and UDP header together.
pub(crate) const UDP4_LEN: usize = IPV4_HEADER_LEN + UDP_HEADER_LEN;
pub(crate) const UDP6_LEN: usize = IPV6_HEADER_LEN + UDP_HEADER_LEN;

/// Version 4 and a header of five words: no options.
const IPV4_PLAIN: u8 = 0x45;
/// An IPv4 fragment's offset, and whether more follow (RFC 791).
const IPV4_FRAGMENT_OFFSET: u16 = 0x1FFF;
const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
/// An IPv6 fragment's offset (RFC 8200, 4.5).
const IPV6_FRAGMENT_OFFSET: u16 = 0xFFF8;

// A fragment header takes the UDP header's place in the section that is read.
const _: () = assert!(IPV6_FRAGMENT_LEN == UDP_HEADER_LEN);

/// What IP and UDP headers say of a packet.
pub(crate) enum Datagram {
    /// Another address, protocol or port, or none to be seen: the kernel's.
    NotOurs,
    /// Ours, and not to be used.
    Bad(Reason),
    /// To our port, at our own address or the group of beacons.
    Ours {
        /// At the group's address.
        to_group: bool,
        /// Bytes that the UDP header promises behind itself.
        payload_len: usize,
    },
}

/// Reads IPv4 and UDP header, the former at `IP`.
#[inline(always)]
pub(crate) fn udp4<const IP: usize, F: Frame + ?Sized>(config: &Config, frame: &F) -> Datagram {
    let Some(h) = frame.section::<IP, UDP4_LEN>() else {
        return Datagram::NotOurs;
    };
    let destination = u32::from_be_bytes([h[16], h[17], h[18], h[19]]);
    let [a, b, c, d, ..] = config.own_ip;
    let to_group = destination == GROUP_IPV4.to_bits();
    let to_us = to_group || destination == u32::from_be_bytes([a, b, c, d]);
    if !to_us || h[9] != PROTOCOL_UDP || h[0] != IPV4_PLAIN {
        return Datagram::NotOurs;
    }
    let fragment = u16::from_be_bytes([h[6], h[7]]);
    if fragment & IPV4_FRAGMENT_OFFSET != 0 || u16::from_be_bytes([h[22], h[23]]) != config.port {
        return Datagram::NotOurs;
    }
    if fragment & IPV4_MORE_FRAGMENTS != 0 {
        return Datagram::Bad(Reason::Malformed);
    }
    let total_len = usize::from(u16::from_be_bytes([h[2], h[3]]));
    let udp_len = usize::from(u16::from_be_bytes([h[24], h[25]]));
    whole(to_group, total_len, IPV4_HEADER_LEN + udp_len, udp_len)
}

/// Reads IPv6 and UDP header, the former at `IP`; behind it and a header of
/// eight bytes more, that is behind UDP's or a fragment's, lies `BEHIND`.
#[inline(always)]
pub(crate) fn udp6<const IP: usize, const BEHIND: usize, F: Frame + ?Sized>(
    config: &Config,
    frame: &F,
) -> Datagram {
    let Some(h) = frame.section::<IP, UDP6_LEN>() else {
        return Datagram::NotOurs;
    };
    let destination = halves([
        h[24], h[25], h[26], h[27], h[28], h[29], h[30], h[31], h[32], h[33], h[34], h[35], h[36],
        h[37], h[38], h[39],
    ]);
    let to_group = destination == halves(GROUP_IPV6.octets());
    let to_us = to_group || destination == halves(config.own_ip);
    if !to_us || h[0] >> 4 != 6 {
        return Datagram::NotOurs;
    }
    if h[6] == PROTOCOL_IPV6_FRAGMENT {
        return match first_fragment_port::<BEHIND, F>(h[40], [h[42], h[43]], frame) {
            Some(port) if port == config.port => Datagram::Bad(Reason::Malformed),
            _ => Datagram::NotOurs,
        };
    }
    if h[6] != PROTOCOL_UDP || u16::from_be_bytes([h[42], h[43]]) != config.port {
        return Datagram::NotOurs;
    }
    let payload_len = usize::from(u16::from_be_bytes([h[4], h[5]]));
    let udp_len = usize::from(u16::from_be_bytes([h[44], h[45]]));
    whole(to_group, payload_len, udp_len, udp_len)
}

/// The UDP port in the first fragment of a packet, if this is one.
#[inline(always)]
fn first_fragment_port<const AT: usize, F: Frame + ?Sized>(
    protocol: u8,
    offset: [u8; 2],
    frame: &F,
) -> Option<u16> {
    if protocol != PROTOCOL_UDP || u16::from_be_bytes(offset) & IPV6_FRAGMENT_OFFSET != 0 {
        return None;
    }
    let udp = frame.section::<AT, UDP_HEADER_LEN>()?;
    Some(u16::from_be_bytes([udp[2], udp[3]]))
}

/// A datagram of `udp_len` bytes, as UDP says. IP has said `ip_len` where it
/// should have said `expected`.
#[inline(always)]
fn whole(to_group: bool, ip_len: usize, expected: usize, udp_len: usize) -> Datagram {
    if ip_len != expected || udp_len < UDP_HEADER_LEN {
        return Datagram::Bad(Reason::BadLength);
    }
    Datagram::Ours {
        to_group,
        payload_len: udp_len - UDP_HEADER_LEN,
    }
}

/// An IPv6 address as two numbers: compared without a call to `memcmp`, which
/// BPF does not have.
#[inline(always)]
fn halves(address: [u8; 16]) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    (
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Carrier;

    const PORT: u16 = 6119;

    fn config(carrier: Carrier) -> Config {
        Config::new([2, 0, 0, 0, 0, 1], carrier, 0, 1)
    }

    fn config4() -> Config {
        config(Carrier::Udp4 {
            address: [10, 0, 0, 1].into(),
            port: PORT,
        })
    }

    fn config6() -> Config {
        config(Carrier::Udp6 {
            address: "fd00::1".parse().unwrap(),
            port: PORT,
        })
    }

    /// IP header and UDP header to us, with nothing behind them.
    fn packet4() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0];
        packet.extend([10, 0, 0, 2, 10, 0, 0, 1]);
        packet.extend([0xC0, 0, 0x17, 0xE7, 0, 8, 0, 0]);
        packet
    }

    fn packet6() -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        packet.extend("fd00::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        packet.extend("fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        packet.extend([0xC0, 0, 0x17, 0xE7, 0, 8, 0, 0]);
        packet
    }

    /// 'o' ours, 'g' ours to the group, 'n' not ours, 'm' malformed, 'l' length.
    fn outcome(datagram: Datagram) -> char {
        match datagram {
            Datagram::Ours { to_group, .. } => ['o', 'g'][usize::from(to_group)],
            Datagram::NotOurs => 'n',
            Datagram::Bad(Reason::Malformed) => 'm',
            Datagram::Bad(_) => 'l',
        }
    }

    fn changed(packet: &[u8], at: usize, value: u8) -> Vec<u8> {
        let mut packet = packet.to_vec();
        packet[at] = value;
        packet
    }

    #[test]
    fn ipv4_is_told_from_other_traffic() {
        let read = |packet: &[u8]| outcome(udp4::<0, _>(&config4(), packet));
        let ours = packet4();
        assert_eq!(read(&ours), 'o');
        let mut to_group = ours.clone();
        to_group[16..20].copy_from_slice(&GROUP_IPV4.octets());
        assert_eq!(read(&to_group), 'g');
        for (at, value, expected) in [
            (0, 0x46, 'n'),
            (6, 0x20, 'm'),
            (6, 0x00, 'o'),
            (7, 0x01, 'n'),
            (9, 6, 'n'),
            (19, 9, 'n'),
            (23, 53, 'n'),
            (3, 27, 'l'),
            (25, 9, 'l'),
        ] {
            assert_eq!(read(&changed(&ours, at, value)), expected, "{at} {value}");
        }
        assert_eq!(read(&ours[..27]), 'n');
    }

    #[test]
    fn ipv6_is_told_from_other_traffic() {
        let read = |packet: &[u8]| outcome(udp6::<0, 48, _>(&config6(), packet));
        let ours = packet6();
        assert_eq!(read(&ours), 'o');
        let mut to_group = ours.clone();
        to_group[24..40].copy_from_slice(&GROUP_IPV6.octets());
        assert_eq!(read(&to_group), 'g');
        for (at, value, expected) in [
            (0, 0x40, 'n'),
            (5, 9, 'l'),
            (6, 0, 'n'),
            (39, 9, 'n'),
            (43, 53, 'n'),
            (45, 9, 'l'),
        ] {
            assert_eq!(read(&changed(&ours, at, value)), expected, "{at} {value}");
        }
        // A fragment header in front of UDP's: only the first of several is ours.
        let mut fragment = changed(&ours, 6, PROTOCOL_IPV6_FRAGMENT);
        fragment.splice(40..40, [17, 0, 0, 1, 0, 0, 0, 7]);
        assert_eq!(read(&fragment), 'm');
        assert_eq!(read(&fragment[..55]), 'n');
        assert_eq!(read(&changed(&fragment, 43, 8)), 'n', "not the first");
        assert_eq!(read(&changed(&fragment, 51, 53)), 'n', "another port");
    }
}
