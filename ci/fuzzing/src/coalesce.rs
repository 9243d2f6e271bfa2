//! Target `coalesce`: received frames of some connections, in any order and
//! shape. What comes out is what went in: each connection's frames in order,
//! joined only where the kernel can cut the same segments again. Imports
//! `input`, `tcp`.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use tipsec_dataplane::ids::PeerIndex;
use tipsec_dataplane::tap::FRAME_MAX;
use tipsec_dataplane::tap::coalesce::{Coalescer, Delivery, FLOWS, HOLD, Received};
use tipsec_dataplane::tap::packet::{Packet, TCP_ACK, TCP_PSH, Transport};
use tipsec_dataplane::tap::segment::{Segmenter, TCP_PACKET_MAX};
use tipsec_dataplane::tap::vnet::Gso;

use crate::Target;
use crate::input::Input;
use crate::tcp::{Made, check_ip, comparable, complete, pseudo_sum};

pub(crate) const TARGET: Target = Target {
    name: "coalesce",
    run,
    seeds,
};

/// Frames of one input.
const FRAMES_MAX: usize = 96;
/// Connections, more than are held at the same time.
const CONNECTIONS: usize = FLOWS + 4;

/// Whose order counts: a peer's TCP connection, or everything else of a peer.
type Stream = (u16, Option<(Vec<u8>, [u8; 4])>);

/// A frame that was offered, and whether its checksum was open.
type Offered = (Vec<u8>, bool);

/// What has gone in and not come out.
#[derive(Default)]
struct Waiting(HashMap<Stream, VecDeque<Offered>>);

fn stream_of(peer: PeerIndex, frame: &[u8]) -> Stream {
    let tcp = Packet::parse(frame).filter(|packet| packet.transport == Transport::Tcp);
    let connection = tcp.map(|packet| {
        let ports = frame[packet.transport_at..].first_chunk().copied().unwrap();
        (packet.addresses(frame).to_vec(), ports)
    });
    (peer.0, connection)
}

impl Waiting {
    fn push(&mut self, peer: PeerIndex, frame: Vec<u8>, pending: bool) {
        let stream = stream_of(peer, &frame);
        self.0
            .entry(stream)
            .or_default()
            .push_back((frame, pending));
    }

    fn is_empty(&self) -> bool {
        self.0.values().all(VecDeque::is_empty)
    }

    /// Takes what a delivery was made of, and compares.
    fn on_delivery(&mut self, delivery: &Delivery<'_>) {
        let stream = stream_of(delivery.peer, delivery.frame);
        let queue = self.0.get_mut(&stream).expect("nothing of it was offered");
        let count = usize::try_from(delivery.frames).unwrap();
        assert!(count > 0 && count <= queue.len(), "{count} frames in it");
        let parts: Vec<Offered> = queue.drain(..count).collect();
        match &parts[..] {
            [(frame, pending)] => check_single(delivery, frame, *pending),
            parts => check_joined(delivery, parts),
        }
    }
}

