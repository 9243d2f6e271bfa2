//! What an operator gets wrong about interfaces, queues and programs.
#![cfg(feature = "io")]
// A test may stop at the first surprise, and says what it measured.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout
)]

mod netns;

use netns::{ETHERTYPE, NetNs, is_root, veth_pair};
use tipsec_dataplane::attach::{AttachError, Attachment, Hook, Interface, InterfaceError, Mode};
use tipsec_dataplane::bearer::xdp::{BearerMode, OpenError, XdpBearer, XdpConfig};
use tipsec_dataplane::ids::{MasterId, NodeId, Spi};
use tipsec_dataplane::outer::Encapsulation;
use tipsec_xdp::GateKey;

fn node() -> NodeId {
    NodeId::new(1).unwrap()
}

fn attach(mode: Mode) -> Result<Attachment, AttachError> {
    let interface = Interface::check("nic").unwrap();
    let encapsulation = Encapsulation::ethernet(interface.mac, ETHERTYPE, None);
    Attachment::attach(&interface, node(), encapsulation, mode)
}

#[test]
fn interfaces_that_cannot_work_are_named() {
    if !is_root("interfaces_that_cannot_work_are_named") {
        return;
    }
    let (a, _b) = veth_pair("iface");
    let check = || a.run(|| Interface::check("nic"));
    let interface = check().unwrap();
    assert_eq!((interface.mtu, interface.rx_queues), (1500, Some(1)));
    assert!(interface.is_veth);
    a.ip("link set nic mtu 9500");
    assert!(matches!(
        check(),
        Err(InterfaceError::MtuTooLarge { mtu: 9500, .. })
    ));
    a.ip("link set nic mtu 1000");
    assert!(matches!(
        check(),
        Err(InterfaceError::MtuTooSmall { mtu: 1000, .. })
    ));
    a.ip("link set nic mtu 1500 down");
    let error = check().unwrap_err();
    assert!(matches!(error, InterfaceError::Down { .. }));
    assert!(error.to_string().contains("\"nic\" is down"), "{error}");
    a.ip("link del nic");
    assert!(matches!(check(), Err(InterfaceError::Missing { .. })));
}

#[test]
fn driver_that_takes_no_long_frames_is_named_unless_there_is_another_way() {
    if !is_root("driver_that_takes_no_long_frames_is_named_unless_there_is_another_way") {
        return;
    }
    // A bridge has no XDP in its driver.
    let ns = NetNs::new("long");
    ns.ip("link add nic mtu 9000 type bridge");
    ns.ip("link set nic up");
    ns.run(|| {
        let error = attach(Mode::NativeCopy).err().unwrap();
        let text = error.to_string();
        assert!(
            matches!(error, AttachError::LongFrames { mtu: 9000, .. }),
            "{text}"
        );
        assert!(text.contains("mtu 3506"), "{text}");
        assert_eq!(attach(Mode::Auto).unwrap().hook(), Hook::Generic);
    });
}

#[test]
fn occupied_nic_names_its_program_and_keeps_it() {
    if !is_root("occupied_nic_names_its_program_and_keeps_it") {
        return;
    }
    let (a, _b) = veth_pair("busy");
    a.run(|| {
        let first = attach(Mode::Auto).unwrap();
        assert_eq!(first.hook(), Hook::Native);
        for mode in [Mode::Auto, Mode::Generic] {
            match attach(mode).err().unwrap() {
                AttachError::Occupied { program, interface } => {
                    assert_eq!(program.id, first.program_id());
                    assert_eq!(program.name, "tipsec_xdp");
                    assert_eq!(interface, "nic");
                }
                other => panic!("{other}"),
            }
        }
        assert!(first.is_attached());
        drop(first);
        // Detached with its handle: the NIC is free again.
        let again = attach(Mode::Generic).unwrap();
        assert_eq!(again.hook(), Hook::Generic);
    });
}

