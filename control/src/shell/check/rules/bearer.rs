//! One bearer's device: whether it can carry the cluster, and how well.

use tipsec_dataplane::attach::{MTU_MAX, MTU_MIN};
use tipsec_dataplane::bearer::xdp::NapiProfile;

use super::{Area, cpu, files, steering, vlan};
use crate::config::ModeChoice;
use crate::shell::check::drivers;
use crate::shell::check::facts::{Bearer, Facts, Link, Nic, Sysfs};
use crate::shell::check::parse::kernel_version;

/// Name of our XDP program in the kernel.
const OUR_PROGRAM: &str = tipsec_xdp::config::PROGRAM;
/// Entries of a NIC's receive ring that hold a burst's worth of delay.
const RX_RING_WANTED: u32 = 1024;
/// Interrupt delay in µs that is felt in every round trip.
const RX_USECS_FELT: u32 = 100;

pub(super) fn bearer(area: &mut Area<'_>, facts: &Facts, bearer: &Bearer) {
    link(area, bearer);
    let Some(nic) = &bearer.nic else {
        return;
    };
    if let Some(sysfs) = &nic.sysfs {
        carrier(area, bearer, sysfs);
        membership(area, bearer, sysfs);
    } else {
        area.unknown(
            "sysfs",
            "/sys shows another network namespace: carrier, NUMA node, interrupts and ports of \
             bridges are not known",
            "enter the namespace with `ip netns exec`, which mounts its own",
        );
    }
    mode(area, facts, bearer, nic);
    program(area, facts, bearer, nic);
    steering::queue(area, bearer, nic);
    cpu::worker(area, facts, bearer);
    offloads(area, bearer, nic);
    timing(area, bearer, nic);
    // With UDP the kernel's own packets are what the next hop is found by.
    if bearer.udp {
        return;
    }
    if nic.ipv6_off == Some(false) {
        let name = &bearer.interface;
        area.change(
            "IPv6",
            "on: the kernel sends neighbour discovery and multicast reports in clear",
            format!(
                "if {name} carries the cluster alone: sysctl -w net.ipv6.conf.{name}.disable_ipv6=1"
            ),
        );
    } else if nic.ipv6_off == Some(true) {
        area.ok("IPv6", "off");
    }
}

fn link(area: &mut Area<'_>, bearer: &Bearer) {
    let name = &bearer.interface;
    let at = &bearer.at.interface;
    match &bearer.link {
        Link::Usable { mtu, mac } => {
            area.ok("link", format!("up, address {mac}"));
            area.ok("MTU", format!("{mtu} bytes, of {MTU_MIN} to {MTU_MAX}"));
        }
        Link::Missing => area.stop(
            "link",
            format!("there is no interface {name:?} in this network namespace"),
            format!("choose one of `ip link`: {at}"),
        ),
        Link::Down => area.stop("link", "down", format!("ip link set {name} up")),
        Link::Mtu(mtu) => {
            area.ok("link", "up");
            let fit = (*mtu).clamp(MTU_MIN, MTU_MAX);
            area.stop(
                "MTU",
                format!("{mtu} bytes, but {MTU_MIN} to {MTU_MAX} are supported"),
                format!("ip link set {name} mtu {fit} (on all nodes)"),
            );
        }
        Link::Refused(error) => area.stop("link", error, format!("choose another: {at}")),
    }
}

fn carrier(area: &mut Area<'_>, bearer: &Bearer, sysfs: &Sysfs) {
    match sysfs.carrier {
        Some(true) => area.ok("carrier", "there"),
        Some(false) => area.change(
            "carrier",
            "none: nothing will arrive",
            format!(
                "look at the cable and the switch port; ethtool {}",
                bearer.interface
            ),
        ),
        // Of a device that is down, which `link` says.
        None => {}
    }
}

fn membership(area: &mut Area<'_>, bearer: &Bearer, sysfs: &Sysfs) {
    let name = &bearer.interface;
    let Some(master) = &sysfs.master else {
        area.ok("membership", "a port of nothing");
        return;
    };
    // A VRF only has its own routes; frames of the port are left alone.
    if master.kind == "vrf" {
        area.ok("membership", format!("in VRF {}", master.name));
        return;
    }
    let kind = match master.kind.as_str() {
        "" => "device",
        kind => kind,
    };
    let why = match kind {
        "bridge" => "handshakes and beacons go on to its other ports",
        "bond" | "team" => "frames for its address may arrive at the other ports",
        _ => "what that does with frames is not known here",
    };
    let found = format!("it is a port of {kind} {}: {why}", master.name);
    let advice = format!(
        "ip link set {name} nomaster, or another {}",
        bearer.at.interface
    );
    if kind == "bridge" {
        area.change("membership", found, advice);
    } else {
        area.stop("membership", found, advice);
    }
}

