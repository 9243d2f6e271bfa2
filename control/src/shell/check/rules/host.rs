//! Configuration, kernel, privilege and memory.

use tipsec_dataplane::attach::KERNEL_FLOOR;

use super::{ASK_AS_ROOT, Area};
use crate::shell::check::facts::{AfXdp, Bearer, ConfigState, Facts, Link, Reading};
use crate::shell::check::parse::kernel_version;

const HUGE_PAGE: u64 = 2 << 20;
/// Frames of several buffers for AF_XDP (XDP_USE_SG).
const MULTI_BUFFER: (u32, u32) = (6, 6);

pub(super) fn configuration(area: &mut Area<'_>, facts: &Facts) {
    const WITHOUT: &str = "the rest of this check is without it, and so without bearers";
    match &facts.config {
        ConfigState::Good(file) => area.ok("file", file),
        ConfigState::Wrong(error) => area.stop("file", error, WITHOUT),
        ConfigState::Denied(error) => {
            area.unknown("file", error, format!("{ASK_AS_ROOT}; {WITHOUT}"));
        }
    }
}

pub(super) fn kernel(area: &mut Area<'_>, facts: &Facts) {
    let kernel = &facts.kernel;
    let version = kernel_version(&kernel.release);
    if version < KERNEL_FLOOR {
        area.stop(
            "release",
            format!("{} is too old", kernel.release),
            format!("boot Linux {}.{} or newer", KERNEL_FLOOR.0, KERNEL_FLOOR.1),
        );
    } else {
        area.ok("release", &kernel.release);
    }
    match kernel.af_xdp {
        AfXdp::There { tx_budget } => {
            area.ok("AF_XDP", "there");
            area.ok(
                "TX budget",
                if tx_budget {
                    "XDP_MAX_TX_SKB_BUDGET is there"
                } else {
                    "no XDP_MAX_TX_SKB_BUDGET (Linux 6.17 has it): in copy mode a system call \
                     sends at most 32 frames"
                },
            );
        }
        AfXdp::Missing => area.stop(
            "AF_XDP",
            "this kernel has none",
            "boot a kernel with CONFIG_XDP_SOCKETS",
        ),
        AfXdp::Denied => area.unknown(
            "AF_XDP",
            "this user may not make such a socket",
            ASK_AS_ROOT,
        ),
    }
    area.ok(
        "multi-buffer",
        if version >= MULTI_BUFFER {
            "AF_XDP has it"
        } else {
            "AF_XDP has none before Linux 6.6: a frame must fit one buffer"
        },
    );
    match kernel.jit {
        Reading::Known(0) => area.change(
            "BPF JIT",
            "off: the XDP program is interpreted",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Reading::Known(_) => area.ok("BPF JIT", "on"),
        Reading::Denied => area.unknown("BPF JIT", "not readable for this user", ASK_AS_ROOT),
        // Not shown in every network namespace.
        Reading::Absent => {}
    }
    area.ok(
        "BTF",
        if kernel.btf {
            "/sys/kernel/btf/vmlinux is there"
        } else {
            "no /sys/kernel/btf/vmlinux: not needed to load the program"
        },
    );
    if let Some(source) = kernel.clocksource.known() {
        match source.as_str() {
            "hpet" | "acpi_pm" | "jiffies" | "refined-jiffies" | "pit" => area.change(
                "clocksource",
                format!("{source}: each look at the clock is slow"),
                "see `dmesg | grep -i -e tsc -e clocksource` for why it is not tsc",
            ),
            _ => area.ok("clocksource", source),
        }
    }
    if let (Some(read), Some(poll)) = (kernel.busy.0.known(), kernel.busy.1.known()) {
        area.ok(
            "busy polling",
            format!("net.core.busy_read {read} µs, net.core.busy_poll {poll} µs"),
        );
    }
}

pub(super) fn privilege(area: &mut Area<'_>, facts: &Facts) {
    let privilege = &facts.privilege;
    if privilege.missing.is_empty() {
        area.ok("capabilities", "CAP_NET_ADMIN, CAP_BPF and CAP_NET_RAW");
    }
    for (name, purpose) in &privilege.missing {
        let found = format!("not there, but needed to {purpose}");
        if privilege.as_daemon {
            let advice = format!("start as root, or systemd: AmbientCapabilities={name}");
            area.stop(name, found, advice);
        } else {
            area.unknown(
                name,
                format!("this user has none; it is needed to {purpose}"),
                ASK_AS_ROOT,
            );
        }
    }
    let needed = facts.memory.umem_bytes;
    match privilege.memlock_limit {
        Some(limit) if limit < needed => {
            let found = format!("{limit} bytes may be locked, frame memory takes {needed}");
            if privilege.as_daemon {
                area.stop(
                    "locked memory",
                    found,
                    "systemd: LimitMEMLOCK=infinity, or give CAP_IPC_LOCK",
                );
            } else {
                area.unknown(
                    "locked memory",
                    format!("for this user {found}"),
                    ASK_AS_ROOT,
                );
            }
        }
        Some(limit) => area.ok(
            "locked memory",
            format!("{limit} bytes may be locked, frame memory takes {needed}"),
        ),
        None => area.ok(
            "locked memory",
            format!("no limit; frame memory takes {needed} bytes"),
        ),
    }
}

pub(super) fn memory(area: &mut Area<'_>, facts: &Facts) {
    let wanted = facts.memory.umem_bytes.div_ceil(HUGE_PAGE);
    match facts.memory.huge_free {
        Reading::Known(free) if free >= wanted => area.ok(
            "huge pages",
            format!("{free} of 2 MiB are free; frame memory fills {wanted}"),
        ),
        Reading::Known(free) => area.change(
            "huge pages",
            format!("{free} of 2 MiB are free; frame memory would fill {wanted}"),
            format!(
                "sysctl -w vm.nr_hugepages={wanted} (more if others use them); without, frame \
                 memory is in pages of 4 KiB"
            ),
        ),
        Reading::Absent => area.ok(
            "huge pages",
            "this kernel has none of 2 MiB: frame memory is in small pages",
        ),
        Reading::Denied => area.unknown("huge pages", "not readable for this user", ASK_AS_ROOT),
    }
    // Copy mode charges every frame in flight to the socket's send buffer,
    // which the kernel doubles and net.core.wmem_max bounds before.
    let Some(&wmem_max) = facts.kernel.wmem_max.known() else {
        return;
    };
    let in_flight = |bearer: &Bearer| {
        let mtu = match bearer.link {
            Link::Usable { mtu, .. } => mtu,
            _ => 1500,
        };
        bearer.in_flight as u64 * send_buffer_cost(mtu)
    };
    let Some(needed) = facts.bearers.iter().map(in_flight).max() else {
        return;
    };
    if 2 * wmem_max >= needed {
        area.ok(
            "net.core.wmem_max",
            format!("{wmem_max} bytes hold all frames in flight"),
        );
    } else {
        area.change(
            "net.core.wmem_max",
            format!("{wmem_max} bytes, doubled, do not hold the {needed} of all frames in flight"),
            format!(
                "sysctl -w net.core.wmem_max={}, or a smaller bearer.tx_depth",
                needed.div_ceil(2)
            ),
        );
    }
}

/// Bytes that a frame of this MTU costs in the kernel: data, headroom and
/// shared info in one slab object, and the socket buffer's own 256.
fn send_buffer_cost(mtu: u32) -> u64 {
    const HEADERS_AND_HEADROOM: u64 = 14 + 64;
    const SHARED_INFO: u64 = 320;
    (u64::from(mtu) + HEADERS_AND_HEADROOM + SHARED_INFO).next_power_of_two() + 256
}
