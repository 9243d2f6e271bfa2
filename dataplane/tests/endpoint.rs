//! Messages of programs, over memory: what goes in comes out, in place, in
//! bounds, and every frame finds its way back into memory.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;
mod endpoints;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use common::{Cipher, UNBOUNDED, secret};
use endpoints::{End, MTU, ends, node, peer};
use tipsec_dataplane::bearer::memory::{Faults, MemoryBearer, MemorySizes};
use tipsec_dataplane::burst::BURST;
use tipsec_dataplane::command::{Command, CommandSeq, Event, RxLaneSpec};
use tipsec_dataplane::counters::{RxDrop, TxDrop};
use tipsec_dataplane::endpoint::{Endpoint, SendError, Stopped};
use tipsec_dataplane::frame::MESSAGE_OVERHEAD;
use tipsec_dataplane::ids::{Epoch, LaneIndex, Spi};
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::sa::RxShared;
use tipsec_dataplane::secret::Suite;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

const MAX: usize = MTU - MESSAGE_OVERHEAD;

#[test]
fn messages_arrive_whole_in_order_and_with_their_sender() {
    let (mut a, mut b) = ends(MemorySizes::default());
    assert_eq!(a.endpoint.max_message(), MAX);
    let free = (a.free_frames(), b.free_frames());
    let mut frame = a.endpoint.reserve(node(2)).unwrap();
    assert_eq!(frame.payload_mut().len(), MAX);
    frame.payload_mut().fill(7);
    frame.commit(MAX).unwrap();
    a.endpoint.reserve(node(2)).unwrap().commit(0).unwrap();
    for n in 0..40u8 {
        a.endpoint.send(node(2), &[n; 3]).unwrap();
    }
    assert_eq!(b.take(), [], "nothing leaves before a flush");
    assert_eq!(a.endpoint.flush(), 42);
    let mut expected = vec![(1, vec![7; MAX]), (1, vec![])];
    expected.extend((0..40u8).map(|n| (1, vec![n; 3])));
    assert_eq!(b.take(), expected);
    assert_eq!((a.free_frames(), b.free_frames()), free);
    let counters = b.endpoint.counters();
    assert_eq!(counters.peer(peer(1)).opened_frames.value(), 42);
    let sealed = a.endpoint.counters();
    assert_eq!(sealed.peer(peer(2)).sealed_frames.value(), 42);
}

#[test]
fn frame_that_is_not_committed_is_free_again() {
    let (mut a, mut b) = ends(MemorySizes::default());
    let free = a.free_frames();
    let mut frame = a.endpoint.reserve(node(2)).unwrap();
    frame.payload_mut()[0] = 1;
    drop(frame);
    assert_eq!(a.free_frames(), free);
    let frame = a.endpoint.reserve(node(2)).unwrap();
    let too_long = Err(SendError::TooLong {
        len: MAX + 1,
        max: MAX,
    });
    assert_eq!(frame.commit(MAX + 1), too_long);
    assert_eq!(a.endpoint.send(node(2), &[0; MAX + 1]), too_long);
    assert_eq!(a.free_frames(), free);
    assert_eq!(a.endpoint.flush(), 0);
    assert_eq!(b.take(), []);
}

/// The reason for which there is no frame.
fn refusal(end: &mut End, to: u32) -> Option<SendError> {
    end.endpoint.reserve(node(to)).err()
}

#[test]
fn no_frame_for_whom_nothing_can_be_sealed() {
    let (mut a, mut b) = ends(MemorySizes::default());
    let free = a.free_frames();
    assert_eq!(refusal(&mut a, 9), Some(SendError::UnknownNode(node(9))));

    // Lined up while there was a key, and gone with it: counted.
    a.endpoint.send(node(2), b"late").unwrap();
    a.command(Command::AllowData {
        peer: peer(2),
        allowed: false,
    });
    a.probe(2, 1);
    a.endpoint.poll().unwrap();
    assert_eq!(refusal(&mut a, 2), Some(SendError::NoKey(node(2))));
    a.command(Command::AllowData {
        peer: peer(2),
        allowed: true,
    });
    a.endpoint.poll().unwrap();
    assert_eq!(refusal(&mut a, 2), None);
    assert_eq!(b.take(), [(1, b"late".to_vec())], "it left before");

    a.command(Command::SetPath {
        peer: peer(2),
        path: None,
    });
    a.endpoint.poll().unwrap();
    assert_eq!(refusal(&mut a, 2), Some(SendError::NoPath(node(2))));
    a.command(Command::RemoveTx {
        seq: CommandSeq(9),
        peer: peer(2),
    });
    a.endpoint.poll().unwrap();
    assert_eq!(refusal(&mut a, 2), Some(SendError::NoKey(node(2))));
    assert_eq!(a.free_frames(), free);
    let all = [
        refusal(&mut a, 9),
        refusal(&mut a, 2),
        Some(SendError::Full),
    ];
    assert!(all.into_iter().flatten().all(SendError::is_transient));
}

