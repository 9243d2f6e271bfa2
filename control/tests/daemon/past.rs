//! Frames of a node's past life, replayed: they are authentic, and must
//! neither raise the dead nor disturb the living.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tipsec_control::admin::LinkState;

use crate::lab::{Lab, mac, port, wait_for};
use crate::node::{Daemon, PATIENCE, cluster, id};
use crate::raw::{Capture, RawSocket, is_tipsec};

#[test]
fn a_past_life_replayed_is_not_believed() {
    let Some(lab) = Lab::alone(2) else { return };
    let sent = |frame: &[u8]| is_tipsec(frame) && frame[6..12] == mac(2);
    let capture = Capture::start(&lab, &lab.hub(), &port(2), sent);
    let mut nodes = cluster(&lab, 2);
    let old = nodes[1].status().incarnation;
    nodes[1].end(Signal::KILL);
    let past = capture.finish();
    let kinds = crate::inject::one_of_each(past.iter());
    println!("{:?}", kinds.keys());

    let wire = RawSocket::open(&lab, &lab.hub(), &port(1));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for frame in kinds.values() {
                    wire.send(frame);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        // Ends the replayer also when something fails.
        let _end = OnDrop(|| stop.store(true, Ordering::Relaxed));

        wait_for("the link is down", PATIENCE, || {
            (nodes[0].peer(2)?.link != LinkState::Up).then_some(())
        });
        let down = Instant::now();
        let completed = |node: &Daemon| node.status().control["exchanges_completed"];
        let before = completed(&nodes[0]);
        wait_for("the dead stay dead", PATIENCE, || {
            assert_ne!(nodes[0].peer(2).unwrap().link, LinkState::Up);
            (down.elapsed() > Duration::from_secs(1)).then_some(())
        });
        assert_eq!(completed(&nodes[0]), before);

        let began = Instant::now();
        nodes[1] = Daemon::start(&lab, 2);
        let new = nodes[1].status().incarnation;
        assert_ne!(new, old);
        nodes[0].wait_link(2, PATIENCE);
        nodes[1].wait_link(1, PATIENCE);
        println!("back after {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(3), "kept away");

        let up = Instant::now();
        let seen = nodes[0].events().last().unwrap().seq;
        wait_for("the living are not disturbed", PATIENCE, || {
            let peer = nodes[0].peer(2).unwrap();
            assert_eq!(peer.link, LinkState::Up);
            assert_eq!(peer.incarnation.as_ref(), Some(&new));
            (up.elapsed() > Duration::from_secs(2)).then_some(())
        });
        for event in nodes[0].events() {
            assert!(event.seq <= seen || event.node != Some(id(2)), "{event:?}");
        }
    });
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
