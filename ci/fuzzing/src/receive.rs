//! Target `receive`: the receive pipeline against whoever can record frames,
//! change them and put them on the wire again, in any number and order. Only
//! what was sealed opens, and that once. Imports `input`.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use tipsec_dataplane::aead::ring::Ring;
use tipsec_dataplane::bearer::memory::{Faults, MemoryBearer, MemoryFrame, MemorySizes};
use tipsec_dataplane::bearer::{Bearer, FrameMemory};
use tipsec_dataplane::burst::{BURST, Burst};
use tipsec_dataplane::command::{Budget, RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::counters::{RxDrop, WorkerCounters};
use tipsec_dataplane::frame::PAYLOAD_OFFSET;
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::{Encapsulation, OuterHeader};
use tipsec_dataplane::payload::{Payload, Probe, ProbeOp};
use tipsec_dataplane::phase::{Phase, PhaseBits};
use tipsec_dataplane::rx::{Opened, open_burst};
use tipsec_dataplane::sa::{RxLane, RxShared, TxLane};
use tipsec_dataplane::secret::{LaneSecret, Suite};
use tipsec_dataplane::table::{RxTable, TxTable};
use tipsec_dataplane::tx::{Plain, Sealed, seal_burst};
use tipsec_xdp::wire::SPI_INDEX_BITS;

use crate::Target;
use crate::input::Input;

pub(crate) const TARGET: Target = Target {
    name: "receive",
    run,
    seeds,
};

const SENDER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const RECEIVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const ETHERTYPE: u16 = 0x88b5;
const PEER: PeerIndex = PeerIndex(0);
/// Two lanes, each with a suite of its own.
const LANES: [(u32, Suite); 2] = [
    (5, Suite::Aes256Gcm),
    (3 << SPI_INDEX_BITS | 6, Suite::ChaCha20Poly1305),
];
const SIZES: MemorySizes = MemorySizes {
    frames: 2 * BURST,
    max_frame_len: 640,
    wire_frames: BURST,
};
/// Frames of one input.
const FRAMES_MAX: usize = 4 * BURST;

/// A frame as it was sealed.
struct Recorded {
    frame: Vec<u8>,
    plaintext: Vec<u8>,
}

fn node(id: u32) -> NodeId {
    NodeId::new(id).unwrap()
}

fn secret(lane: usize) -> LaneSecret {
    let (_, suite) = LANES[lane];
    let tag = u8::try_from(lane).unwrap();
    LaneSecret::new(suite, [0x11 + tag; 32], [0x22 + tag; 12])
}

/// What travels: tap frames, messages, probes, and a kind of a later version.
fn plaintexts() -> Vec<Vec<u8>> {
    let probe = |op, id| {
        let phase = Phase::FIRST;
        Probe { op, id, phase }.encode().to_vec()
    };
    let tap = |group| Payload::Tap {
        group,
        checksum_pending: false,
    };
    vec![
        [&[tap(false).encode(), 8, 0][..], b"an IPv4 packet"].concat(),
        [&[tap(true).encode(), 8, 6][..], b"a question to everybody"].concat(),
        [&[Payload::Message.encode()][..], &[0x4d; 400]].concat(),
        [&[Payload::Message.encode()][..], b"short"].concat(),
        probe(ProbeOp::Request, 1),
        probe(ProbeOp::Reply, 2),
        vec![0x7f, 1, 2, 3],
        vec![tap(false).encode()],
    ]
}

/// Seals every plaintext on every lane, once in the life of the process.
fn recorded() -> &'static [Recorded] {
    static RECORDED: OnceLock<Vec<Recorded>> = OnceLock::new();
    RECORDED.get_or_init(|| (0..LANES.len()).flat_map(record).collect())
}

