//! No tunnel: the wire itself, in clear, by the kernel's own stack. Imports
//! `pair`.

use std::net::Ipv4Addr;
use std::path::Path;

use super::{Peer, Tunnel, Version, WhyNot};
use crate::error::Result;
use crate::pair::{Offloads, Pair};
use crate::topology::BEARER;

/// Offloads off: what a tunnel could reach that cost nothing.
pub const NAME_OFF: &str = "veth-offloads-off";
/// As the kernel makes it; no wire is like that.
pub const NAME_ON: &str = "veth-offloads-on";

pub(super) struct Veth {
    name: &'static str,
    offloads: Offloads,
}

impl Veth {
    pub(super) fn without_offloads() -> Self {
        Self {
            name: NAME_OFF,
            offloads: Offloads::Off,
        }
    }

    pub(super) fn with_offloads() -> Self {
        Self {
            name: NAME_ON,
            offloads: Offloads::AsMade,
        }
    }
}

impl Peer for Veth {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cipher(&self) -> &'static str {
        "none, in clear"
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn is_available(&self) -> std::result::Result<Version, WhyNot> {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy();
        Ok(Version(format!("Linux {release}")))
    }

    fn start(&self, pair: &Pair, _home: &Path) -> Result<Box<dyn Tunnel>> {
        Ok(Box::new(Wire {
            target: pair.ends[1].wire,
        }))
    }
}

struct Wire {
    target: Ipv4Addr,
}

impl Tunnel for Wire {
    fn device(&self) -> &str {
        BEARER
    }

    fn target(&self) -> Ipv4Addr {
        self.target
    }

    fn check_running(&mut self) -> Result<()> {
        Ok(())
    }

    fn stop(self: Box<Self>) -> Vec<String> {
        Vec::new()
    }
}
