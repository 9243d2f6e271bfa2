//! The wire: two namespaces and three veth pairs between them, for AF_XDP, for
//! embedded nodes, and for the kernel's UDP, in one NAPI profile. Imports
//! `netns`.
//!
//! Nodes get a pair of their own, because a device takes one XDP program, and
//! on the AF_XDP pair it stays while its contenders come and go.
//!
//! The kernel's UDP gets a pair of its own, because it is to run as a user
//! would run it, without an XDP program on the device.

use std::fs;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::options::Profile;
use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::process;

/// Addresses of the UDP pair.
pub(super) const LEFT_ADDRESS: &str = "10.9.0.1";
/// See [`LEFT_ADDRESS`].
pub(super) const RIGHT_ADDRESS: &str = "10.9.0.2";
const LEFT_MAC: &str = "02:00:5e:00:01:01";
const RIGHT_MAC: &str = "02:00:5e:00:01:02";
/// Packets that the sender's queue holds in the threaded profile.
const QUEUE_LEN: u32 = 1000;

/// Both namespaces and what is between them. Dropping it removes all of it.
pub(super) struct Link {
    /// Where frames are sent.
    pub(super) left: Namespace,
    /// Where they arrive.
    pub(super) right: Namespace,
    /// Its devices' NAPI.
    pub(super) profile: Profile,
    /// Name of the AF_XDP pair, at both ends.
    pub(super) xdp: String,
    /// Name of the nodes' pair, at both ends.
    pub(super) node: String,
    /// Name of the UDP pair, at both ends.
    pub(super) udp: String,
}

impl Link {
    /// Makes all pairs with an MTU of `mtu` bytes and one queue, and brings
    /// them up.
    ///
    /// # Errors
    /// Whatever `ip`, `tc` or the kernel refuse. Nothing is left.
    pub(super) fn create(profile: Profile, mtu: u32) -> Result<Self> {
        Self::with_queues(profile, mtu, 1)
    }

    /// The same with `queues` queues each way: what is sent on one arrives on
    /// the one of the same number.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(super) fn with_queues(profile: Profile, mtu: u32, queues: u32) -> Result<Self> {
        let pid = std::process::id();
        let link = Self {
            left: Namespace::create("left")?,
            right: Namespace::create("right")?,
            profile,
            // A kernel thread is named after its device and has no namespace:
            // no two runs may use the same name. 15 characters at most.
            xdp: format!("w{pid}x"),
            node: format!("w{pid}n"),
            udp: format!("w{pid}u"),
        };
        for namespace in [&link.left, &link.right] {
            namespace.disable_ipv6(true)?;
        }
        for device in [&link.xdp, &link.node, &link.udp] {
            // Queue counts given: a bind to a queue that is not real fails.
            link.left.ip(&format!(
                "link add {device} mtu {mtu} address {LEFT_MAC} numrxqueues {queues} numtxqueues \
                 {queues} type veth peer name {device} mtu {mtu} address {RIGHT_MAC} numrxqueues \
                 {queues} numtxqueues {queues} netns {}",
                link.right.name()
            ))?;
            for namespace in [&link.left, &link.right] {
                if profile == Profile::Threaded {
                    namespace.exec(&format!(
                        "tc qdisc replace dev {device} root pfifo limit {QUEUE_LEN}"
                    ))?;
                }
                namespace.ip(&format!("link set {device} up"))?;
            }
        }
        let ends = [
            (&link.left, LEFT_ADDRESS, RIGHT_ADDRESS, RIGHT_MAC),
            (&link.right, RIGHT_ADDRESS, LEFT_ADDRESS, LEFT_MAC),
        ];
        for (namespace, own, other, other_mac) in ends {
            let device = &link.udp;
            namespace.ip(&format!("addr add {own}/24 dev {device}"))?;
            // No ARP among the frames that are counted.
            namespace.ip(&format!(
                "neigh replace {other} lladdr {other_mac} dev {device} nud permanent"
            ))?;
        }
        if profile == Profile::Threaded {
            // Without GRO or XDP a veth device has no NAPI to make a thread of.
            let udp = &link.udp;
            link.right.exec(&format!("ethtool -K {udp} gro on"))?;
            link.thread_napi(udp)?;
        }
        Ok(link)
    }

    /// Moves the NAPI of the receiving `device` into its kernel thread. Only
    /// possible while the device has a NAPI: for AF_XDP, after XDP is attached.
    ///
    /// # Errors
    /// [`Error::Command`].
    pub(super) fn thread_napi(&self, device: &str) -> Result<()> {
        let script = format!("echo 1 > /sys/class/net/{device}/threaded");
        process::run(self.right.command("sh").args(["-c", &script]))?;
        Ok(())
    }
}

/// Pins the NAPI threads of `device` to `core`; says which they are. A process
/// in a PID namespace of its own does not see them, and leaves them to the
/// scheduler.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn pin_napi(device: &str, core: usize) -> Result<Vec<i32>> {
    let prefix = format!("napi/{device}-");
    let mut set = CpuSet::new();
    set.set(core);
    let mut pinned = Vec::new();
    let processes = fs::read_dir("/proc").map_err(Error::io("list processes"))?;
    for entry in processes.flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        // A process may end between the two looks.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with(&prefix) {
            sched_setaffinity(Some(pid), &set)
                .map_err(Error::errno(format!("pin {}", name.trim())))?;
            pinned.push(pid.as_raw_nonzero().get());
        }
    }
    Ok(pinned)
}