fn record(lane: usize) -> Vec<Recorded> {
    let (mut bearer, mut wire) = MemoryBearer::pair(SIZES, Faults::default(), 0).unwrap();
    let mut table = TxTable::<Ring>::new(1);
    let path = OuterHeader::ethernet(SENDER, RECEIVER, ETHERTYPE, None);
    table.set_path(PEER, Some(path));
    let spec = TxLaneSpec {
        spi: Spi::new(LANES[lane].0).unwrap(),
        peer: PEER,
        node: node(2),
        epoch: Epoch(1),
        lane: LaneIndex(0),
        secret: secret(lane),
        next: None,
        phase_bits: PhaseBits::PROTOCOL,
        budget: Budget {
            soft: 1 << 32,
            hard: 1 << 32,
        },
    };
    table.install(TxLane::new(spec)).unwrap();
    let mut plain = Burst::new();
    let mut sealed: Burst<Sealed<MemoryFrame>> = Burst::new();
    let plaintexts = plaintexts();
    for plaintext in &plaintexts {
        let mut frame = bearer.allocate().unwrap();
        let room = bearer.room_mut(&mut frame);
        room[PAYLOAD_OFFSET..PAYLOAD_OFFSET + plaintext.len()].copy_from_slice(plaintext);
        plain.push(Plain::data(frame, PEER, plaintext.len()));
    }
    let counters = WorkerCounters::new(1);
    seal_burst(
        &mut table,
        &mut bearer,
        &mut plain,
        &mut sealed,
        &counters,
        |_| {},
    );
    bearer.transmit(&mut sealed).unwrap();
    let mut frames = Burst::new();
    wire.receive(&mut frames).unwrap();
    assert_eq!(frames.len(), plaintexts.len());
    let mut taken = |mut frame| wire.segment_mut(&mut frame, 0).to_vec();
    let frames = frames.drain(..).map(&mut taken);
    frames
        .zip(plaintexts)
        .map(|(frame, plaintext)| Recorded { frame, plaintext })
        .collect()
}

/// The victim.
struct Receiver {
    wire: MemoryBearer,
    bearer: MemoryBearer,
    encapsulation: Encapsulation,
    table: RxTable<Ring>,
    windows: Vec<Arc<RxShared>>,
    counters: WorkerCounters,
    arrived: usize,
    /// How often each plaintext was delivered.
    delivered: HashMap<Vec<u8>, usize>,
}

impl Receiver {
    fn new() -> Self {
        let (wire, bearer) = MemoryBearer::pair(SIZES, Faults::default(), 0).unwrap();
        let mut table = RxTable::new(8);
        let mut windows = Vec::new();
        for (lane, (spi, _)) in LANES.iter().enumerate() {
            let shared = RxShared::of_single_lane(1 << 30);
            let spec = RxLaneSpec {
                spi: Spi::new(*spi).unwrap(),
                peer: PEER,
                node: node(1),
                epoch: Epoch(1),
                lane: LaneIndex(u8::try_from(lane).unwrap()),
                secret: secret(lane),
                next: None,
                phase_bits: PhaseBits::PROTOCOL,
                shared: Arc::clone(&shared),
            };
            table.insert(RxLane::new(spec)).unwrap();
            windows.push(shared);
        }
        Self {
            wire,
            bearer,
            encapsulation: Encapsulation::ethernet(RECEIVER, ETHERTYPE, None),
            table,
            windows,
            counters: WorkerCounters::new(1),
            arrived: 0,
            delivered: HashMap::new(),
        }
    }

    /// One pass over what is on the wire.
    fn pass(&mut self) {
        let mut received = Burst::new();
        let mut opened: Burst<Opened<MemoryFrame>> = Burst::new();
        self.bearer.receive(&mut received).unwrap();
        self.arrived += received.len();
        open_burst(
            &mut self.table,
            &self.encapsulation,
            &mut self.bearer,
            &mut received,
            &mut opened,
            &self.counters,
            |_| {},
        );
        assert!(received.is_empty());
        for mut frame in opened.drain(..) {
            assert_eq!((frame.peer(), frame.node()), (PEER, node(1)));
            let plaintext = frame.plaintext_mut(&mut self.bearer).to_vec();
            assert_eq!(Payload::decode(plaintext[0]), Some(frame.payload()));
            if let Some(tap) = frame.tap_frame_mut(&mut self.bearer, node(2)) {
                assert_eq!(tap[6..12], MacAddr::of_tap(node(1)).0, "whose it is");
                assert_eq!(tap[12..], plaintext[1..]);
            }
            *self.delivered.entry(plaintext).or_default() += 1;
            self.bearer.release(frame.into_frame());
        }
        assert_eq!(self.bearer.free_frames(), SIZES.frames, "memory is lost");
    }

