//! Frames from an attacker: cut short, garbage, with every single bit flipped,
//! replayed, forged, reflected. All are dropped and counted with a reason, and
//! change neither window nor table; the honest frame still opens afterwards.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may stop

mod common;

use common::{Cipher, Node, PEER, UNBOUNDED, pair, secret};
use proptest::prelude::*;
use tipsec_dataplane::bearer::memory::Faults;
use tipsec_dataplane::bearer::{Bearer, FrameMemory, FrameToken};
use tipsec_dataplane::burst::Burst;
use tipsec_dataplane::command::Event;
use tipsec_dataplane::counters::{RxDrop, WorkerCounters};
use tipsec_dataplane::frame::PAYLOAD_OFFSET;
use tipsec_dataplane::ids::Spi;
use tipsec_dataplane::payload::Payload;
use tipsec_dataplane::rx::open_burst;
use tipsec_dataplane::secret::Suite;
use tipsec_dataplane::tx::{Plain, seal_burst};
use tipsec_dataplane::window::PACKET_NUMBERS;

const OUTER: usize = 14;
const HEADER: usize = 16;
const MESSAGE: &[u8] = b"a message of the cluster";
/// Outer header, header, payload byte, message, tag.
const FRAME_LEN: usize = OUTER + HEADER + 1 + MESSAGE.len() + 16;

struct Attack {
    a: Node<Cipher>,
    b: Node<Cipher>,
}

impl Attack {
    fn new() -> Self {
        let (mut a, mut b) = pair::<Cipher>(Faults::default(), 0);
        b.install_rx(7, 1, secret(Suite::Aes256Gcm, 1));
        a.install_tx(7, 1, secret(Suite::Aes256Gcm, 1), UNBOUNDED);
        Self { a, b }
    }

    /// Seals one message and takes it off the wire.
    fn capture(&mut self) -> Vec<u8> {
        self.a.send(1, |_, room| {
            room[..MESSAGE.len()].copy_from_slice(MESSAGE);
            MESSAGE.len()
        });
        self.take()
    }

    /// Takes the one frame that is on its way to b.
    fn take(&mut self) -> Vec<u8> {
        let mut burst = Burst::new();
        self.b.bearer.receive(&mut burst).unwrap();
        let mut frame = burst.pop().unwrap();
        assert!(burst.is_empty());
        let bytes = self.b.bearer.segment_mut(&mut frame, 0).to_vec();
        self.b.bearer.release(frame);
        bytes
    }

    /// Messages that b delivers when these frames arrive in one burst.
    fn arrive<'f>(&mut self, frames: impl IntoIterator<Item = &'f [u8]>) -> Vec<Vec<u8>> {
        let mut count = 0;
        for frame in frames {
            assert!(self.a.bearer.inject(frame));
            count += 1;
        }
        let mut delivered = Vec::new();
        let received = self.b.receive(|message| delivered.push(message.to_vec()));
        assert_eq!(received, count);
        assert_eq!(self.b.bearer.free_frames(), 256, "every frame released");
        assert_eq!(self.b.rx.len(), 1, "the table stays");
        delivered
    }

    fn drops(&self, reason: RxDrop) -> u64 {
        self.b.counters.peer(PEER).rx_drops(reason) + self.b.counters.nobody.rx_drops(reason)
    }

    fn all_drops(&self) -> u64 {
        RxDrop::ALL.iter().map(|&reason| self.drops(reason)).sum()
    }

    fn opened(&self) -> u64 {
        self.b.counters.peer(PEER).opened_frames.value()
    }
}

#[test]
fn cut_short_at_every_length() {
    let mut attack = Attack::new();
    let honest = attack.capture();
    assert_eq!(honest.len(), FRAME_LEN);
    for len in 0..FRAME_LEN {
        assert!(attack.arrive([&honest[..len]]).is_empty(), "{len} bytes");
        assert_eq!(attack.drops(RxDrop::Malformed), len as u64 + 1);
    }
    assert_eq!(attack.arrive([honest.as_slice()]), [MESSAGE]);
    assert_eq!(attack.all_drops(), FRAME_LEN as u64);
}

