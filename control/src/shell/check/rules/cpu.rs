//! Processors: what ciphers get from them, and whether workers have theirs to
//! themselves.

use tipsec_dataplane::secret::Suite;

use super::{ASK_AS_ROOT, Area, list};
use crate::shell::check::facts::{Bearer, Core, Facts, Reading};

pub(super) fn cpu(area: &mut Area<'_>, facts: &Facts) {
    ciphers(area, facts);
    let pinned = facts.bearers.iter().any(|bearer| bearer.core.is_some());
    match facts.cpu.irqbalance {
        Reading::Known(true) if pinned => area.change(
            "irqbalance",
            "runs, and may move interrupts onto a worker's core",
            "systemctl disable --now irqbalance, or ban those cores (IRQBALANCE_BANNED_CPULIST)",
        ),
        Reading::Known(true) => area.ok("irqbalance", "runs; no worker is pinned"),
        Reading::Known(false) => area.ok("irqbalance", "does not run"),
        Reading::Denied | Reading::Absent => {
            area.unknown("irqbalance", "processes of others are hidden", ASK_AS_ROOT);
        }
    }
    for (&number, core) in &facts.cpu.cores {
        governor(area, number, core);
    }
}

fn ciphers(area: &mut Area<'_>, facts: &Facts) {
    let has = |flag: &str| facts.cpu.flags.iter().any(|found| found == flag);
    if facts.cpu.flags.is_empty() {
        area.unknown("cipher instructions", "/proc/cpuinfo names none", "");
        return;
    }
    // `pmull` is Arm's carry-less multiplication.
    let aes = has("aes") && (has("pclmulqdq") || has("pmull"));
    let wide = has("vaes") && has("vpclmulqdq");
    let found = if !aes {
        "no AES: AES-GCM runs in software"
    } else if wide && has("avx512f") {
        "AES and carry-less multiplication, also in vectors (VAES, VPCLMULQDQ) and AVX-512"
    } else if wide && has("avx2") {
        "AES and carry-less multiplication, also in vectors (VAES, VPCLMULQDQ) and AVX2"
    } else {
        "AES and carry-less multiplication, one block at a time"
    };
    let first = facts
        .cpu
        .suites
        .first()
        .copied()
        .unwrap_or(Suite::Aes256Gcm);
    if aes || first == Suite::ChaCha20Poly1305 {
        area.ok(
            "cipher instructions",
            format!("{found}; first suite {}", first.name()),
        );
    } else {
        area.change(
            "cipher instructions",
            format!("{found}; first suite {}", first.name()),
            "in a VM, give it the host's CPU model; else crypto.suites = [\"chacha20-poly1305\", …] on all nodes",
        );
    }
}

fn governor(area: &mut Area<'_>, number: u32, core: &Core) {
    let subject = format!("governor of core {number}");
    match &core.governor {
        Reading::Known(governor) if governor == "performance" => area.ok(&subject, governor),
        Reading::Known(governor) => area.change(
            &subject,
            format!("{governor}: the core slows down between bursts"),
            format!("cpupower -c {number} frequency-set -g performance"),
        ),
        Reading::Absent => area.ok(&subject, "none: the kernel does not scale this core"),
        Reading::Denied => area.unknown(&subject, "not readable for this user", ASK_AS_ROOT),
    }
}