fn mode(area: &mut Area<'_>, facts: &Facts, bearer: &Bearer, nic: &Nic) {
    let Some(driver) = &nic.driver else {
        area.unknown("driver", "it does not tell its name", "");
        return;
    };
    let told = format!("{} {}", driver.name, driver.version);
    let told = told.trim();
    let Some(modes) = drivers::modes(&driver.name) else {
        area.unknown(
            "driver",
            format!("{told}: what it does with AF_XDP is not known here"),
            "`tipsec-keyctl status` says which mode it got",
        );
        return;
    };
    let version = kernel_version(&facts.kernel.release);
    let zero_copy = modes.zero_copy.is_in(version);
    let native = modes.native.is_in(version) && !keeps_xdp_out(area, facts, bearer, nic);
    let at = &bearer.at.mode;
    match (bearer.mode, native, zero_copy) {
        (ModeChoice::ZeroCopy, false, _) | (ModeChoice::ZeroCopy, _, false) => area.stop(
            "driver",
            format!("{told} has no zero-copy in this kernel"),
            format!("set {at} to \"auto\""),
        ),
        (ModeChoice::NativeCopy, false, _) => area.stop(
            "driver",
            format!("{told} has no XDP of its own here"),
            format!("set {at} to \"auto\""),
        ),
        (ModeChoice::Generic, true, _) => area.change(
            "driver",
            format!("{told} has XDP of its own, but generic mode is configured"),
            format!("set {at} to \"auto\""),
        ),
        (ModeChoice::Generic, false, _) => area.ok("driver", format!("{told}, generic mode")),
        (ModeChoice::NativeCopy, true, true) => area.change(
            "driver",
            format!("{told} has zero-copy, but native copy is configured"),
            format!("set {at} to \"auto\""),
        ),
        (ModeChoice::NativeCopy, true, false) | (ModeChoice::Auto, true, false) => {
            area.ok("driver", format!("{told}: native XDP with a copy"));
        }
        (ModeChoice::Auto | ModeChoice::ZeroCopy, true, true) => {
            area.ok("driver", format!("{told}: zero-copy"));
        }
        (ModeChoice::Auto, false, _) => area.change(
            "driver",
            format!("{told}: generic mode only, the slowest"),
            "another NIC; docs/nic-tuning.md has what drivers can do",
        ),
    }
}

/// What makes a driver that has XDP refuse a program.
fn keeps_xdp_out(area: &mut Area<'_>, facts: &Facts, bearer: &Bearer, nic: &Nic) -> bool {
    match &nic.driver {
        Some(driver) if driver.name == "virtio_net" => host_merges(area, bearer, nic),
        // Amazon's own driver, which has versions of its own, needs no half.
        Some(driver) if driver.name == "ena" && driver.version == facts.kernel.release => {
            channels_are_short(area, bearer, nic)
        }
        _ => false,
    }
}

/// virtio takes no program while the host merges received frames and the guest
/// cannot make it stop.
fn host_merges(area: &mut Area<'_>, bearer: &Bearer, nic: &Nic) -> bool {
    let merging = nic
        .features
        .get("rx-gro-hw")
        .is_some_and(|gro| gro.on && !gro.changeable);
    if merging {
        area.change(
            "host offloads",
            "the host merges received frames and does not let the guest switch that off: the \
             driver refuses XDP",
            format!(
                "at the host, for the NIC behind {}: ctrl_guest_offloads=on, or \
                 guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off (QEMU)",
                bearer.interface
            ),
        );
    }
    merging
}

/// The kernel's ena driver gives each queue another one to send XDP frames.
fn channels_are_short(area: &mut Area<'_>, bearer: &Bearer, nic: &Nic) -> bool {
    let Some(queues) = nic.queues.filter(|queues| queues.rx > queues.rx_max / 2) else {
        return false;
    };
    area.change(
        "channels",
        format!(
            "{} of {} are in use: the driver refuses XDP above half",
            queues.rx, queues.rx_max
        ),
        format!(
            "ethtool -L {} combined {}",
            bearer.interface,
            (queues.rx_max / 2).max(1)
        ),
    );
    true
}