    fn drops(&self) -> u64 {
        let all = [self.counters.peer(PEER), &self.counters.nobody];
        let of = |reason: &RxDrop| all.iter().map(|c| c.rx_drops(*reason)).sum::<u64>();
        RxDrop::ALL.iter().map(of).sum()
    }
}

/// Steps: a recorded frame by its number, and edits of it; any bytes; a pass.
fn run(data: &[u8]) {
    let recorded = recorded();
    let mut receiver = Receiver::new();
    let mut input = Input::new(data);
    let mut whole = vec![false; recorded.len()];
    for _ in 0..FRAMES_MAX {
        if input.is_empty() {
            break;
        }
        let step = input.u8();
        let frame = match step {
            0..0xa0 => {
                let mut frame = recorded[usize::from(step) % recorded.len()].frame.clone();
                input.edit(&mut frame);
                frame
            }
            0xa0..0xe0 => {
                let len = 4 * usize::from(step - 0xa0);
                input.take(len).to_vec()
            }
            _ => {
                receiver.pass();
                continue;
            }
        };
        if let Some(at) = recorded.iter().position(|known| known.frame == frame) {
            whole[at] = true;
        }
        if !receiver.wire.inject(&frame) {
            receiver.pass();
            // Longer than the wire carries, if it is refused again.
            let _ = receiver.wire.inject(&frame);
        }
    }
    receiver.pass();
    judge(&receiver, recorded, &whole);
}

fn judge(receiver: &Receiver, recorded: &[Recorded], whole: &[bool]) {
    let mut most = HashMap::<&[u8], usize>::new();
    let mut least = HashMap::<&[u8], usize>::new();
    for (known, whole) in recorded.iter().zip(whole) {
        *most.entry(&known.plaintext).or_default() += 1;
        let means_something = Payload::decode(known.plaintext[0]).is_some();
        *least.entry(&known.plaintext).or_default() += usize::from(*whole && means_something);
    }
    for (plaintext, &count) in &receiver.delivered {
        let most = most.get(plaintext.as_slice()).copied().unwrap_or(0);
        assert!(count <= most, "{plaintext:02x?} came {count} times");
    }
    for (plaintext, least) in least {
        let count = receiver.delivered.get(plaintext).copied().unwrap_or(0);
        assert!(
            count >= least,
            "{plaintext:02x?} arrived whole, and was lost"
        );
    }
    let delivered: usize = receiver.delivered.values().sum();
    let counted = usize::try_from(receiver.drops()).unwrap() + delivered;
    assert_eq!(counted, receiver.arrived, "a frame is not counted");
    // Numbers that nobody used: no window has moved.
    let unused = u64::try_from(plaintexts().len()).unwrap();
    for shared in &receiver.windows {
        for number in [unused, 1 << 13, 1 << 32, (1 << 45) - 1] {
            assert!(shared.window().check(number), "the window moved: {number}");
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let count = u8::try_from(recorded().len()).unwrap();
    let all: Vec<u8> = (0..count).flat_map(|n| [n, 0]).collect();
    let mut seeds = vec![
        // Twice in one burst, and again in the next.
        [&all[..], &all, &[0xe0], &all].concat(),
        // One bit of the tag, cut short, a longer length, the packet number.
        vec![0, 1, 1, 0x80, 0, 1, 0xe0, 0, 0],
        vec![1, 1, 2, 0, 40, 0xe0, 1, 0],
        vec![2, 1, 0, 0, 17, 0xff, 0xe0, 2, 0],
        vec![3, 1, 0, 0, 29, 9, 3, 1, 1, 0, 22, 0x80, 0xe0, 3, 0],
        // Padded, from another station.
        vec![4, 2, 3, 0, 60, 0xee, 0, 0, 6, 8],
        all,
    ];
    let mut raw = vec![0xa0 + 20];
    raw.extend_from_slice(&recorded()[0].frame);
    seeds.push(raw);
    seeds
}
