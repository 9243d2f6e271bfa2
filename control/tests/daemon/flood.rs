//! An attacker without a key repeats everything that he recorded, as fast as the
//! device takes it: exchanges and joins go on, and so does data.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tipsec_control::admin::LinkState;

use crate::admin::is_ok;
use crate::flooder::Flood;
use crate::inject::kind_of;
use crate::lab::{Lab, mac, port, wait_for};
use crate::node::{Daemon, PATIENCE, cluster};
use crate::raw::{Capture, RawSocket, is_tipsec};
use crate::traffic::{Sink, Source};

/// Exchanges that are recorded: messages enough that even a few passes of each
/// a second would empty a peer's bucket.
const RECORDED: u64 = 12;
/// New keys with node `peer` on request; gives how long it took.
pub(crate) fn rekey_now(node: &Daemon, peer: usize) -> Duration {
    let rekeys = |node: &Daemon| node.peer(peer).unwrap().rekeys;
    let (before, began) = (rekeys(node), Instant::now());
    let line = node.ask("{\"op\":\"rekey-now\"}");
    assert!(is_ok(&line), "{line}");
    wait_for("new keys", PATIENCE, || {
        (rekeys(node) > before).then_some(())
    });
    began.elapsed()
}

#[test]
fn replays_at_full_rate_stop_neither_rekeys_nor_joins_nor_data() {
    let Some(lab) = Lab::alone(2) else { return };
    let capture = Capture::start(&lab, &lab.hub(), &port(2), |frame: &[u8]| {
        is_tipsec(frame) && frame[6..12] == mac(2) && frame[14] != 0x10
    });
    let mut nodes = cluster(&lab, 2);
    for _ in 0..RECORDED {
        rekey_now(&nodes[0], 2);
        rekey_now(&nodes[1], 1);
    }
    let recorded = capture.finish();
    for kind in ["m1", "m2", "m3", "beacon"] {
        let some = recorded.iter().any(|frame| kind_of(frame) == kind);
        assert!(some, "no {kind} was recorded");
    }

    let sink = Sink::start(&lab, 1);
    let source = Source::start(&lab, 2, 1, Duration::from_millis(2));
    let memory = nodes[0].resident_kib();
    let flood = Flood::start(RawSocket::open(&lab, &lab.hub(), &port(1)), recorded);
    flood.wait_sent(50_000);

    let took: Vec<_> = (0..5).map(|_| rekey_now(&nodes[0], 2)).collect();
    let (sent, received) = (source.finish(), sink.received());
    let began = Instant::now();
    nodes[1].end(Signal::KILL);
    nodes[1] = Daemon::start(&lab, 2);
    let life = Some(nodes[1].status().incarnation);
    wait_for("the join", PATIENCE, || {
        let peer = nodes[0].peer(2).filter(|peer| peer.incarnation == life)?;
        (peer.link == LinkState::Up).then_some(())
    });
    let joined = began.elapsed();

    let xdp = nodes[0].status().xdp;
    println!(
        "{} replays; rekeys {took:?}; join {joined:?}; {received} of {sent} datagrams; XDP {xdp:?}",
        flood.sent()
    );
    assert!(received * 10 >= sent * 9, "{received} of {sent} datagrams");
    // What the kernel's socket was spared.
    assert!(xdp["repeated"] * 10 > flood.sent() * 9, "{xdp:?}");
    let grown = nodes[0].resident_kib().saturating_sub(memory);
    assert!(grown < 4096, "grown by {grown} KiB");
}