/// Where a bearer's worker runs, and who else runs there.
pub(super) fn worker(area: &mut Area<'_>, facts: &Facts, bearer: &Bearer) {
    let Some(core) = bearer.core else {
        let cores = list(&facts.cpu.usable);
        area.change(
            "core",
            "the worker is not pinned: the kernel may move it",
            format!("set {} to one of {cores}", bearer.at.core),
        );
        return;
    };
    if !facts.cpu.usable.contains(&core) {
        let cores = list(&facts.cpu.usable);
        area.stop(
            "core",
            format!("core {core} is not usable here"),
            format!("set {} to one of {cores}", bearer.at.core),
        );
        return;
    }
    let others: Vec<_> = facts
        .bearers
        .iter()
        .filter(|other| (&other.interface, other.queue) != (&bearer.interface, bearer.queue))
        .filter_map(|other| other.core)
        .collect();
    if others.contains(&core) {
        area.change(
            "core",
            format!("core {core} is also another bearer's"),
            format!("give each bearer its own: {}", bearer.at.core),
        );
    } else {
        area.ok("core", format!("core {core} is this worker's alone"));
    }
    isolation(area, facts, core);
    let irqs = interrupts(area, bearer, core);
    numa(area, facts, bearer, core);
    let siblings = facts
        .cpu
        .cores
        .get(&core)
        .map_or(&[][..], |core| &core.siblings[..]);
    let busy: Vec<_> = siblings
        .iter()
        .copied()
        .filter(|sibling| *sibling != core && (others.contains(sibling) || irqs.contains(sibling)))
        .collect();
    if !busy.is_empty() {
        area.change(
            "hyperthread",
            format!(
                "core {} shares its arithmetic with core {core}",
                list(&busy)
            ),
            format!(
                "move this worker ({}), or leave the sibling idle",
                bearer.at.core
            ),
        );
    }
}

fn isolation(area: &mut Area<'_>, facts: &Facts, core: u32) {
    let isolated = facts.cpu.isolated.contains(&core);
    let nohz = facts.cpu.nohz_full.contains(&core);
    match (isolated, nohz) {
        (true, true) => area.ok("isolation", "isolcpus and nohz_full"),
        (true, false) => area.ok("isolation", "isolcpus; the timer still ticks (nohz_full)"),
        (false, _) => area.change(
            "isolation",
            format!("other tasks may run on core {core}"),
            format!("for steady latency boot with isolcpus={core} nohz_full={core}"),
        ),
    }
}

/// The cores that the queue's interrupts go to.
fn interrupts(area: &mut Area<'_>, bearer: &Bearer, core: u32) -> Vec<u32> {
    let sysfs = bearer.nic.as_ref().and_then(|nic| nic.sysfs.as_ref());
    let irqs = sysfs.map_or(&[][..], |sysfs| &sysfs.irqs[..]);
    let mut cores = Vec::new();
    for irq in irqs.iter().filter(|irq| irq.queue == Some(bearer.queue)) {
        cores.extend(&irq.cores);
        let number = irq.number;
        if irq.cores.contains(&core) {
            let why = if bearer.spin {
                ", where the worker never sleeps"
            } else {
                ", where it preempts the worker"
            };
            let found = format!("interrupt {number} of the queue is on core {core}{why}");
            let advice = format!("echo OTHER_CORE > /proc/irq/{number}/smp_affinity_list");
            area.change("interrupt", found, advice);
        } else {
            let found = format!(
                "interrupt {number} of the queue is on core {}",
                list(&irq.cores)
            );
            area.ok("interrupt", found);
        }
    }
    cores
}

fn numa(area: &mut Area<'_>, facts: &Facts, bearer: &Bearer, core: u32) {
    let of_core = facts.cpu.cores.get(&core).and_then(|core| core.node);
    let sysfs = bearer.nic.as_ref().and_then(|nic| nic.sysfs.as_ref());
    let of_nic = sysfs.and_then(|sysfs| sysfs.node);
    match (of_core, of_nic) {
        (Some(of_core), Some(of_nic)) if of_core != of_nic => area.change(
            "NUMA",
            format!("the NIC is on node {of_nic}, core {core} on node {of_core}"),
            format!(
                "set {} to a core of node {of_nic} (`lscpu -e`)",
                bearer.at.core
            ),
        ),
        (Some(of_core), Some(_)) => area.ok("NUMA", format!("NIC and core are on node {of_core}")),
        // One of them is on no node: there is nothing to be far from.
        _ => {}
    }
}
