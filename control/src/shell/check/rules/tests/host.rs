//! Kernel, privilege, memory, configuration.

use super::*;

#[test]
fn host() {
    use Status::{Change, Stop, Unknown};
    each_is_found(&[
        (
            &|f| f.kernel.release = "6.0.9".into(),
            "release",
            Stop,
            &["6.0.9", "6.1"],
        ),
        (
            &|f| f.kernel.af_xdp = AfXdp::Missing,
            "AF_XDP",
            Stop,
            &["CONFIG_XDP_SOCKETS"],
        ),
        (
            &|f| f.kernel.af_xdp = AfXdp::Denied,
            "AF_XDP",
            Unknown,
            &["root"],
        ),
        (
            &|f| f.kernel.jit = Reading::Known(0),
            "BPF JIT",
            Change,
            &["sysctl -w net.core.bpf_jit_enable=1"],
        ),
        (
            &|f| f.kernel.jit = Reading::Denied,
            "BPF JIT",
            Unknown,
            &["root"],
        ),
        (
            &|f| f.kernel.clocksource = Reading::Known("hpet".into()),
            "clocksource",
            Change,
            &["hpet", "dmesg"],
        ),
        (
            // 64 frames of 2048 + 256 bytes, halved.
            &|f| f.kernel.wmem_max = Reading::Known(73_727),
            "net.core.wmem_max",
            Change,
            &["147456", "sysctl -w net.core.wmem_max=73728"],
        ),
        (
            &|f| f.privilege.missing = vec![("CAP_NET_RAW", "open sockets")],
            "CAP_NET_RAW",
            Stop,
            &["open sockets", "AmbientCapabilities=CAP_NET_RAW"],
        ),
        (
            &|f| {
                f.privilege.as_daemon = false;
                f.privilege.missing = vec![("CAP_NET_RAW", "open sockets")];
            },
            "CAP_NET_RAW",
            Unknown,
            &["open sockets", "root"],
        ),
        (
            &|f| f.privilege.memlock_limit = Some((16 << 20) - 1),
            "locked memory",
            Stop,
            &["16777215", "16777216", "LimitMEMLOCK"],
        ),
        (
            &|f| {
                f.privilege.as_daemon = false;
                f.privilege.memlock_limit = Some(8 << 20);
            },
            "locked memory",
            Unknown,
            &["8388608"],
        ),
        (
            &|f| f.memory.huge_free = Reading::Known(7),
            "huge pages",
            Change,
            &["7 of 2 MiB", "vm.nr_hugepages=8"],
        ),
        (
            &|f| f.config = ConfigState::Wrong("t.toml:3: node: missing".into()),
            "file",
            Stop,
            &["t.toml:3: node: missing"],
        ),
        (
            &|f| f.config = ConfigState::Denied("t.toml: Permission denied".into()),
            "file",
            Unknown,
            &["t.toml", "root"],
        ),
    ]);
}

#[test]
fn boundaries_are_on_the_right_side() {
    let mut facts = fit();
    facts.kernel.release = "6.1.0".into();
    facts.kernel.wmem_max = Reading::Known(73_728);
    facts.privilege.memlock_limit = Some(16 << 20);
    assert_eq!(trouble(&facts), []);
}