#[test]
fn queues_are_checked_and_exclusive() {
    if !is_root("queues_are_checked_and_exclusive") {
        return;
    }
    let (a, _b) = veth_pair("queue");
    a.run(|| {
        let mut attachment = attach(Mode::Auto).unwrap();
        let config = XdpConfig::default();
        assert!(matches!(
            XdpBearer::open(&mut attachment, 1, &config).err(),
            Some(OpenError::Interface(InterfaceError::QueueMissing {
                queue: 1,
                queues: 1,
                ..
            }))
        ));
        let first = XdpBearer::open(&mut attachment, 0, &config).unwrap();
        assert_eq!(first.report().mode, BearerMode::NativeCopy);
        let error = XdpBearer::open(&mut attachment, 0, &config).err().unwrap();
        assert!(
            matches!(error, OpenError::QueueTaken { queue: 0, .. }),
            "{error}"
        );
        drop(first);
        // The kernel frees the queue some time later; `open` waits for it.
        XdpBearer::open(&mut attachment, 0, &config).unwrap();
    });
}

#[test]
fn zero_copy_that_is_not_there_is_refused_if_forced() {
    if !is_root("zero_copy_that_is_not_there_is_refused_if_forced") {
        return;
    }
    let (a, _b) = veth_pair("zc");
    a.run(|| {
        let mut attachment = attach(Mode::ZeroCopy).unwrap();
        let error = XdpBearer::open(&mut attachment, 0, &XdpConfig::default())
            .err()
            .unwrap();
        assert!(error.to_string().contains("zero-copy"), "{error}");
    });
}

#[test]
fn maps_take_and_forget_entries() {
    if !is_root("maps_take_and_forget_entries") {
        return;
    }
    let (a, _b) = veth_pair("maps");
    a.run(|| {
        let mut attachment = attach(Mode::Auto).unwrap();
        let (old, new) = (
            Spi::from_parts(5, 1).unwrap(),
            Spi::from_parts(5, 2).unwrap(),
        );
        attachment.add_spi(old).unwrap();
        attachment.add_spi(new).unwrap();
        assert!(!attachment.has_spi(old).unwrap());
        attachment.remove_spi(old).unwrap();
        assert!(attachment.has_spi(new).unwrap(), "left alone");
        attachment.remove_spi(new).unwrap();
        assert!(!attachment.has_spi(new).unwrap());
        assert!(
            attachment
                .add_spi(Spi::from_parts(1 << 19, 1).unwrap())
                .is_err()
        );
        attachment
            .set_master(MasterId(1), GateKey::from_bytes([1; 16]))
            .unwrap();
        attachment.remove_master(MasterId(1)).unwrap();
        attachment.remove_master(MasterId(1)).unwrap();
        attachment.list_peer(node()).unwrap();
        attachment.list_peer(node()).unwrap();
        attachment.unlist_peer(node()).unwrap();
        attachment.unlist_peer(node()).unwrap();
        attachment.unregister_socket(0).unwrap();
        let counters = attachment.counters().unwrap();
        assert!(counters.iter().any(|(name, _)| *name == "unknown_spi"));
    });
}

/// Not a test: what the next one starts and kills.
#[test]
#[ignore = "started by killed_process_leaves_the_nic_free"]
fn child_that_attaches_and_waits() {
    if std::env::var_os("TIPSEC_TEST_CHILD").is_none() {
        return;
    }
    let mut attachment = attach(Mode::Auto).unwrap();
    let _bearer = XdpBearer::open(&mut attachment, 0, &XdpConfig::default()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn killed_process_leaves_the_nic_free() {
    if !is_root("killed_process_leaves_the_nic_free") {
        return;
    }
    let (a, _b) = veth_pair("kill");
    let mut child = a.run(|| {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child_that_attaches_and_waits"])
            .env("TIPSEC_TEST_CHILD", "1")
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    });
    // Looks without attaching, which would get into the child's way.
    let is_occupied = || {
        let shown = std::process::Command::new("ip")
            .args(["-n", &a.name, "link", "show", "nic"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&shown.stdout).contains("prog/xdp")
    };
    let attached = netns::eventually(is_occupied);
    // SIGKILL: nothing of the process runs after it.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(attached);
    assert!(netns::eventually(|| !is_occupied()), "still attached");
    a.run(|| {
        let mut attachment = attach(Mode::Auto).unwrap();
        XdpBearer::open(&mut attachment, 0, &XdpConfig::default()).unwrap();
    });
}
