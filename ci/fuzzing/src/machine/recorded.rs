//! Target `machine`: any frames, frames of another life of the cluster as they
//! were recorded or changed, gate and MAC made good again if the input says so,
//! and time. None of it is an exchange, so no key may come or go.

use std::sync::OnceLock;
use std::time::Duration;

use tipsec_control::frame::{ControlFrame, MessageType};
use tipsec_control::machine::{Action, Input as Step};
use tipsec_control::sim::{Universe, master, ms, node_id};
use tipsec_dataplane::ids::PeerIndex;

use super::{VICTIM, Victim, prove, sent};
use crate::input::Input;

/// Steps of one input.
const STEPS_MAX: usize = 64;
/// Frames kept of a type.
const KEPT_OF_TYPE: usize = 6;

/// Frames of a cluster that lived before the victim did: the same nodes and
/// keys, other incarnations. The last ones are under another master key.
fn recorded() -> &'static [Vec<u8>] {
    static RECORDED: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    RECORDED.get_or_init(|| {
        let mut all = record(1);
        all.extend(record(2).into_iter().take(4));
        all
    })
}

fn record(key: u8) -> Vec<Vec<u8>> {
    let mut universe = Universe::new(7);
    let key = master(key);
    for _ in 0..3 {
        universe.add(&key, Some(ms(700)));
    }
    // Lost frames call for more, and old ones that come again for hellos.
    universe.faults.loss = 150;
    universe.faults.replay = 500;
    for place in [0, 1, VICTIM] {
        universe.run(ms(3000));
        universe.kill(place);
        universe.run(ms(300));
        universe.start(place, node_id(place), &key, Some(ms(700)));
    }
    universe.run(ms(6000));
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for kind in MessageType::ALL {
        let frames = universe.captured.iter().map(|(_, frame)| frame);
        // Neither in the victim's name nor to another node.
        let fits = frames.filter(|frame| {
            let read = ControlFrame::decode(frame);
            read.is_some_and(|read| {
                let header = read.header();
                header.message == kind
                    && header.sender != node_id(VICTIM)
                    && header.receiver.is_none_or(|to| to == node_id(VICTIM))
            })
        });
        kept.extend(fits.take(KEPT_OF_TYPE).cloned());
    }
    kept
}

/// Steps: which frame and what of it, or time.
pub(super) fn run(data: &[u8]) {
    let recorded = recorded();
    let mut victim = Victim::new();
    let mut input = Input::new(data);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            return;
        }
        let step = input.u8();
        match step {
            0..0xc0 => {
                let mut frame = recorded[usize::from(step) % recorded.len()].clone();
                let how = input.u8();
                if how & 1 == 1 {
                    input.edit(&mut frame);
                }
                if how & 2 == 2 {
                    prove(&mut frame, &master(1), how & 4 == 4);
                }
                on_frame(&mut victim, &frame, how & 2 == 2);
            }
            0xc0..0xd8 => {
                let len = usize::from(step - 0xc0) * 8;
                let mut frame = input.take(len).to_vec();
                if step % 2 == 1 {
                    prove(&mut frame, &master(1), true);
                }
                on_frame(&mut victim, &frame, step % 2 == 1);
            }
            // From workers: about lanes and peers that may never have been.
            0xd8..0xe0 => {
                let peer = PeerIndex(u16::from(input.u8() % 8));
                check(&victim.step(Step::Activity { peer }));
            }
            0xe0..0xe4 => check(&victim.step(Step::RekeyNow)),
            _ => {
                let time = Duration::from_millis(u64::from(input.u16() % 8192));
                check(&victim.pass(time));
            }
        }
    }
}

/// A frame, and whether its MAC was made good.
fn on_frame(victim: &mut Victim, frame: &[u8], proven: bool) {
    let actions = victim.frame(frame);
    check(&actions);
    let answers = sent(&actions, MessageType::Hello).count();
    let sends = |action: &&Action| matches!(action, Action::Send { .. });
    assert!(actions.iter().filter(sends).count() <= 2, "it multiplies");
    assert!(answers <= 1);
    // Who has no key cannot have more sent to somebody than he sends himself.
    // (A member can: it cuts an m3 short, and makes its MAC good.)
    for hello in sent(&actions, MessageType::Hello) {
        assert!(proven || hello.len() <= frame.len(), "it amplifies");
    }
}

/// Nothing but control frames, and the names of who may send them.
fn check(actions: &[Action]) {
    for action in actions {
        let what = match action {
            Action::Send { .. } | Action::UnlistPeer { .. } => continue,
            Action::InstallRx { .. } => "a receiving SA",
            Action::InstallTx { .. } => "a sending SA",
            Action::ListPeer { .. } => "a place for a peer",
            _ => "something for an SA that there is not",
        };
        panic!("frames without an exchange make {what}");
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let count = u8::try_from(recorded().len()).unwrap();
    assert!(count <= 0xc0, "every frame has its step");
    // As recorded; one after the other with time between.
    let whole = (0..count).flat_map(|n| [n, 0]).collect();
    let slowly = (0..count).flat_map(|n| [n, 0, 0xff, 1, 0]).collect();
    let mut seeds: Vec<Vec<u8>> = vec![whole, slowly, vec![0xe0, 0xff, 0x1f, 0xff]];
    for n in 0..count {
        // One byte of the body, of the clear header; from another node; longer;
        // cut. MACs made good.
        seeds.push(vec![n, 7, 1, 1, 0, 70, 0x80, 0xff, 1, 0]);
        seeds.push(vec![n, 7, 1, 1, 0, 44, 1, n, 7, 1, 1, 0, 27, 3]);
        seeds.push(vec![n, 7, 1, 1, 0, 19, 0x10, n, 3, 1, 1, 0, 19, 0x20]);
        seeds.push(vec![n, 7, 1, 3, 0, 16, 0, n, 7, 1, 2, 0, 80]);
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_recorded_and_proving_works() {
        for kind in MessageType::ALL {
            let of_kind = recorded().iter().find(|frame| {
                ControlFrame::decode(frame).is_some_and(|read| read.header().message == kind)
            });
            let mut frame = of_kind.unwrap_or_else(|| panic!("no {kind:?}")).clone();
            let at = frame.len() - 20;
            frame[at] ^= 1;
            let keys = master(1);
            assert!(!ControlFrame::decode(&frame).unwrap().verify(&keys));
            prove(&mut frame, &keys, true);
            assert!(ControlFrame::decode(&frame).unwrap().verify(&keys));
        }
    }

    #[test]
    fn replayed_frames_get_as_far_as_an_answer() {
        let mut victim = Victim::new();
        let mut hellos = 0;
        for frame in recorded() {
            hellos += sent(&victim.frame(frame), MessageType::Hello).count();
        }
        assert!(hellos > 0);
        let started = victim.pass(Duration::from_secs(1));
        assert!(sent(&started, MessageType::M1).count() > 0, "beacons count");
    }
}