fn program(area: &mut Area<'_>, facts: &Facts, bearer: &Bearer, nic: &Nic) {
    let name = &bearer.interface;
    if let Some(error) = &nic.program_unread {
        area.unknown("XDP program", error, format!("ip link show dev {name}"));
        return;
    }
    let Some(program) = &nic.program else {
        area.ok("XDP program", "none");
        return;
    };
    let told = if program.name.is_empty() {
        format!("id {}", program.id)
    } else {
        format!("id {} ({})", program.id, program.name)
    };
    // The name is not told to everybody.
    let ours = program.name == OUR_PROGRAM || program.name.is_empty();
    if ours && files::is_running(facts) {
        area.ok("XDP program", format!("{told}, of the daemon that runs"));
    } else if program.name.is_empty() && !facts.privilege.as_daemon {
        area.unknown(
            "XDP program",
            format!("{told} is on it; whose is not told to this user"),
            super::ASK_AS_ROOT,
        );
    } else {
        area.stop(
            "XDP program",
            format!("{told} is on it; Tipsec never evicts one"),
            format!("stop its owner, or: ip link set dev {name} xdp off"),
        );
    }
}

fn offloads(area: &mut Area<'_>, bearer: &Bearer, nic: &Nic) {
    let name = &bearer.interface;
    let feature = |kernel_name: &str| nic.features.get(kernel_name);
    match feature("rx-lro") {
        Some(lro) if lro.on => area.change(
            "LRO",
            "on: many drivers refuse XDP, or merge frames that it must see one by one",
            format!("ethtool -K {name} lro off"),
        ),
        Some(_) => area.ok("LRO", "off"),
        None => {}
    }
    vlan::tags(area, bearer, nic);
    match nic.pause {
        Some(pause) if pause.rx || pause.tx => area.change(
            "flow control",
            "on: a slow receiver elsewhere can stop this link for all peers",
            format!("unless the fabric is to be lossless: ethtool -A {name} rx off tx off"),
        ),
        Some(_) => area.ok("flow control", "off"),
        None => {}
    }
}

fn timing(area: &mut Area<'_>, bearer: &Bearer, nic: &Nic) {
    let name = &bearer.interface;
    if let Some(rings) = nic.rings.filter(|rings| rings.rx_max > 0) {
        let wanted = RX_RING_WANTED.min(rings.rx_max);
        let found = format!(
            "rx {} of {}, tx {} of {} entries",
            rings.rx, rings.rx_max, rings.tx, rings.tx_max
        );
        if rings.rx < wanted {
            area.change(
                "ring sizes",
                found,
                format!("ethtool -G {name} rx {wanted}"),
            );
        } else {
            area.ok("ring sizes", found);
        }
    }
    if let Some(coalescing) = nic.coalescing {
        let adaptive = if coalescing.adaptive_rx {
            ", adaptive"
        } else {
            ""
        };
        let found = format!(
            "rx {} µs{adaptive}, tx {} µs",
            coalescing.rx_usecs, coalescing.tx_usecs
        );
        if coalescing.rx_usecs > RX_USECS_FELT && !coalescing.adaptive_rx {
            let advice = format!("ethtool -C {name} rx-usecs 20");
            area.change("coalescing", found, advice);
        } else {
            area.ok("coalescing", found);
        }
    }
    let Some(sysfs) = &nic.sysfs else {
        return;
    };
    if let (Some(defer), Some(timeout_ns)) = (sysfs.defer_hard_irqs, sysfs.gro_flush_timeout_ns) {
        let place = match sysfs.threaded {
            Some(true) => "in a thread of its own",
            Some(false) => "in the softirq",
            None => "where the driver puts it",
        };
        let found =
            format!("{place}; napi_defer_hard_irqs {defer}, gro_flush_timeout {timeout_ns} ns");
        if sysfs.threaded == Some(true) && bearer.napi == NapiProfile::Inline {
            let advice = format!("set {} to \"threaded\"", bearer.at.napi);
            area.change("NAPI", format!("{found}; configured as inline"), advice);
        } else {
            area.ok("NAPI", found);
        }
    }
}
