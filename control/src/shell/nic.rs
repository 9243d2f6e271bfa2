//! A NIC as the control thread sees it: where control frames come and go, and
//! what became of its queues. The workers have the rest.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::control_port::ControlPort;
use super::link::Link;
use crate::address::{Address, Addresses, Network};
use crate::admin::{BearerReport, BearerState};
use crate::machine::Destination;

/// One queue of a NIC, and so one worker.
pub struct QueuePort {
    /// The AF_XDP socket, for its statistics alone.
    pub statistics: OwnedFd,
    /// What it is, for `status`.
    pub report: BearerReport,
}

impl QueuePort {
    fn is_lost(&self) -> bool {
        self.report.state == BearerState::Lost
    }
}

/// One NIC.
pub struct Nic {
    /// The network that it is on.
    pub network: Network,
    /// How frames leave it.
    pub link: Link,
    /// Bytes from the Tipsec header to the tag that fit it.
    pub mtu: u32,
    /// Largest MTU that its frame memory is made for.
    pub mtu_max: u32,
    /// Where control frames come and go.
    pub port: ControlPort,
    /// Stations that get what is for the group as well.
    pub static_peers: Vec<SocketAddr>,
    /// Its queues that this node serves.
    pub queues: Vec<QueuePort>,
}

impl Nic {
    /// Whether a queue of it is still there.
    pub fn is_there(&self) -> bool {
        self.queues.iter().any(|queue| !queue.is_lost())
    }

    fn send(&self, to: Destination, frame: &[u8]) -> io::Result<()> {
        match to {
            Destination::Group(_) => {
                let mut result = self.port.send_to_group(frame);
                for &peer in &self.static_peers {
                    result = result.and(self.port.send(Address::Udp(peer), frame));
                }
                result
            }
            Destination::Node(_, address) => self.port.send(address, frame),
        }
    }
}

/// Sends a control frame by a NIC of its network that is there; the next one
/// takes over when one goes.
///
/// # Errors
/// The kernel's, or that no NIC of the network is left.
pub fn send(nics: &[Nic], to: Destination, frame: &[u8]) -> io::Result<()> {
    let (Destination::Group(network) | Destination::Node(network, _)) = to;
    let nic = nics
        .iter()
        .find(|nic| nic.network == network && nic.is_there());
    nic.ok_or(io::ErrorKind::NetworkUnreachable)?
        .send(to, frame)
}

/// Where the node receives: by the first NIC of each network that is there.
/// `None` if none is.
pub fn addresses(nics: &[Nic]) -> Option<Addresses> {
    let there = nics.iter().filter(|nic| nic.is_there());
    Addresses::first_of_each(there.map(|nic| (nic.network, nic.link.address())))
}

/// Notes that the queue of a worker is gone; names it for people, unless that
/// was known.
pub fn lose(nics: &mut [Nic], worker: usize) -> Option<String> {
    let queues = nics.iter_mut().flat_map(|nic| &mut nic.queues);
    let queue = queues
        .filter(|queue| usize::from(queue.report.worker) == worker)
        .find(|queue| !queue.is_lost())?;
    queue.report.state = BearerState::Lost;
    let report = &queue.report;
    Some(format!(
        "queue {} of interface {:?}",
        report.queue, report.interface
    ))
}
