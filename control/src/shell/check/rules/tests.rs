//! Each rule by a machine that was made up: a fit one, and one thing about it
//! changed.

use std::collections::BTreeMap;

use tipsec_dataplane::secret::Suite;

use super::*;
use crate::config::ModeChoice;
use crate::shell::check::Report;
use crate::shell::check::facts::{
    Admin, AdminState, AfXdp, Bearer, Coalescing, ConfigState, Core, Cpu, Driver, Feature, Files,
    Irq, Kernel, KeyringState, Link, Master, Memory, Nic, Pause, Places, Privilege, Program,
    Queues, Reading, Rings, State, Sysfs,
};

const ON: Feature = Feature {
    on: true,
    changeable: true,
};
const OFF: Feature = Feature {
    on: false,
    changeable: true,
};

/// A machine about which there is nothing to say.
fn fit() -> Facts {
    let core = |siblings: &[u32]| Core {
        governor: Reading::Known("performance".into()),
        siblings: siblings.to_vec(),
        node: Some(0),
    };
    Facts {
        config: ConfigState::Good("t.toml".into()),
        kernel: Kernel {
            release: "6.17.1".into(),
            af_xdp: AfXdp::There { tx_budget: true },
            jit: Reading::Known(1),
            btf: true,
            clocksource: Reading::Known("tsc".into()),
            wmem_max: Reading::Known(4 << 20),
            busy: (Reading::Known(0), Reading::Known(0)),
        },
        privilege: Privilege {
            as_daemon: true,
            missing: Vec::new(),
            memlock_limit: None,
        },
        memory: Memory {
            umem_bytes: 16 << 20,
            huge_free: Reading::Known(8),
        },
        cpu: Cpu {
            flags: ["aes", "pclmulqdq", "vaes", "vpclmulqdq", "avx2"]
                .map(str::to_owned)
                .to_vec(),
            suites: vec![Suite::Aes256Gcm],
            usable: vec![0, 1, 2, 3],
            isolated: vec![2, 3],
            nohz_full: vec![2, 3],
            irqbalance: Reading::Known(false),
            cores: BTreeMap::from([(2, core(&[2, 3]))]),
        },
        files: Files {
            tun: Reading::Known(()),
            tap_name: "tipsec0".into(),
            tap_taken: false,
            state: Some(State {
                path: "/var/lib/tipsec".into(),
                keyring: Reading::Known(KeyringState::Stored),
            }),
            admin: Some(Admin {
                path: "/run/tipsec/admin.sock".into(),
                state: AdminState::Free,
            }),
        },
        bearers: vec![Bearer {
            interface: "eth1".into(),
            queue: 0,
            core: Some(2),
            mode: ModeChoice::Auto,
            spin: false,
            udp: false,
            vlan: None,
            in_flight: 64,
            at: Places {
                interface: "bearer.interface (t.toml:4)".into(),
                queue: "bearer.queue (t.toml:5)".into(),
                core: "bearer.core (t.toml:6)".into(),
                mode: "bearer.mode (t.toml:7)".into(),
                vlan: "bearer.vlan (t.toml:8)".into(),
            },
            link: Link::Usable {
                mtu: 1500,
                mac: "02:00:00:00:00:01".into(),
            },
            nic: Some(Nic {
                driver: Some(Driver {
                    name: "ice".into(),
                    version: "6.17.1".into(),
                }),
                queues: Some(Queues {
                    rx: 4,
                    rx_max: 8,
                    combined: 4,
                }),
                rings: Some(Rings {
                    rx: 2048,
                    rx_max: 8160,
                    tx: 256,
                    tx_max: 8160,
                }),
                coalescing: Some(Coalescing {
                    rx_usecs: 50,
                    tx_usecs: 50,
                    adaptive_rx: true,
                }),
                pause: Some(Pause {
                    rx: false,
                    tx: false,
                }),
                features: BTreeMap::from([
                    ("rx-lro".into(), OFF),
                    ("rx-vlan-hw-parse".into(), OFF),
                    ("rx-ntuple-filter".into(), ON),
                ]),
                flow_rules: Some(0),
                program: None,
                program_unread: None,
                ipv6_off: Some(true),
                sysfs: Some(Sysfs {
                    carrier: Some(true),
                    node: Some(0),
                    master: None,
                    threaded: Some(false),
                    defer_hard_irqs: Some(0),
                    gro_flush_timeout_ns: Some(0),
                    irqs: vec![Irq {
                        number: 77,
                        queue: Some(0),
                        cores: vec![1],
                    }],
                }),
            }),
        }],
    }
}

