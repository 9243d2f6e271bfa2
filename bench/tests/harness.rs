//! The harness itself, in real namespaces: it sees what it should, and leaves
//! nothing behind. Needs root.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tipsec_bench::capture::{self, Capture};
use tipsec_bench::cluster::RunDirectory;
use tipsec_bench::counts::device_drops;
use tipsec_bench::iperf::{self, Traffic};
use tipsec_bench::load::{Blaster, Echo, PORT, Prober};
use tipsec_bench::netns::{self, Namespace};
use tipsec_bench::topology::{BEARER, Topology};
use tipsec_bench::wait::{self, Look};

const SOON: Duration = Duration::from_secs(5);
const OFTEN: Duration = Duration::from_millis(2);

/// Tests look at which namespaces this process has: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn root() -> Option<MutexGuard<'static, ()>> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED (needs root): network namespaces");
        return None;
    }
    Some(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

fn ours() -> BTreeSet<String> {
    netns::made_by(std::process::id()).into_iter().collect()
}

/// Gives the bearers addresses, as plain kernel networking.
fn address(topology: &Topology) -> tipsec_bench::Result<()> {
    for (index, port) in topology.ports.iter().enumerate() {
        let address = format!("addr add 10.9.0.{}/24 dev {BEARER}", index + 1);
        port.namespace.ip(&address)?;
    }
    Ok(())
}

#[test]
fn a_topology_leaves_nothing_behind() {
    let Some(_guard) = root() else { return };
    let topology = Topology::create(2).unwrap();
    assert_eq!(ours().len(), 3, "hub and two nodes");
    assert!(topology.is_silent());
    let port = &topology.ports[0];
    let drops = device_drops(&topology.hub, &port.device).unwrap();
    assert_eq!(drops, device_drops(&port.namespace, BEARER).unwrap());
    drop(topology);
    assert_eq!(ours(), BTreeSet::new());
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let Some(_guard) = root() else { return };
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let _topology = Topology::create(1).unwrap();
        let directory = RunDirectory::create("panic").unwrap();
        std::fs::write(directory.path().join("file"), "x").unwrap();
        panic!("on purpose");
    }));
    assert!(result.is_err());
    assert_eq!(ours(), BTreeSet::new());
    let pid = std::process::id();
    assert!(!std::path::Path::new(&format!("/run/tsec-{pid}-panic")).exists());
}

#[test]
fn what_a_dead_run_left_is_swept_and_nothing_else() {
    let Some(_guard) = root() else { return };
    // A process id that was just given back.
    let mut child = Command::new("true").spawn().unwrap();
    let dead = child.id();
    child.wait().unwrap();
    let left = format!("tsec-{dead}-0-hub");
    let add = |name: &str| Command::new("ip").args(["netns", "add", name]).status();
    assert!(add(&left).unwrap().success());
    let alive = Namespace::create("alive").unwrap();
    assert!(netns::sweep() >= 1);
    assert_eq!(netns::made_by(dead), Vec::<String>::new());
    assert!(ours().contains(alive.name()));
}

#[test]
fn plain_frames_are_seen_by_every_detector() {
    let Some(_guard) = root() else { return };
    let topology = Topology::create(3).unwrap();
    let mut capture = Capture::start(&topology).unwrap();
    assert_eq!(capture.findings().alarms, 0);
    capture::inject_plain(&topology, 0, 1).unwrap();
    wait::until("the alarms", SOON, OFTEN, || {
        let found = capture.findings();
        // In at one port and out at two, twice.
        let all = found.alarms == 6 && found.foreign == 3 && found.marked_by_search == 1;
        Ok(if all {
            Look::Done(())
        } else {
            Look::NotYet(format!("{found:?}"))
        })
    })
    .unwrap();
    let found = capture.findings();
    assert_eq!(found.marked, 7, "six alarms and one search");
    assert_eq!(found.numbers, 1);
    assert_eq!(found.repeated, 0);
    assert!(found.descriptions.iter().any(|d| d.contains("0x88b6")));
    let pairs = capture.pairs().unwrap();
    assert_eq!(pairs[&(0, 1)], 1);
    assert_eq!(pairs.values().sum::<u64>(), 1, "no other pair");

    // The same frame again: its packet number is not new.
    capture::inject_plain(&topology, 0, 1).unwrap();
    wait::until("the repetition", SOON, OFTEN, || {
        Ok(match capture.findings().repeated {
            1 => Look::Done(()),
            other => Look::NotYet(other.to_string()),
        })
    })
    .unwrap();
    assert_eq!(capture.pairs().unwrap()[&(0, 1)], 2);
    capture.reset();
    assert_eq!(capture.findings().alarms, 0);
}