#[test]
fn key_that_goes_before_the_flush_is_counted() {
    let (mut a, mut b) = ends(MemorySizes {
        wire_frames: 4,
        ..MemorySizes::default()
    });
    let free = a.free_frames();
    for _ in 0..4 {
        a.endpoint.send(node(2), b"on the wire").unwrap();
    }
    assert_eq!(a.endpoint.flush(), 4);
    for _ in 0..BURST {
        a.endpoint.send(node(2), b"sealed").unwrap();
    }
    // The wire is full; these are sealed and wait, so that more cannot be.
    assert_eq!(a.endpoint.flush(), 0);
    a.command(Command::RemoveTx {
        seq: CommandSeq(9),
        peer: peer(2),
    });
    a.endpoint.poll().unwrap();
    let counters = a.endpoint.counters();
    assert_eq!(counters.peer(peer(2)).tx_drops(TxDrop::NoKey), 0);
    let mut taken = 0;
    while taken < 4 + BURST {
        taken += b.take().len();
        a.endpoint.poll().unwrap();
    }
    assert_eq!(a.free_frames(), free, "sealed frames go without the key");
}

#[test]
fn room_is_a_burst_and_wait_says_when_there_is_some() {
    let (mut a, mut b) = ends(MemorySizes {
        wire_frames: 8,
        ..MemorySizes::default()
    });
    for n in 0..BURST {
        a.endpoint.send(node(2), &n.to_be_bytes()).unwrap();
    }
    assert_eq!(refusal(&mut a, 2), Some(SendError::Full));
    // The wire takes eight, so there is room for eight again.
    assert_eq!(a.endpoint.wait(PATIENCE), Ok(true));
    for n in BURST..BURST + 8 {
        a.endpoint.send(node(2), &n.to_be_bytes()).unwrap();
    }
    assert_eq!(refusal(&mut a, 2), Some(SendError::Full));
    assert_eq!(a.endpoint.wait(Duration::from_millis(5)), Ok(false));
    let mut taken = Vec::new();
    while taken.len() < BURST + 8 {
        taken.extend(b.take());
        a.endpoint.poll().unwrap();
    }
    let expected = (0..BURST + 8).map(|n| (1, n.to_be_bytes().to_vec()));
    assert_eq!(taken, expected.collect::<Vec<_>>());
    // What was refused is told once.
    assert_eq!(a.endpoint.wait(PATIENCE), Ok(true));
    assert_eq!(a.endpoint.wait(Duration::ZERO), Ok(false));
}

#[test]
fn no_memory_is_said_and_comes_back() {
    let (a, b) = MemoryBearer::pair(
        MemorySizes {
            frames: 4,
            ..MemorySizes::default()
        },
        Faults::default(),
        1,
    )
    .unwrap();
    let (mut a, mut b) = (End::new(1, a), End::new(2, b));
    a.lane(&mut b, 1, 2, 1);
    for _ in 0..4 {
        a.endpoint.send(node(2), b"x").unwrap();
    }
    assert_eq!(refusal(&mut a, 2), Some(SendError::NoMemory));
    assert_eq!(a.endpoint.flush(), 4);
    assert_eq!(refusal(&mut a, 2), None);
    assert_eq!(b.take().len(), 4);
}