#[test]
fn every_single_bit_flipped() {
    let mut attack = Attack::new();
    let honest = attack.capture();
    let spi = Spi::new(7).unwrap();
    let mut refused = 0;
    for bit in 0..8 * FRAME_LEN {
        // The outer source address is the bridge's business: nothing is made
        // of it, so a change is not an attack (its group bit is refused).
        let group_bit = bit == 8 * 6;
        if (8 * 6..8 * 12).contains(&bit) && !group_bit {
            continue;
        }
        let mut flipped = honest.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let counts = RxDrop::ALL.iter().map(|&reason| attack.drops(reason));
        let counts: Vec<u64> = counts.collect();
        let before = |reason: RxDrop| counts[reason as usize];
        assert!(attack.arrive([flipped.as_slice()]).is_empty(), "bit {bit}");
        refused += 1;
        assert_eq!(attack.all_drops(), refused, "bit {bit}");
        let reason = match bit / 8 {
            0..16 => RxDrop::Malformed,
            18..22 => RxDrop::UnknownSpi,
            // The upper half of the packet number: a phase that the lane is not
            // in, be it one that no lane has.
            22..26 => RxDrop::UnknownPhase,
            26.. => RxDrop::OpenFailed,
            // A shorter length opens too little of the frame.
            _ => continue,
        };
        assert_eq!(attack.drops(reason), before(reason) + 1, "bit {bit}");
    }
    assert_eq!(attack.drops(RxDrop::UnknownSpi), 32);
    let failed = attack.b.rx.lane(spi).unwrap().shared().failed_opens();
    let failed = failed.count();
    assert_eq!(failed, attack.drops(RxDrop::OpenFailed));
    assert_eq!(attack.drops(RxDrop::UnknownPhase), 32);
    assert!(failed >= 8 * (4 + 1 + MESSAGE.len() as u64 + 16));
    assert_eq!(attack.opened(), 0);
    assert_eq!(attack.b.events, []);
    // The window did not move: the honest frame opens, whoever forwards it.
    let mut forwarded = honest.clone();
    forwarded[6..12].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    assert_eq!(attack.arrive([forwarded.as_slice()]), [MESSAGE]);
    assert!(attack.arrive([honest.as_slice()]).is_empty(), "a replay");
}

#[test]
fn padding_is_not_part_of_the_frame() {
    let mut attack = Attack::new();
    let mut padded = attack.capture();
    padded.resize(2048, 0xee);
    assert_eq!(attack.arrive([padded.as_slice()]), [MESSAGE]);
}

#[test]
fn lengths_that_lie() {
    let mut attack = Attack::new();
    let honest = attack.capture();
    for length in (0..=u16::MAX).filter(|&l| usize::from(l) != FRAME_LEN - OUTER - HEADER) {
        let mut lying = honest.clone();
        lying[16..18].copy_from_slice(&length.to_be_bytes());
        assert!(attack.arrive([lying.as_slice()]).is_empty(), "{length}");
    }
    // As above, but with bytes enough behind for many of them.
    for length in (0..2000).filter(|&l| usize::from(l) != FRAME_LEN - OUTER - HEADER) {
        let mut lying = honest.clone();
        lying.resize(2048, 0);
        lying[16..18].copy_from_slice(&u16::to_be_bytes(length));
        assert!(attack.arrive([lying.as_slice()]).is_empty(), "{length}");
    }
    assert_eq!(attack.all_drops(), 65535 + 1999);
    assert_eq!(attack.arrive([honest.as_slice()]), [MESSAGE]);
}

#[test]
fn replays_and_duplicates_in_one_burst() {
    let mut attack = Attack::new();
    let (first, second) = (attack.capture(), attack.capture());
    let burst = [&first, &second, &first, &second, &first].map(Vec::as_slice);
    assert_eq!(attack.arrive(burst).len(), 2, "one of each wins");
    assert_eq!(attack.drops(RxDrop::Replayed), 3);
    assert!(attack.arrive(burst).is_empty());
    assert_eq!(attack.drops(RxDrop::Replayed), 8);
    assert_eq!(attack.all_drops(), 8);
}

#[test]
fn bad_frames_do_not_stop_the_burst() {
    let mut attack = Attack::new();
    let good: Vec<_> = (0..10).map(|_| attack.capture()).collect();
    let mut forged = attack.capture();
    forged[40] ^= 1;
    let mut stranger = attack.capture();
    stranger[20] ^= 1;
    let mut frames: Vec<&[u8]> = Vec::new();
    for frame in &good {
        frames.extend([&forged[..], &[], &stranger[..], &frame[..]]);
    }
    assert_eq!(attack.arrive(frames).len(), 10);
    assert_eq!(attack.drops(RxDrop::OpenFailed), 10);
    assert_eq!(attack.drops(RxDrop::Malformed), 10);
    assert_eq!(attack.drops(RxDrop::UnknownSpi), 10);
}

#[test]
fn forged_numbers_do_not_move_the_window() {
    let mut attack = Attack::new();
    let honest = attack.capture();
    let numbers = [
        1,
        8191,
        8192,
        1 << 32,
        PACKET_NUMBERS - 1,
        PACKET_NUMBERS,
        u64::MAX,
    ];
    for number in numbers {
        let mut forged = honest.clone();
        forged[22..30].copy_from_slice(&number.to_be_bytes());
        assert!(attack.arrive([forged.as_slice()]).is_empty(), "{number}");
    }
    assert_eq!(attack.drops(RxDrop::OpenFailed), 3);
    assert_eq!(attack.drops(RxDrop::UnknownPhase), 4);
    assert_eq!(attack.arrive([honest.as_slice()]), [MESSAGE]);
}

