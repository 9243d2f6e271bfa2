//! Values of the configuration that are more than a number or a word. Imports
//! `address`.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::address::is_sound_host;

/// Which AF_XDP mode to ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ModeChoice {
    /// The first that works, fastest first.
    Auto,
    /// Zero-copy or nothing.
    ZeroCopy,
    /// The driver's own XDP with a copy, or nothing.
    NativeCopy,
    /// XDP in the network stack, or nothing.
    Generic,
}

impl ModeChoice {
    /// The words of the configuration.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("zero-copy", Self::ZeroCopy),
        ("native-copy", Self::NativeCopy),
        ("generic", Self::Generic),
    ];
}

/// An address of the tap device and the length of its network's prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TapAddress {
    /// The address.
    pub address: IpAddr,
    /// Bits of the prefix: at most 32 or 128.
    pub prefix_len: u8,
}

impl fmt::Display for TapAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// Reads `10.77.0.1/24` or `fd00::1/64`.
pub(super) fn tap_address(text: &str) -> Result<TapAddress, String> {
    let wrong = |what: &str| {
        Err(format!(
            "{text:?} {what}; expected an address and its prefix length, such as \"10.77.0.1/24\""
        ))
    };
    let Some((address, prefix_len)) = text.split_once('/') else {
        return wrong("has no prefix length");
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return wrong("is no IP address");
    };
    if address.is_unspecified() || address.is_multicast() {
        return wrong("is no address of a host");
    }
    let longest = if address.is_ipv4() { 32 } else { 128 };
    match prefix_len.parse::<u8>() {
        Ok(prefix_len) if (1..=longest).contains(&prefix_len) => Ok(TapAddress {
            address,
            prefix_len,
        }),
        _ => wrong(&format!("has no prefix length from 1 to {longest}")),
    }
}

/// Reads `10.0.0.1`, `fd00::1` or `[fd00::1]`: an address that one host can have
/// and that says the same everywhere, so without a zone.
pub(super) fn host_address(text: &str) -> Result<IpAddr, String> {
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let Ok(address) = inner.unwrap_or(text).parse::<IpAddr>() else {
        return Err(format!("{text:?} is no IP address"));
    };
    if is_sound_host(address) {
        return Ok(address);
    }
    Err(format!(
        "{text:?} is no address of one host that others can reach: not unspecified, loopback, \
         multicast, broadcast or link-local, and IPv4 not mapped into IPv6"
    ))
}

/// Checks what the kernel checks (`dev_valid_name`): 1 to 15 bytes.
pub(super) fn device_name(name: &str) -> Result<String, String> {
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    if (1..=15).contains(&name.len()) && name.chars().all(allowed) && name != "." && name != ".." {
        return Ok(name.to_owned());
    }
    Err(format!(
        "{name:?} is no name of a device: 1 to 15 bytes without blanks, '/' and ':'"
    ))
}

/// Refuses EtherTypes that would take others' frames.
pub(super) fn ethertype(ethertype: u16) -> Result<u16, String> {
    let owner = match ethertype {
        0x0800 => "IPv4",
        0x0806 => "ARP",
        0x86DD => "IPv6",
        0x8100 | 0x88A8 => "VLAN tags",
        0x88CA => "TIPC",
        0x88CC => "LLDP",
        0x88E5 => "MACsec",
        0x8809 => "LACP",
        _ => return Ok(ethertype),
    };
    Err(format!(
        "{ethertype:#06X} belongs to {owner}; expected one of your own, such as 0x88B5 or 0x88B6"
    ))
}

/// Refuses paths that depend on where the daemon was started.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(format!("{text:?} is not an absolute path (from /)"))
}
