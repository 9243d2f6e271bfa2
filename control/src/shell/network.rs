//! What the node does when the network around it changes: ways to peers, MTUs,
//! and words for the operator. Imports `paths` and `nic`.

use tipsec_dataplane::bearer::xdp::XdpConfig;
use tipsec_dataplane::frame::TAP_OVERHEAD;

use super::clock;
use super::link::Link;
use super::nic::Nic;
use super::node::Node;
use super::paths::Path;
use super::routes::{Change, Destination};
use crate::address::Address;
use crate::machine::EventKind;

/// Smallest MTU in bytes that the kernel gives a tap device (`ETH_MIN_MTU`).
const TAP_MTU_MIN: u32 = 68;

/// Bytes from the Tipsec header to the tag that fit a NIC of this MTU: what its
/// worker is told. No more than `max`, for which frame memory is made, whatever
/// the NIC could.
pub(super) fn carried_mtu(link: &Link, interface_mtu: u32, max: u32) -> u32 {
    let overhead = u32::try_from(link.encapsulation().overhead()).unwrap_or(u32::MAX);
    interface_mtu.min(max).saturating_sub(overhead)
}

/// The largest MTU for which frame memory of these sizes is made at a start
/// with this one.
pub(super) fn mtu_max(interface_mtu: u32, sizes: &XdpConfig) -> u32 {
    interface_mtu.max(sizes.mtu_single_buffer())
}

/// The MTU in bytes of the tap: whichever NIC a frame takes, it must fit.
pub(super) fn tap_mtu(nics: &[Nic]) -> u32 {
    let carried = nics.iter().filter(|nic| nic.is_there()).map(|nic| nic.mtu);
    let overhead = u32::try_from(TAP_OVERHEAD).unwrap_or(u32::MAX);
    let smallest = carried.min().unwrap_or_default();
    smallest.saturating_sub(overhead).max(TAP_MTU_MIN)
}

impl Node {
    /// Takes what the kernel has to tell about routes, neighbours, interfaces.
    pub(super) fn follow_network(&mut self) {
        let (changes, paths) = self.paths.process();
        self.set_paths(paths);
        for change in changes {
            match change {
                // In the paths.
                Change::NextHop(_) => {}
                Change::Mtu { ifindex, mtu } => self.on_mtu(ifindex, mtu),
                Change::Up { ifindex, up } => {
                    let how = if up { "is up" } else { "is down" };
                    self.note_interface(ifindex, how);
                }
                // Its workers notice, and say so.
                Change::Gone { .. } => {}
                Change::Mac { ifindex, mac } => {
                    let text = format!(
                        "has the address {mac} now; frames to it are refused: restart tipsecd"
                    );
                    self.note_interface(ifindex, &text);
                }
                Change::Address { own, present } => self.on_address(own, present),
            }
        }
    }

    pub(super) fn set_paths(&mut self, paths: Vec<Path>) {
        for path in paths {
            self.hub.set_path(path);
        }
    }

    /// Follows an interface's MTU with its workers' and, if there is one, the tap's.
    fn on_mtu(&mut self, ifindex: u32, mtu: u32) {
        let mut workers = Vec::new();
        let mut max = 0;
        for nic in &mut self.nics {
            if nic.link.ifindex != ifindex {
                continue;
            }
            nic.mtu = carried_mtu(&nic.link, mtu, nic.mtu_max);
            max = nic.mtu_max;
            for queue in &mut nic.queues {
                queue.report.mtu = mtu;
                workers.push((usize::from(queue.report.worker), nic.mtu));
            }
        }
        if workers.is_empty() {
            return;
        }
        let before = self.tap.as_ref().map(|tap| tap.report.mtu);
        let now = tap_mtu(&self.nics);
        // The narrow place closes first and opens last, so that what fits the
        // tap fits the bearer.
        if before.is_some_and(|before| now < before) {
            self.set_tap_mtu(now);
        }
        for (worker, carried) in workers {
            self.hub.set_mtu(worker, carried as usize);
        }
        if before.is_some_and(|before| now > before) {
            self.set_tap_mtu(now);
        }
        let mut text = format!("has an MTU of {mtu} bytes now");
        if let Some(tap) = &self.tap {
            text += &format!("; the tap's is {}", tap.report.mtu);
        }
        if mtu > max {
            text += &format!(" (of more than {max}, frames make no use until a restart)");
        }
        self.note_interface(ifindex, &text);
    }

    fn set_tap_mtu(&mut self, mtu: u32) {
        let Some(tap) = &mut self.tap else { return };
        match self.paths.set_mtu(tap.ifindex, mtu) {
            Ok(()) => tap.report.mtu = mtu,
            Err(error) => {
                tracing::error!("{error}: the tap keeps its MTU of {}", tap.report.mtu);
            }
        }
    }

    /// An IP address came or went: of interest if a NIC receives there.
    fn on_address(&mut self, own: Destination, present: bool) {
        let used = self.nics.iter().any(|nic| {
            let at = nic.link.address();
            nic.link.ifindex == own.ifindex
                && matches!(at, Address::Udp(at) if at.ip() == own.address)
        });
        if used {
            let text = match present {
                true => format!("has its address {} again", own.address),
                false => format!(
                    "has lost its address {}: peers cannot reach it",
                    own.address
                ),
            };
            self.note_interface(own.ifindex, &text);
        }
    }

    fn note_interface(&mut self, ifindex: u32, what: &str) {
        let nics = self.nics.iter().filter(|nic| nic.link.ifindex == ifindex);
        let mut queues = nics.flat_map(|nic| &nic.queues);
        let Some(queue) = queues.next() else {
            return;
        };
        let text = format!("interface {:?} {what}", queue.report.interface);
        self.machine
            .note(clock::now(), EventKind::BearerChanged, None, text);
    }
}
