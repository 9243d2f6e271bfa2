//! Processors: what they can, and which worker is where.

use super::*;

#[test]
fn processors() {
    use Status::{Change, Stop, Unknown};
    let core = |f: &mut Facts, core| f.bearers[0].core = core;
    each_is_found(&[
        (
            &|f| f.cpu.flags = vec!["sse2".into()],
            "cipher instructions",
            Change,
            &["in software", "aes-256-gcm", "chacha20-poly1305"],
        ),
        (
            &|f| f.cpu.flags.clear(),
            "cipher instructions",
            Unknown,
            &["/proc/cpuinfo"],
        ),
        (
            &|f| f.cpu.irqbalance = Reading::Known(true),
            "irqbalance",
            Change,
            &["systemctl disable --now irqbalance"],
        ),
        (
            &|f| f.cpu.irqbalance = Reading::Denied,
            "irqbalance",
            Unknown,
            &["root"],
        ),
        (
            &|f| f.cpu.cores.get_mut(&2).unwrap().governor = Reading::Known("powersave".into()),
            "governor of core 2",
            Change,
            &["cpupower -c 2 frequency-set -g performance"],
        ),
        (
            &|f| core(f, None),
            "core",
            Change,
            &["not pinned", "bearer.core (t.toml:6)", "0, 1, 2, 3"],
        ),
        (
            &|f| core(f, Some(9)),
            "core",
            Stop,
            &["core 9 is not usable", "bearer.core (t.toml:6)"],
        ),
        (
            &|f| f.cpu.isolated.clear(),
            "isolation",
            Change,
            &["isolcpus=2 nohz_full=2"],
        ),
        (
            &|f| sysfs(f).irqs[0].cores = vec![2],
            "interrupt",
            Change,
            &["interrupt 77", "core 2", "/proc/irq/77/smp_affinity_list"],
        ),
        (
            &|f| sysfs(f).irqs[0].cores = vec![3],
            "hyperthread",
            Change,
            &["core 3", "core 2"],
        ),
        (
            &|f| sysfs(f).node = Some(1),
            "NUMA",
            Change,
            &[
                "the NIC is on node 1",
                "core 2 on node 0",
                "bearer.core (t.toml:6)",
            ],
        ),
    ]);
    // ChaCha20 wants no AES; another queue's interrupt disturbs nobody.
    let mut facts = fit();
    facts.cpu.flags = vec!["sse2".into()];
    facts.cpu.suites = vec![Suite::ChaCha20Poly1305];
    sysfs(&mut facts).irqs[0] = Irq {
        number: 78,
        queue: Some(1),
        cores: vec![2],
    };
    assert_eq!(trouble(&facts), []);
}

#[test]
fn two_workers_on_one_core_are_found_at_both() {
    let mut facts = fit();
    let mut second = facts.bearers[0].clone();
    second.interface = "eth2".into();
    facts.bearers.push(second);
    let core = ("core".to_owned(), Status::Change);
    assert_eq!(trouble(&facts), [core.clone(), core]);
    facts.bearers[1].core = Some(3);
    let sibling = ("hyperthread".to_owned(), Status::Change);
    assert_eq!(trouble(&facts)[0], sibling);
}
