//! Every order of steps of a control thread and its workers, where they meet:
//! commands, events, their wake-ups, and the swap of keys that rests on them.
//! The workers are the data plane's own, the queue and its bell a model
//! (`src/sync.rs`) in which a sleep that nobody ends is a deadlock.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p tipsec-dataplane --release
//! --no-default-features --features crypto-ring --test loom_commands`.
#![cfg(loom)]
#![allow(clippy::unwrap_used)] // a test may stop

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use tipsec_dataplane::aead::ring::Ring;
use tipsec_dataplane::bearer::memory::{Faults, MemoryBearer, MemorySizes};
use tipsec_dataplane::command::{
    Command, CommandSeq, ControlEnd, Event, PhaseSpec, RxLaneSpec, WorkerEnd, channel,
};
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::Encapsulation;
use tipsec_dataplane::phase::{Phase, PhaseBits};
use tipsec_dataplane::sa::{RxLane, RxShared};
use tipsec_dataplane::secret::{LaneSecret, Suite};
use tipsec_dataplane::table::RxTable;
use tipsec_dataplane::tap::NoTap;
use tipsec_dataplane::worker::{Polling, Worker, WorkerConfig};

type TestWorker = Worker<Ring, MemoryBearer, NoTap>;

const PEER: PeerIndex = PeerIndex(0);
/// A worker's pass and its tables take more than a model's threads have.
const STACK: usize = 1 << 20;

/// Goes through every order with at most so many preemptions.
fn model(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new().stack_size(STACK).spawn(run).unwrap()
}

fn worker(channel: WorkerEnd) -> TestWorker {
    let sizes = MemorySizes {
        frames: 2,
        max_frame_len: 256,
        wire_frames: 2,
    };
    let (bearer, _) = MemoryBearer::pair(sizes, Faults::default(), 1).unwrap();
    let config = WorkerConfig {
        node: NodeId::new(1).unwrap(),
        encapsulation: Encapsulation::ethernet(MacAddr([2, 0, 0, 0, 0, 1]), 0x88b5, None),
        mtu: 1500,
        peers: 1,
        spis: 8,
        polling: Polling::Sleep,
    };
    Worker::new(config, channel, bearer, NoTap)
}

fn remove(seq: u64) -> Command {
    Command::RemoveRx {
        seq: CommandSeq(seq),
        spi: Spi::new(1).unwrap(),
    }
}

fn send(control: &ControlEnd, command: Command) {
    assert!(control.send(command).is_ok());
}

/// Takes events as the hub does, asleep between them, until `enough`.
fn events(control: &ControlEnd, mut enough: impl FnMut(Event) -> bool) {
    loop {
        control.wait();
        control.clear_wake();
        while let Some(event) = control.receive() {
            if enough(event) {
                return;
            }
        }
    }
}

fn secret(n: u8) -> LaneSecret {
    LaneSecret::new(Suite::Aes256Gcm, [n; 32], [n; 12])
}

#[test]
fn no_command_is_slept_over() {
    model(3, || {
        let (control, channel) = channel().unwrap();
        let other = spawn(move || worker(channel).run());
        send(&control, remove(1));
        send(&control, remove(2));
        // If the worker sleeps over one of them, it never ends.
        send(&control, Command::Stop);
        other.join().unwrap();
    });
}

#[test]
fn no_event_is_slept_over() {
    model(3, || {
        let (control, channel) = channel().unwrap();
        let other = spawn(move || worker(channel).run());
        send(&control, remove(1));
        send(&control, remove(2));
        let mut next = 1;
        events(&control, |event| {
            assert_eq!(
                event,
                Event::Done {
                    seq: CommandSeq(next)
                },
                "in order"
            );
            next += 1;
            next == 3
        });
        send(&control, Command::Stop);
        other.join().unwrap();
    });
}

#[test]
fn an_end_that_goes_wakes_the_other_and_is_seen() {
    model(3, || {
        let (control, channel) = channel().unwrap();
        let other = spawn(move || {
            assert!(channel.send(Event::BearerLost));
            drop(channel);
        });
        control.wait();
        control.clear_wake();
        assert!(control.is_abandoned());
        assert_eq!(control.receive(), Some(Event::BearerLost), "said before");
        other.join().unwrap();
    });
    model(3, || {
        let (control, channel) = channel().unwrap();
        let other = spawn(move || drop(control));
        channel.wait();
        channel.clear_wake();
        assert!(channel.is_orphaned());
        other.join().unwrap();
    });
}

/// A receiving lane at one worker.
fn lane(shared: &Arc<RxShared>) -> RxLane<Ring> {
    RxLane::new(RxLaneSpec {
        spi: Spi::new(1).unwrap(),
        peer: PEER,
        node: NodeId::new(2).unwrap(),
        epoch: Epoch(1),
        lane: LaneIndex(0),
        secret: secret(1),
        next: Some(secret(2)),
        phase_bits: PhaseBits::PROTOCOL,
        shared: Arc::clone(shared),
    })
}

/// Takes one command as a worker does, and answers it: the key of phase 2.
/// `staged` is what the worker itself then knows.
fn take_phase(channel: &WorkerEnd, table: &mut RxTable<Ring>, staged: &AtomicBool) {
    loop {
        if channel.has_commands() {
            channel.clear_wake();
            if let Some(Command::StageRx { seq, phase }) = channel.receive() {
                // Refused, since phase 1 has opened nothing: who holds the key
                // matters here, not what a lane thinks of it.
                let _ = table.stage(&phase);
                staged.store(true, Ordering::Relaxed);
                assert!(channel.send(Event::Done { seq }));
                channel.wake_control();
                return;
            }
        }
        channel.wait();
    }
}

#[test]
fn a_phase_is_reported_only_when_every_worker_holds_the_next() {
    // What a worker says in a probe's answer, other workers must be ready for:
    // the peer acts on it at once, and its frames may come by any queue.
    model(2, || {
        let shared = RxShared::of_single_lane(1 << 20);
        let staged = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let mut controls = Vec::new();
        let mut workers = Vec::new();
        for at in 0..2 {
            let (control, channel) = channel().unwrap();
            let (shared, staged) = (Arc::clone(&shared), Arc::clone(&staged));
            workers.push(spawn(move || {
                let mut table = RxTable::new(2);
                table.insert(lane(&shared)).unwrap();
                take_phase(&channel, &mut table, &staged[at]);
                // It answers a probe.
                if shared.reported_phase() >= Phase(1) {
                    let all = staged.iter().all(|s| s.load(Ordering::Relaxed));
                    assert!(all, "reported before every worker had the key");
                }
            }));
            controls.push(control);
        }
        for control in &controls {
            let phase = Box::new(PhaseSpec {
                spi: Spi::new(1).unwrap(),
                phase: Phase(2),
                secret: secret(3),
            });
            let seq = CommandSeq(1);
            send(control, Command::StageRx { seq, phase });
        }
        for control in &controls {
            events(control, |event| matches!(event, Event::Done { .. }));
        }
        shared.report_phase(Phase(1));
        for worker in workers {
            worker.join().unwrap();
        }
    });
}