#[test]
fn messages_that_are_not_taken_hold_receiving_up() {
    let (mut a, mut b) = ends(MemorySizes::default());
    for n in 0..100u8 {
        if a.endpoint.send(node(2), &[n]) == Err(SendError::Full) {
            a.endpoint.flush();
            a.endpoint.send(node(2), &[n]).unwrap();
        }
    }
    a.endpoint.flush();
    let counters = b.endpoint.counters();
    for _ in 0..10 {
        b.endpoint.poll().unwrap();
    }
    assert_eq!(counters.received_frames.value(), BURST as u64);
    assert_eq!(a.endpoint.bearer().unwrap().sent_log().queued, 36);
    // Taking one of them is not enough: a burst is received at a time.
    assert_eq!(b.endpoint.next_message().unwrap().payload_mut(), [0]);
    b.settle();
    assert_eq!(counters.received_frames.value(), BURST as u64);
    assert_eq!(b.endpoint.wait(Duration::ZERO), Ok(true), "more waits");
    let rest = b.take().into_iter().map(|(_, message)| message[0]);
    assert_eq!(rest.collect::<Vec<_>>(), (1..100).collect::<Vec<_>>());
    let dropped = RxDrop::ALL.iter().map(|&reason| {
        let at_peer = counters.peer(peer(1)).rx_drops(reason);
        at_peer + counters.nobody.rx_drops(reason)
    });
    assert_eq!(dropped.sum::<u64>(), 0);
}

#[test]
fn answers_are_made_of_the_question() {
    let (mut a, mut b) = ends(MemorySizes::default());
    let free = b.free_frames();
    for n in 0..64u8 {
        a.endpoint.send(node(2), &[n; 300]).unwrap();
    }
    a.endpoint.flush();
    b.settle();
    let answered = b.endpoint.receive(|message| {
        let mut answer = message.answer().unwrap();
        let room = answer.payload_mut();
        assert_eq!(room.len(), MAX);
        room[0] |= 0x80;
        answer.commit(299).unwrap();
    });
    assert_eq!(answered, BURST);
    b.endpoint.flush();
    assert_eq!(b.free_frames(), free);
    let answers = a.take();
    assert_eq!(answers.len(), BURST);
    for (n, (from, message)) in (0..64u8).zip(answers) {
        let mut expected = vec![n; 299];
        expected[0] |= 0x80;
        assert_eq!((from, message), (2, expected));
    }

    // No answer where there is no room for it; the question's frame is free.
    a.endpoint.send(node(2), b"?").unwrap();
    a.endpoint.flush();
    b.settle();
    for _ in 0..BURST {
        b.endpoint.send(node(1), b"!").unwrap();
    }
    let message = b.endpoint.next_message().unwrap();
    assert_eq!(message.answer().err(), Some(SendError::Full));
    b.endpoint.flush();
    assert_eq!(b.free_frames(), free);
}

#[test]
fn several_peers_are_told_apart() {
    let (mut a, mut b) = ends(MemorySizes::default());
    // Node 3 sits where node 1 does, and nodes 4 and 2 share the other end.
    a.lane(&mut b, 3, 4, 3);
    for _ in 0..3 {
        a.endpoint.send(node(2), b"as node 1").unwrap();
        a.endpoint.send(node(4), b"as node 3").unwrap();
    }
    a.endpoint.flush();
    let pair = [(1, b"as node 1".to_vec()), (3, b"as node 3".to_vec())];
    assert_eq!(b.take(), [pair.clone(), pair.clone(), pair].concat());
    let counters = b.endpoint.counters();
    for from in [1, 3] {
        assert_eq!(counters.peer(peer(from)).opened_frames.value(), 3);
    }
}

#[test]
fn probes_are_answered_while_a_program_sends_all_it_can() {
    let (mut a, mut b) = ends(MemorySizes::default());
    let mut replies = 0;
    for id in 0..50 {
        while a.endpoint.send(node(2), &[1; 64]).is_ok() {}
        while b.endpoint.send(node(1), &[2; 64]).is_ok() {}
        a.probe(2, id);
        a.endpoint.poll().unwrap();
        while b.endpoint.receive(|_| {}) > 0 || b.endpoint.poll().unwrap() {}
        while a.endpoint.receive(|_| {}) > 0 || a.endpoint.poll().unwrap() {}
        while let Some(event) = a.control.receive() {
            replies += u32::from(matches!(event, Event::ProbeReply { .. }));
        }
    }
    assert_eq!(replies, 50);
    for (end, other) in [(&a, 2), (&b, 1)] {
        let counters = end.endpoint.counters();
        assert_eq!(counters.peer(peer(other)).tx_drops(TxDrop::NoMemory), 0);
    }
}