/// As it came; an open checksum's field then holds the pseudo-header's sum.
fn check_single(delivery: &Delivery<'_>, frame: &[u8], pending: bool) {
    assert_eq!(delivery.header.gso, Gso::None);
    assert_eq!(delivery.header.checksum.is_some(), pending);
    if !pending {
        assert_eq!(delivery.frame, frame);
        return;
    }
    let packet = Packet::parse(frame).expect("its checksum is open");
    let at = packet.checksum_at();
    let mut expected = frame.to_vec();
    let sum = pseudo_sum(&packet, frame).fold();
    expected[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(delivery.frame, expected);
}

/// Cut as the kernel would, it is what it was joined from.
fn check_joined(delivery: &Delivery<'_>, parts: &[Offered]) {
    let frame = delivery.frame;
    let packet = Packet::parse(frame).expect("a joined frame is a packet");
    check_ip(&packet, frame);
    let open = delivery.header.checksum.expect("its checksum is open");
    assert_eq!(usize::from(open.start), packet.transport_at);
    let at = packet.checksum_at();
    let sum = pseudo_sum(&packet, frame).fold().to_be_bytes();
    assert_eq!(frame[at..at + 2], sum);
    // A checksum that was wrong has not become right.
    for (part, pending) in parts {
        let own = Packet::parse(part).unwrap();
        let sum = pseudo_sum(&own, part).with(&part[own.transport_at..]);
        assert!(*pending || sum.checksum() == 0);
    }
    let step = usize::from(delivery.header.gso_size);
    if packet.payload_at - packet.ip_at + step > TCP_PACKET_MAX {
        // Longer than we cut ourselves; the kernel does.
        let payload = parts
            .iter()
            .flat_map(|(part, _)| &part[packet.payload_at..]);
        assert!(payload.eq(&frame[packet.payload_at..]));
        return;
    }
    let mut segmenter = Segmenter::new();
    let started = segmenter.start(&delivery.header, frame, frame.len(), FRAME_MAX);
    assert_eq!(started, Ok(()));
    let mut room = vec![0; FRAME_MAX];
    for (part, _) in parts {
        let segment = segmenter.next(&mut room).expect("as many segments");
        assert_eq!(comparable(&room[..segment.len]), comparable(part));
    }
    assert!(!segmenter.is_pending(), "as many segments");
    let push = |frame: &[u8]| frame[packet.transport_at + 13] & TCP_PSH;
    let (last, _) = parts.last().unwrap();
    assert_eq!(push(frame), push(last));
    assert!(
        parts[..parts.len() - 1]
            .iter()
            .all(|(part, _)| push(part) == 0)
    );
}

/// Steps: a frame of a connection (which, how it follows, flags, length,
/// edits), time, or a flush.
fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut coalescer = Coalescer::new();
    let mut waiting = Waiting::default();
    let mut next = [u32::MAX - 1000; CONNECTIONS];
    let mut ids = [0_u16; CONNECTIONS];
    let mut now = Instant::now();
    for _ in 0..FRAMES_MAX {
        if input.is_empty() {
            break;
        }
        let step = input.u8();
        if step >= 0xf0 {
            now += Duration::from_micros(u64::from(step - 0xf0) * 10);
            coalescer.flush_due(now, &mut |delivery| waiting.on_delivery(&delivery));
            if let Some(due) = coalescer.next_due() {
                assert!(due > now && due <= now + HOLD, "held for too long");
            }
            continue;
        }
        let connection = usize::from(step) % CONNECTIONS;
        let shape = input.u8();
        let bit = |n: u8| shape >> n & 1 == 1;
        let payload_len = match bit(5) {
            true => usize::from(input.u16() % 4096),
            false => 100,
        };
        let made = Made {
            v6: connection % 3 == 2,
            udp: bit(7) && bit(6),
            ip_options: bit(4),
            connection: u8::try_from(connection).unwrap(),
            id: ids[connection],
            sequence: next[connection].wrapping_add(u32::from(bit(3))),
            flags: if bit(0) { TCP_ACK | TCP_PSH } else { TCP_ACK },
            payload_len,
            ..Made::TCP
        };
        let mut frame = made.frame();
        let pending = !bit(1);
        if !pending {
            complete(&mut frame);
        }
        if bit(2) {
            input.edit(&mut frame);
            // As long as the bearer carries them, and with the addresses that
            // `rx` writes: a sender cannot choose them.
            frame.truncate(9216);
            let addresses = match frame.first().is_some_and(|byte| byte & 1 == 1) {
                true => [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2],
                false => [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2],
            };
            frame.resize(frame.len().max(14), 0);
            frame[..12].copy_from_slice(&addresses);
        }
        next[connection] = made
            .sequence
            .wrapping_add(u32::try_from(payload_len).unwrap());
        ids[connection] = ids[connection].wrapping_add(u16::from(!bit(6)));
        let peer = PeerIndex(u16::from(step >> 6));
        offer(&mut coalescer, &mut waiting, peer, frame, pending, now);
    }
    coalescer.flush_all(&mut |delivery| waiting.on_delivery(&delivery));
    assert!(!coalescer.is_holding() && coalescer.next_due().is_none());
    assert!(waiting.is_empty(), "frames are lost");
}

fn offer(
    coalescer: &mut Coalescer,
    waiting: &mut Waiting,
    peer: PeerIndex,
    mut frame: Vec<u8>,
    checksum_pending: bool,
    now: Instant,
) {
    let packet = Packet::parse(&frame);
    let findable = packet.is_some_and(|packet| packet.is_plain);
    let refused = checksum_pending && !findable;
    if !refused {
        waiting.push(peer, frame.clone(), checksum_pending);
    }
    let received = Received {
        peer,
        frame: &mut frame,
        checksum_pending,
    };
    let mut out = |delivery: Delivery<'_>| waiting.on_delivery(&delivery);
    let offered = coalescer.offer(received, now, &mut out);
    assert_eq!(offered.is_err(), refused);
}

fn seeds() -> Vec<Vec<u8>> {
    // One connection, four segments, the last pushes; checksums open, closed.
    let run = |connection: u8, shape: u8| {
        let follow = [connection, shape];
        [follow, follow, follow, [connection, shape | 1]].concat()
    };
    let interleaved: Vec<u8> = (0..40).flat_map(|n| [n % 13, 0]).collect();
    vec![
        run(0, 0),
        run(0, 2),
        run(2, 0),
        run(2, 2),
        run(1, 0x40),
        interleaved,
        // A gap, time, a shorter last one.
        vec![0, 0, 0, 0, 0, 8, 0, 0, 0xf7, 0, 0, 0, 0x20, 0, 50, 0, 0],
        // Options of IP; UDP between; an edit of the window.
        vec![0, 0, 0, 0x12, 0, 0, 0, 0xc0, 0, 0],
        vec![0, 0, 0, 4, 1, 0, 0, 48, 9, 0, 0],
        // A wrong checksum between right ones.
        vec![0, 2, 0, 6, 1, 1, 0, 50, 0xff, 0, 2],
        // Long ones.
        vec![3, 0x20, 13, 0xff, 3, 0x20, 13, 0xff, 3, 0x20, 1, 0],
    ]
}