#[test]
fn reflected_and_misdirected_frames() {
    let mut attack = Attack::new();
    let honest = attack.capture();
    let b_mac: [u8; 6] = honest[0..6].try_into().unwrap();
    let mut own = honest.clone();
    own[6..12].copy_from_slice(&b_mac);
    let mut group = honest.clone();
    group[0..6].copy_from_slice(&[0xff; 6]);
    assert!(attack.arrive([&own[..], &group[..]]).is_empty());
    assert_eq!(attack.drops(RxDrop::Malformed), 2);
    assert_eq!(attack.arrive([honest.as_slice()]), [MESSAGE]);
}

#[test]
fn failed_opens_stop_the_lane_and_say_so_once() {
    let mut attack = Attack::new();
    let spi = Spi::new(7).unwrap();
    assert!(attack.b.rx.remove(spi));
    attack
        .b
        .install_rx_limited(7, 1, secret(Suite::Aes256Gcm, 1), 3);
    let honest = attack.capture();
    let mut forged = honest.clone();
    *forged.last_mut().unwrap() ^= 0x80;
    for _ in 0..5 {
        assert!(attack.arrive([forged.as_slice()]).is_empty());
    }
    assert_eq!(attack.drops(RxDrop::OpenFailed), 3);
    assert_eq!(attack.drops(RxDrop::OpenLimit), 2);
    assert!(
        attack.arrive([honest.as_slice()]).is_empty(),
        "fails closed"
    );
    assert_eq!(attack.b.events, [Event::OpenLimit { peer: PEER, spi }]);
}

#[test]
fn authentic_nonsense_is_counted_at_its_peer() {
    let mut attack = Attack::new();
    for first_byte in (0..=u8::MAX).filter(|&b| Payload::decode(b).is_none()) {
        let a = &mut attack.a;
        let mut frame = a.bearer.allocate().unwrap();
        a.bearer.room_mut(&mut frame)[PAYLOAD_OFFSET] = first_byte;
        let mut plain = Burst::from_iter([Plain::data(frame, PEER, 1)]);
        let mut sealed = Burst::new();
        seal_burst(
            &mut a.tx,
            &mut a.bearer,
            &mut plain,
            &mut sealed,
            &a.counters,
            |_| (),
        );
        a.bearer.transmit(&mut sealed).unwrap();
        let captured = attack.take();
        assert!(attack.arrive([captured.as_slice()]).is_empty());
        assert!(attack.arrive([captured.as_slice()]).is_empty());
    }
    let nonsense = 256 - 6;
    let peer = attack.b.counters.peer(PEER);
    assert_eq!(peer.rx_drops(RxDrop::BadPayload), nonsense);
    assert_eq!(peer.rx_drops(RxDrop::Replayed), nonsense, "opened once");
}

proptest! {
    #[test]
    fn garbage_is_dropped(tail in prop::collection::vec(any::<u8>(), 0..200), keep in 0usize..40) {
        let mut attack = Attack::new();
        let honest = attack.capture();
        let mut garbage = honest[..keep].to_vec();
        garbage.extend(tail);
        prop_assume!(garbage[keep.min(garbage.len())..] != honest[keep..]);
        prop_assert!(attack.arrive([garbage.as_slice()]).is_empty());
        prop_assert_eq!(attack.all_drops(), 1);
        prop_assert_eq!(attack.arrive([honest.as_slice()]), [MESSAGE]);
    }
}

/// Memory whose frames come in two buffers.
struct Scattered {
    buffers: [Vec<u8>; 2],
    released: usize,
}

struct ScatteredFrame;

impl FrameToken for ScatteredFrame {
    fn segments(&self) -> usize {
        2
    }
}

impl FrameMemory for Scattered {
    type Frame = ScatteredFrame;

    fn allocate(&mut self) -> Option<ScatteredFrame> {
        None
    }

    fn release(&mut self, _: ScatteredFrame) {
        self.released += 1;
    }

    fn segment_mut<'a>(&'a mut self, _: &'a mut ScatteredFrame, index: usize) -> &'a mut [u8] {
        &mut self.buffers[index]
    }

    fn room_mut<'a>(&'a mut self, _: &'a mut ScatteredFrame) -> &'a mut [u8] {
        &mut self.buffers[0]
    }

    fn extent(&self, _: &ScatteredFrame) -> (usize, usize) {
        (0, self.buffers[0].len())
    }

    fn set_extent(&mut self, _: &mut ScatteredFrame, _: usize, _: usize) {}
}

#[test]
fn frames_in_two_buffers_are_refused() {
    let mut attack = Attack::new();
    let honest = attack.capture();
    let mut memory = Scattered {
        buffers: [honest[..60].to_vec(), honest[60..].to_vec()],
        released: 0,
    };
    let mut received = Burst::from_iter([ScatteredFrame]);
    let mut opened = Burst::new();
    let counters = WorkerCounters::new(16);
    open_burst(
        &mut attack.b.rx,
        &attack.b.encapsulation,
        &mut memory,
        &mut received,
        &mut opened,
        &counters,
        |_| (),
    );
    assert!(received.is_empty() && opened.is_empty());
    assert_eq!(memory.released, 1);
    assert_eq!(counters.nobody.rx_drops(RxDrop::Fragmented), 1);
}
