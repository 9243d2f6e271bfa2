//! Bearers: links, drivers, queues, offloads, tags.

use super::*;

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

#[test]
fn a_thread_that_the_configuration_does_not_know_of_is_named() {
    each_is_found(&[(
        &|f| sysfs(f).threaded = Some(true),
        "NAPI",
        Status::Change,
        &[
            "in a thread of its own",
            "set bearer.napi (t.toml:9) to \"threaded\"",
        ],
    )]);
    let mut facts = fit();
    sysfs(&mut facts).threaded = Some(true);
    facts.bearers[0].napi = NapiProfile::Threaded;
    assert_eq!(trouble(&facts), []);
    // A veth has no thread before there is a program on it.
    sysfs(&mut facts).threaded = Some(false);
    assert_eq!(trouble(&facts), []);
}