fn nic(facts: &mut Facts) -> &mut Nic {
    facts.bearers[0].nic.as_mut().unwrap()
}

fn sysfs(facts: &mut Facts) -> &mut Sysfs {
    nic(facts).sysfs.as_mut().unwrap()
}

fn switch_on(facts: &mut Facts, feature: &str) {
    nic(facts).features.insert(feature.to_owned(), ON);
}

/// What is not fine: subject and status of each.
fn trouble(facts: &Facts) -> Vec<(String, Status)> {
    findings(facts)
        .into_iter()
        .filter(|finding| finding.status != Status::Ok)
        .map(|finding| (finding.subject, finding.status))
        .collect()
}

/// A change of the machine, then subject, status and words of the one finding
/// that must come of it.
type Case<'a> = (&'a dyn Fn(&mut Facts), &'a str, Status, &'a [&'a str]);

#[track_caller]
fn each_is_found(cases: &[Case<'_>]) {
    for (number, (change, subject, status, words)) in cases.iter().enumerate() {
        let mut facts = fit();
        change(&mut facts);
        let expected = [((*subject).to_owned(), *status)];
        assert_eq!(trouble(&facts), expected, "case {number}");
        let found = findings(&facts)
            .into_iter()
            .find(|finding| finding.status != Status::Ok)
            .unwrap();
        let text = format!("{} > {}", found.found, found.advice);
        for word in *words {
            assert!(
                text.contains(word),
                "case {number}: {word:?} is not in {text:?}"
            );
        }
    }
}

#[test]
fn a_fit_machine_has_nothing_to_change() {
    let facts = fit();
    assert_eq!(trouble(&facts), []);
    let report = Report::new(findings(&facts));
    assert_eq!(report.verdict, Status::Ok);
    assert!(!report.prevents_operation());
    let areas: Vec<_> = report
        .findings
        .iter()
        .map(|finding| finding.area.as_str())
        .collect();
    assert_eq!(areas.first(), Some(&"configuration"));
    assert_eq!(areas.last(), Some(&"bearer eth1 queue 0"));
}

#[test]
fn the_worst_finding_is_the_verdict() {
    let mut facts = fit();
    facts.kernel.jit = Reading::Known(0);
    assert_eq!(Report::new(findings(&facts)).verdict, Status::Change);
    facts.kernel.release = "5.15.0".into();
    let report = Report::new(findings(&facts));
    assert_eq!(report.verdict, Status::Stop);
    assert!(report.prevents_operation());
}

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

#[test]
fn files() {
    use Status::{Change, Stop, Unknown};
    let keyring = |f: &mut Facts, state| f.files.state.as_mut().unwrap().keyring = state;
    let admin = |f: &mut Facts, state| f.files.admin.as_mut().unwrap().state = state;
    each_is_found(&[
        (
            &|f| f.files.tun = Reading::Absent,
            "tap driver",
            Stop,
            &["modprobe tun"],
        ),
        (
            &|f| f.files.tun = Reading::Denied,
            "tap driver",
            Unknown,
            &["/dev/net/tun"],
        ),
        (
            &|f| f.files.tap_taken = true,
            "tap name",
            Stop,
            &["ip link del tipsec0"],
        ),
        (
            &|f| keyring(f, Reading::Known(KeyringState::Empty)),
            "state_dir",
            Change,
            &["/var/lib/tipsec", "tipsec-keyctl master set"],
        ),
        (
            &|f| {
                keyring(
                    f,
                    Reading::Known(KeyringState::Damaged("the copy is used".into())),
                )
            },
            "state_dir",
            Change,
            &["the copy is used", "tipsec-keyctl master status"],
        ),
        (
            &|f| keyring(f, Reading::Known(KeyringState::NoParent)),
            "state_dir",
            Stop,
            &["install -d -m 0700 /var/lib/tipsec"],
        ),
        (
            &|f| {
                keyring(
                    f,
                    Reading::Known(KeyringState::Refused("chmod 0700 it".into())),
                )
            },
            "state_dir",
            Stop,
            &["chmod 0700 it"],
        ),
        (
            &|f| keyring(f, Reading::Denied),
            "state_dir",
            Unknown,
            &["root"],
        ),
        (
            &|f| admin(f, AdminState::NotASocket),
            "admin socket",
            Stop,
            &["not a socket"],
        ),
        (
            &|f| admin(f, AdminState::Denied),
            "admin socket",
            Unknown,
            &["root"],
        ),
        (
            &|f| admin(f, AdminState::Refused("path too long".into())),
            "admin socket",
            Stop,
            &["path too long"],
        ),
    ]);
}

#[test]
fn a_running_daemon_is_not_in_its_own_way() {
    let mut facts = fit();
    facts.files.admin.as_mut().unwrap().state = AdminState::Served(Some(42));
    facts.files.tap_taken = true;
    let program = |name: &str| {
        Some(Program {
            id: 7,
            name: name.into(),
        })
    };
    nic(&mut facts).program = program("tipsec_xdp");
    assert_eq!(trouble(&facts), []);
    let told = findings(&facts);
    assert!(
        told.iter()
            .any(|finding| finding.found.contains("running (pid 42)"))
    );
    // Somebody else's program is, all the same.
    nic(&mut facts).program = program("cilium");
    assert_eq!(trouble(&facts), [("XDP program".to_owned(), Status::Stop)]);
    // And so is ours without its daemon: another tipsecd has the NIC.
    facts.files.admin.as_mut().unwrap().state = AdminState::Free;
    facts.files.tap_taken = false;
    nic(&mut facts).program = program("tipsec_xdp");
    assert_eq!(trouble(&facts), [("XDP program".to_owned(), Status::Stop)]);
}

#[test]
fn links() {
    use Status::{Change, Stop, Unknown};
    let link = |f: &mut Facts, link| f.bearers[0].link = link;
    let port_of = |f: &mut Facts, kind: &str| {
        sysfs(f).master = Some(Master {
            name: "m0".into(),
            kind: kind.into(),
        });
    };
    each_is_found(&[
        (
            &|f| {
                link(f, Link::Missing);
                f.bearers[0].nic = None;
            },
            "link",
            Stop,
            &["\"eth1\"", "ip link", "bearer.interface (t.toml:4)"],
        ),
        (
            &|f| link(f, Link::Down),
            "link",
            Stop,
            &["ip link set eth1 up"],
        ),
        (
            &|f| link(f, Link::Mtu(9500)),
            "MTU",
            Stop,
            &["9500", "ip link set eth1 mtu 9216"],
        ),
        (
            &|f| link(f, Link::Mtu(576)),
            "MTU",
            Stop,
            &["ip link set eth1 mtu 1280"],
        ),
        (
            &|f| link(f, Link::Refused("not an Ethernet device".into())),
            "link",
            Stop,
            &["not an Ethernet device"],
        ),
        (
            &|f| sysfs(f).carrier = Some(false),
            "carrier",
            Change,
            &["nothing will arrive"],
        ),
        (
            &|f| port_of(f, "bridge"),
            "membership",
            Change,
            &["bridge m0", "nomaster"],
        ),
        (&|f| port_of(f, "bond"), "membership", Stop, &["bond m0"]),
        (&|f| port_of(f, ""), "membership", Stop, &["device m0"]),
        (
            &|f| {
                nic(f).program = Some(Program {
                    id: 9,
                    name: "other".into(),
                });
            },
            "XDP program",
            Stop,
            &["id 9 (other)", "ip link set dev eth1 xdp off"],
        ),
        (
            &|f| nic(f).program_unread = Some("refused".into()),
            "XDP program",
            Unknown,
            &["refused"],
        ),
        (
            &|f| nic(f).ipv6_off = Some(false),
            "IPv6",
            Change,
            &["net.ipv6.conf.eth1.disable_ipv6=1"],
        ),
    ]);
    let mut facts = fit();
    port_of(&mut facts, "vrf");
    assert_eq!(trouble(&facts), []);
    nic(&mut facts).sysfs = None;
    assert_eq!(trouble(&facts), [("sysfs".to_owned(), Status::Unknown)]);
}

#[test]
fn drivers_and_modes() {
    use Status::{Change, Stop, Unknown};
    let driver = |f: &mut Facts, name: &str, mode| {
        nic(f).driver.as_mut().unwrap().name = name.into();
        f.bearers[0].mode = mode;
    };
    let host_merges = |f: &mut Facts, mode| {
        driver(f, "virtio_net", mode);
        let fixed = Feature {
            on: true,
            changeable: false,
        };
        nic(f).features.insert("rx-gro-hw".into(), fixed);
    };
    each_is_found(&[
        (
            &|f| driver(f, "homemade", ModeChoice::Auto),
            "driver",
            Unknown,
            &["homemade", "status"],
        ),
        (
            &|f| driver(f, "e1000e", ModeChoice::Auto),
            "driver",
            Change,
            &["generic mode only"],
        ),
        (
            &|f| driver(f, "ena", ModeChoice::ZeroCopy),
            "driver",
            Stop,
            &["no zero-copy", "bearer.mode (t.toml:7)"],
        ),
        (
            &|f| driver(f, "e1000e", ModeChoice::NativeCopy),
            "driver",
            Stop,
            &["no XDP of its own", "bearer.mode (t.toml:7)"],
        ),
        (
            &|f| driver(f, "veth", ModeChoice::Generic),
            "driver",
            Change,
            &["\"auto\""],
        ),
        (
            &|f| driver(f, "ice", ModeChoice::NativeCopy),
            "driver",
            Change,
            &["\"auto\""],
        ),
        (&|f| nic(f).driver = None, "driver", Unknown, &["name"]),
    ]);
    for (name, mode) in [
        ("ice", ModeChoice::ZeroCopy),
        ("veth", ModeChoice::Auto),
        ("veth", ModeChoice::NativeCopy),
        ("e1000e", ModeChoice::Generic),
    ] {
        let mut facts = fit();
        driver(&mut facts, name, mode);
        assert_eq!(trouble(&facts), [], "{name} {mode:?}");
    }
    // By kernel.
    let mut facts = fit();
    driver(&mut facts, "virtio_net", ModeChoice::ZeroCopy);
    assert_eq!(trouble(&facts), []);
    facts.kernel.release = "6.10.0".into();
    assert_eq!(trouble(&facts), [("driver".to_owned(), Status::Stop)]);
    // By the host.
    let mut facts = fit();
    host_merges(&mut facts, ModeChoice::Auto);
    let subjects = ["host offloads", "driver"].map(|subject| (subject.to_owned(), Status::Change));
    assert_eq!(trouble(&facts), subjects);
    // By the number of channels: 4 of 8 are half, 5 are more.
    let mut facts = fit();
    driver(&mut facts, "ena", ModeChoice::Auto);
    assert_eq!(trouble(&facts), []);
    nic(&mut facts).queues.as_mut().unwrap().rx = 5;
    let subjects = ["channels", "driver"].map(|subject| (subject.to_owned(), Status::Change));
    assert_eq!(trouble(&facts), subjects);
    nic(&mut facts).driver.as_mut().unwrap().version = "2.17.2g".into();
    assert_eq!(trouble(&facts), []);
}

#[test]
fn queues_and_steering() {
    use Status::{Change, Stop, Unknown};
    let queue = |f: &mut Facts, queue| f.bearers[0].queue = queue;
    each_is_found(&[
        (
            &|f| queue(f, 4),
            "queue",
            Stop,
            &[
                "no queue 4",
                "has 4",
                "ethtool -L eth1 combined 5",
                "bearer.queue (t.toml:5) below 4",
            ],
        ),
        (
            &|f| {
                queue(f, 1);
                nic(f).queues = Some(Queues {
                    rx: 1,
                    rx_max: 1,
                    combined: 1,
                });
            },
            "queue",
            Stop,
            &["has 1", "set bearer.queue (t.toml:5) below 1"],
        ),
        (
            &|f| nic(f).queues = None,
            "queue",
            Unknown,
            &["does not tell"],
        ),
        (
            &|f| f.bearers[0].udp = true,
            "steering",
            Unknown,
            &["UDP flows", "rx-flow-hash"],
        ),
        (
            &|f| queue(f, 3),
            "steering",
            Change,
            &[
                "not 3",
                "> ethtool -N eth1 flow-type ether dst 02:00:00:00:00:01 action 3",
            ],
        ),
        (
            &|f| {
                queue(f, 3);
                nic(f).features.insert("rx-ntuple-filter".into(), OFF);
            },
            "steering",
            Change,
            &["> ethtool -K eth1 ntuple on && ethtool -N eth1 "],
        ),
        (
            &|f| {
                queue(f, 3);
                nic(f).features.clear();
            },
            "steering",
            Change,
            &["set bearer.queue (t.toml:5) to 0"],
        ),
        (
            &|f| {
                queue(f, 3);
                nic(f).driver.as_mut().unwrap().name = "i40e".into();
            },
            "steering",
            Change,
            &["set bearer.queue (t.toml:5) to 0"],
        ),
    ]);
    let mut facts = fit();
    nic(&mut facts).flow_rules = Some(1);
    assert_eq!(trouble(&facts), []);
    queue(&mut facts, 3);
    assert_eq!(trouble(&facts), [("steering".to_owned(), Unknown)]);
}

#[test]
fn offloads_and_timing() {
    use Status::Change;
    each_is_found(&[
        (
            &|f| switch_on(f, "rx-lro"),
            "LRO",
            Change,
            &["ethtool -K eth1 lro off"],
        ),
        (
            &|f| switch_on(f, "rx-vlan-hw-parse"),
            "VLAN stripping",
            Change,
            &["ethtool -K eth1 rxvlan off"],
        ),
        (
            &|f| nic(f).pause.as_mut().unwrap().tx = true,
            "flow control",
            Change,
            &["ethtool -A eth1 rx off tx off"],
        ),
        (
            &|f| nic(f).rings.as_mut().unwrap().rx = 512,
            "ring sizes",
            Change,
            &["rx 512 of 8160", "ethtool -G eth1 rx 1024"],
        ),
        (
            &|f| {
                nic(f).coalescing = Some(Coalescing {
                    rx_usecs: 101,
                    tx_usecs: 50,
                    adaptive_rx: false,
                });
            },
            "coalescing",
            Change,
            &["rx 101 µs", "ethtool -C eth1 rx-usecs"],
        ),
    ]);
    // A ring that cannot be larger is large enough.
    let mut facts = fit();
    nic(&mut facts).rings = Some(Rings {
        rx: 256,
        rx_max: 256,
        tx: 256,
        tx_max: 256,
    });
    assert_eq!(trouble(&facts), []);
}

#[test]
fn a_vlan_needs_its_tags() {
    use Status::{Change, Stop};
    let tagged = |f: &mut Facts, feature: &str, state: Feature| {
        f.bearers[0].vlan = Some(100);
        nic(f).features.insert(feature.to_owned(), state);
    };
    let fixed = Feature {
        on: true,
        changeable: false,
    };
    each_is_found(&[
        (
            &|f| tagged(f, "rx-vlan-hw-parse", ON),
            "VLAN stripping",
            Stop,
            &["VLAN 100", "ethtool -K eth1 rxvlan off"],
        ),
        (
            &|f| tagged(f, "rx-vlan-hw-parse", fixed),
            "VLAN stripping",
            Stop,
            &["fixed", "VLAN 100 untagged, without bearer.vlan (t.toml:8)"],
        ),
        (
            &|f| tagged(f, "rx-vlan-filter", ON),
            "VLAN filter",
            Change,
            &["ethtool -K eth1 rx-vlan-filter off"],
        ),
        (
            &|f| tagged(f, "rx-vlan-filter", fixed),
            "VLAN filter",
            Change,
            &["name eth1.100 type vlan id 100", "ip link set eth1.100 up"],
        ),
    ]);
    // Neither is of interest without a tag, if it cannot be helped.
    let mut facts = fit();
    for feature in ["rx-vlan-hw-parse", "rx-vlan-filter"] {
        nic(&mut facts).features.insert(feature.to_owned(), fixed);
    }
    assert_eq!(trouble(&facts), []);
    // A veth says that it does, and does not.
    let mut facts = fit();
    tagged(&mut facts, "rx-vlan-hw-parse", ON);
    nic(&mut facts).driver.as_mut().unwrap().name = "veth".into();
    let found = findings(&facts);
    let stripping = found.iter().find(|one| one.subject == "VLAN stripping");
    assert_eq!(stripping.unwrap().status, Status::Ok);
}

#[test]
fn a_device_that_tells_nothing_is_no_trouble_of_its_own() {
    let mut facts = fit();
    let silent = Nic {
        driver: Some(Driver {
            name: "veth".into(),
            version: "1.0".into(),
        }),
        queues: nic(&mut facts).queues,
        sysfs: Some(Sysfs::default()),
        ..Nic::default()
    };
    facts.bearers[0].nic = Some(silent);
    assert_eq!(trouble(&facts), []);
}
