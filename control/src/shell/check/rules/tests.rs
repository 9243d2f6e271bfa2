//! Each rule by a machine that was made up: a fit one, and one thing about it
//! changed.

use std::collections::BTreeMap;

use tipsec_dataplane::bearer::xdp::NapiProfile;
use tipsec_dataplane::secret::Suite;

use super::*;
use crate::config::ModeChoice;
use crate::shell::check::Report;
use crate::shell::check::facts::{
    Admin, AdminState, AfXdp, Bearer, Coalescing, ConfigState, Core, Cpu, Driver, Feature, Files,
    Irq, Kernel, KeyringState, Link, Master, Memory, Nic, Pause, Places, Privilege, Program,
    Queues, Reading, Rings, State, Sysfs,
};

mod bearer;
mod cpu;
mod files;
mod host;

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
            napi: NapiProfile::Inline,
            in_flight: 64,
            at: Places {
                interface: "bearer.interface (t.toml:4)".into(),
                queue: "bearer.queue (t.toml:5)".into(),
                core: "bearer.core (t.toml:6)".into(),
                mode: "bearer.mode (t.toml:7)".into(),
                vlan: "bearer.vlan (t.toml:8)".into(),
                napi: "bearer.napi (t.toml:9)".into(),
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