#[test]
fn unsealed_traffic_of_applications_raises_alarms() {
    let Some(_guard) = root() else { return };
    let topology = Topology::create(2).unwrap();
    address(&topology).unwrap();
    let capture = Capture::start(&topology).unwrap();
    let (from, to) = (&topology.ports[0].namespace, &topology.ports[1].namespace);
    let traffic = Traffic::Udp {
        datagram_bytes: 1300,
        rate_mbit_s: 10,
    };
    let outcome = iperf::start(from, to, "10.9.0.2", traffic, 1)
        .unwrap()
        .finish()
        .unwrap();
    assert!(outcome.received_mbit_s > 5.0, "{outcome:?}");
    let found = capture.findings();
    assert!(found.alarms > 2 * outcome.datagrams, "{found:?}");
    assert!(found.marked > 0, "{found:?}");
}

#[test]
fn probes_find_out_when_traffic_stops_and_flows_again() {
    let Some(_guard) = root() else { return };
    let topology = Topology::create(2).unwrap();
    address(&topology).unwrap();
    let (from, to) = (&topology.ports[0].namespace, &topology.ports[1].namespace);
    let target = std::net::SocketAddr::from(([10, 9, 0, 2], PORT));
    let echo = Echo::start(to).unwrap();
    let prober = Prober::start(from, target).unwrap();
    let blaster = Blaster::start(from, target, 1000, 1000).unwrap();
    let answered = |moment| {
        wait::until("an answer", SOON, OFTEN, || {
            Ok(match prober.first_answer_after(moment) {
                Some(at) => Look::Done(at),
                None => Look::NotYet(String::new()),
            })
        })
    };
    answered(std::time::Instant::now()).unwrap();
    to.ip(&format!("link set {BEARER} down")).unwrap();
    // An answer may still have been under way.
    wait::pass(Duration::from_millis(50)).unwrap();
    let down = std::time::Instant::now();
    wait::pass(Duration::from_millis(200)).unwrap();
    assert_eq!(prober.first_answer_after(down), None);
    to.ip(&format!("link set {BEARER} up")).unwrap();
    answered(down).unwrap();
    assert!(blaster.sent() > 0);
    assert!(echo.received() > 0);
}

#[test]
fn queue_drops_are_read_from_a_real_queue() {
    let Some(_guard) = root() else { return };
    let topology = Topology::create(2).unwrap();
    address(&topology).unwrap();
    let port = &topology.ports[0];
    port.namespace
        .exec(&format!(
            "tc qdisc replace dev {BEARER} root tbf rate 8kbit burst 2000 limit 2000"
        ))
        .unwrap();
    let target = std::net::SocketAddr::from(([10, 9, 0, 2], PORT));
    let _blaster = Blaster::start(&port.namespace, target, 1200, 1000).unwrap();
    wait::until("drops", SOON, OFTEN, || {
        let drops = device_drops(&port.namespace, BEARER)?;
        Ok(if drops.qdisc > 10 {
            Look::Done(())
        } else {
            Look::NotYet(format!("{drops:?}"))
        })
    })
    .unwrap();
}