#[test]
fn program_that_panics_over_a_message_leaks_none() {
    let (mut a, mut b) = ends(MemorySizes::default());
    let free = b.free_frames();
    for n in 0..3 {
        a.endpoint.send(node(2), &[n]).unwrap();
    }
    a.endpoint.flush();
    b.settle();
    let endpoint = &mut b.endpoint;
    let result = catch_unwind(AssertUnwindSafe(|| {
        endpoint.receive(|_| panic!("a bug in the program"));
    }));
    assert!(result.is_err());
    assert_eq!(b.take(), [(1, vec![1]), (1, vec![2])]);
    assert_eq!(b.free_frames(), free);
}

#[test]
fn frames_for_a_tap_that_there_is_not_are_counted() {
    let (mut sender, receiver) = common::pair::<Cipher>(Faults::default(), 1);
    let mut b = End::new(2, receiver.bearer);
    b.command(Command::InstallRx {
        seq: CommandSeq(1),
        lane: Box::new(RxLaneSpec {
            spi: Spi::new(7).unwrap(),
            peer: peer(1),
            node: sender.id,
            epoch: Epoch(1),
            lane: LaneIndex(0),
            secret: secret(Suite::Aes256Gcm, 1),
            next: None,
            phase_bits: PhaseBits::PROTOCOL,
            shared: RxShared::of_single_lane(10),
        }),
    });
    b.endpoint.poll().unwrap();
    sender.install_tx(7, 1, secret(Suite::Aes256Gcm, 1), UNBOUNDED);
    sender.send_as(0, 1, |_, room| {
        room[..2].copy_from_slice(&[0x08, 0x00]);
        60
    });
    b.settle();
    let counters = b.endpoint.counters();
    let end = Instant::now() + PATIENCE;
    // It may be held for a moment, as if there were a tap.
    while counters.peer(peer(1)).rx_drops(RxDrop::TapDown) < 1 {
        assert!(Instant::now() < end, "never counted");
        b.endpoint.poll().unwrap();
    }
    assert_eq!(b.take(), []);
}

#[test]
fn stopped_endpoint_wipes_itself_and_says_so() {
    let (mut a, mut b) = ends(MemorySizes::default());
    b.endpoint.send(node(1), b"waits").unwrap();
    b.endpoint.flush();
    a.endpoint.send(node(2), b"never leaves").unwrap();
    a.command(Command::Stop);
    assert_eq!(a.endpoint.wait(PATIENCE), Err(Stopped));
    assert_eq!(a.endpoint.poll(), Err(Stopped));
    assert_eq!(a.endpoint.wait(Duration::ZERO), Err(Stopped));
    assert!(a.endpoint.bearer().is_none(), "its socket is closed");
    assert_eq!(refusal(&mut a, 2), Some(SendError::Gone));
    assert!(!SendError::Gone.is_transient());
    assert_eq!(a.endpoint.receive(|_| {}), 0);
    assert_eq!(a.endpoint.flush(), 0);
}

#[test]
fn endpoint_does_not_outlive_its_node() {
    let (a, _b) = ends(MemorySizes::default());
    let End {
        mut endpoint,
        control,
    } = a;
    assert_eq!(endpoint.poll(), Ok(false));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| endpoint.wait(PATIENCE));
        drop(control);
        assert_eq!(waiting.join().unwrap(), Err(Stopped));
    });
}

#[test]
fn endpoint_that_waits_wakes_for_messages_and_commands() {
    let (mut a, mut b) = ends(MemorySizes::default());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            assert_eq!(b.endpoint.wait(PATIENCE), Ok(true));
            let mut message = b.endpoint.next_message().unwrap();
            assert_eq!(message.payload_mut(), b"wake up");
            drop(message);
            // No message, but work of the node's own: a probe to answer.
            assert_eq!(b.endpoint.wait(PATIENCE), Ok(true));
            assert_eq!(b.endpoint.receive(|_| {}), 1);
        });
        a.endpoint.send(node(2), b"wake up").unwrap();
        a.endpoint.flush();
        a.probe(2, 5);
        let end = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < end, "no answer");
            assert_eq!(a.endpoint.wait(Duration::from_millis(10)), Ok(false));
            if let Some(Event::ProbeReply { probe, .. }) = a.control.receive() {
                assert_eq!(probe.id, 5);
                break;
            }
        }
        a.endpoint.send(node(2), b"the end").unwrap();
        a.endpoint.flush();
        waiting.join().unwrap();
    });
}

#[test]
fn an_endpoint_may_go_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Endpoint<Cipher, MemoryBearer>>();
}
