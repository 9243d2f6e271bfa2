//! What the program should do: `classify` and the maps, in ordinary Rust.
//! Buckets are taken to be full.

use std::collections::{HashMap, HashSet};

use tipsec_xdp::gate::{GateKey, gate};
use tipsec_xdp::{Accept, Config, Reason, Verdict, classify};

use super::frames::{self, Wrap};
use super::kernel::Kernel;

pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
pub const XDP_REDIRECT: u32 = 4;

pub struct Model {
    pub config: Config,
    pub spis: HashSet<u32>,
    pub gates: HashMap<u64, GateKey>,
    pub has_socket: bool,
}

impl Model {
    /// One issued SPI or two, one master, one listed peer; the same in `kernel`.
    pub fn install(kernel: &Kernel, wrap: Wrap) -> Model {
        let model = Model {
            config: Config::new(frames::OWN, wrap.carrier, wrap.vlan, frames::OWN_ID),
            spis: HashSet::from([frames::SPI, frames::OTHER_SPI]),
            gates: HashMap::from([(frames::MASTER, frames::gate_key())]),
            has_socket: false,
        };
        kernel.set_config(model.config);
        for &spi in &model.spis {
            kernel.set_spi(spi);
        }
        for (&master, &key) in &model.gates {
            kernel.set_gate(master, key);
        }
        kernel.list_peer(frames::LISTED_ID);
        model
    }

    /// The expected action and counter.
    pub fn expect(&self, frame: &[u8]) -> (u32, u32) {
        match classify(&self.config, frame) {
            Verdict::Pass => accept(Accept::NotOurs),
            Verdict::Drop(reason) => drop(reason),
            Verdict::Data { spi } if !self.spis.contains(&spi) => drop(Reason::UnknownSpi),
            Verdict::Data { .. } if self.has_socket => (XDP_REDIRECT, Accept::Data.counter()),
            Verdict::Data { .. } => drop(Reason::NoSocket),
            Verdict::Control(control) => match self.gates.get(&control.master_id()) {
                None => accept(Accept::UnknownMaster),
                Some(key) if gate(key, control.clear) != control.gate() => drop(Reason::BadGate),
                Some(_) => accept(Accept::Control),
            },
        }
    }
}

fn accept(accept: Accept) -> (u32, u32) {
    (XDP_PASS, accept.counter())
}

fn drop(reason: Reason) -> (u32, u32) {
    (XDP_DROP, reason.counter())
}
