//! Target `segment`: large frames of the host, with whatever header the kernel
//! may write before them. Segments fit, carry the same bytes, and are right by
//! themselves; joined again they are one stream. Imports `input`, `tcp`.

use std::time::Instant;

use tipsec_dataplane::ids::PeerIndex;
use tipsec_dataplane::tap::coalesce::{Coalescer, Received};
use tipsec_dataplane::tap::packet::{Packet, Transport};
use tipsec_dataplane::tap::segment::{Segmenter, TCP_PACKET_MAX};
use tipsec_dataplane::tap::vnet::{Gso, OpenChecksum, VnetHeader};

use crate::Target;
use crate::input::Input;
use crate::tcp::{Made, PAYLOAD_MAX, check_ip, pseudo_sum, sequence};

pub(crate) const TARGET: Target = Target {
    name: "segment",
    run,
    seeds,
};

/// The job: a frame, the kernel's header before it, and the longest segment.
struct Job {
    header: VnetHeader,
    frame: Vec<u8>,
    limit: usize,
    /// Give up after so many segments, the second time.
    abandon_after: usize,
}

/// 16 bytes that say which frame and header, then edits of the frame.
fn read(data: &[u8]) -> Job {
    let mut input = Input::new(data);
    let shape = input.u8();
    let bit = |n: u8| shape >> n & 1 == 1;
    let made = Made {
        v6: bit(0),
        udp: bit(1),
        tagged: bit(2),
        ip_options: bit(3),
        tcp_words: input.u8(),
        flags: input.u8(),
        id: input.u16(),
        sequence: u32::MAX - u32::from(input.u16()),
        payload_len: usize::from(input.u16()).min(PAYLOAD_MAX),
        ..Made::TCP
    };
    let gso_size = input.u16();
    let limit = usize::from(input.u16());
    let abandon_after = input.below(8);
    let gso = match input.u8() {
        0 if made.udp => Gso::Udp,
        0 if made.v6 => Gso::TcpV6,
        0 => Gso::TcpV4,
        other => VnetHeader::decode(&[0, other, 0, 0, 0, 0, 0, 0, 0, 0]).gso,
    };
    let mut frame = made.frame();
    let open = Packet::parse(&frame).map(|packet| OpenChecksum {
        start: u16::try_from(packet.transport_at).unwrap(),
        offset: u16::try_from(packet.checksum_offset()).unwrap(),
    });
    let skew = u16::from(input.u8());
    let checksum = open.map(|open| OpenChecksum {
        start: open.start + skew,
        ..open
    });
    input.edit(&mut frame);
    Job {
        header: VnetHeader {
            checksum,
            gso,
            gso_size,
            header_len: 0,
        },
        frame,
        limit,
        abandon_after,
    }
}

fn run(data: &[u8]) {
    let job = read(data);
    let bytes = job.header.encode();
    assert_eq!(VnetHeader::decode(&bytes), job.header);
    let mut segmenter = Segmenter::new();
    let started = segmenter.start(&job.header, &job.frame, job.frame.len(), job.limit);
    assert_eq!(segmenter.is_pending(), started.is_ok());
    if started.is_err() {
        assert_eq!(segmenter.abandon(), 0);
        return;
    }
    let packet = Packet::parse(&job.frame).expect("it was taken");
    let segments = cut(&job, &mut segmenter, usize::MAX);
    assert_eq!(segmenter.abandon(), 0, "nothing is left");
    check(&job, &packet, &segments);
    if packet.transport == Transport::Tcp {
        join(&job, &packet, &segments);
    }

    let again = segmenter.start(&job.header, &job.frame, job.frame.len(), job.limit);
    assert_eq!(again, Ok(()));
    let some = cut(&job, &mut segmenter, job.abandon_after).len();
    assert_eq!(some + segmenter.abandon(), segments.len(), "given up");
    assert!(!segmenter.is_pending());
}

/// At most so many segments, each with whether its checksum is open.
fn cut(job: &Job, segmenter: &mut Segmenter, at_most: usize) -> Vec<(Vec<u8>, bool)> {
    let mut room = vec![0xee; job.limit];
    let mut segments = Vec::new();
    while segments.len() < at_most
        && let Some(segment) = segmenter.next(&mut room)
    {
        assert!(segment.len <= job.limit);
        segments.push((room[..segment.len].to_vec(), segment.checksum_pending));
        assert!(segments.len() <= job.frame.len(), "it never ends");
    }
    segments
}

fn check(job: &Job, packet: &Packet, segments: &[(Vec<u8>, bool)]) {
    let payload = &job.frame[packet.payload_at..];
    let at = packet.checksum_at();
    let given = u16::from_be_bytes([job.frame[at], job.frame[at + 1]]);
    let was_right = given == pseudo_sum(packet, &job.frame).fold();
    let mut carried = Vec::new();
    for (at, (segment, pending)) in segments.iter().enumerate() {
        let part = Packet::parse(segment).expect("a segment is a packet");
        assert_eq!(part, *packet, "the same headers");
        check_ip(&part, segment);
        let sum = &segment[part.checksum_at()..part.checksum_at() + 2];
        assert_eq!(*pending, packet.is_plain);
        if *pending {
            assert_eq!(sum, [0, 0]);
        } else if was_right {
            let sum = pseudo_sum(&part, segment).with(&segment[part.transport_at..]);
            assert_eq!(sum.checksum(), 0, "checksum of segment {at}");
        }
        if part.transport == Transport::Tcp {
            let from = u32::try_from(carried.len()).unwrap();
            let expected = sequence(packet, &job.frame).wrapping_add(from);
            assert_eq!(sequence(&part, segment), expected);
            let ip_len = segment.len() - part.ip_at;
            let headers = part.payload_at - part.ip_at;
            assert!(ip_len <= TCP_PACKET_MAX.max(headers + 1));
        }
        let own = &segment[part.payload_at..];
        assert!(own.len() <= usize::from(job.header.gso_size));
        carried.extend_from_slice(own);
    }
    assert_eq!(carried, payload, "the bytes of the frame");
}

/// What another node's host gets of the segments.
fn join(job: &Job, packet: &Packet, segments: &[(Vec<u8>, bool)]) {
    let mut coalescer = Coalescer::new();
    let now = Instant::now();
    let mut stream = Vec::new();
    let mut frames = 0;
    let mut out = |delivery: tipsec_dataplane::tap::coalesce::Delivery<'_>| {
        let joined = Packet::parse(delivery.frame).expect("a joined frame is a packet");
        let from = u32::try_from(stream.len()).unwrap();
        let expected = sequence(packet, &job.frame).wrapping_add(from);
        assert_eq!(sequence(&joined, delivery.frame), expected, "in order");
        stream.extend_from_slice(&delivery.frame[joined.payload_at..]);
        frames += delivery.frames;
    };
    for (segment, pending) in segments {
        let mut frame = segment.clone();
        let received = Received {
            peer: PeerIndex(0),
            frame: &mut frame,
            checksum_pending: *pending,
        };
        let offered = coalescer.offer(received, now, &mut out);
        assert_eq!(offered, Ok(()));
    }
    coalescer.flush_all(&mut out);
    assert!(!coalescer.is_holding());
    assert_eq!(stream, job.frame[packet.payload_at..]);
    assert_eq!(frames, u64::try_from(segments.len()).unwrap());
}

fn seeds() -> Vec<Vec<u8>> {
    let seed = |shape: u8, payload: u16, gso: u16, limit: u16| {
        let mut seed = vec![shape, 3, 0x98, 0, 9, 0xff, 0xf0];
        seed.extend(payload.to_be_bytes());
        seed.extend(gso.to_be_bytes());
        seed.extend(limit.to_be_bytes());
        seed.extend([2, 0, 0]);
        seed
    };
    let mut seeds: Vec<_> = (0..16).map(|n| seed(n, 4000, 1400, 1514)).collect();
    seeds.extend([
        seed(0, 60_000, 1448, 9000),
        seed(0, 20_000, 9000, 9014),
        seed(1, 0, 1, 200),
        seed(2, 3000, 1000, 900),
        // Not the checksum's place; a kind that is not offered; UDP as TCP.
        [&seed(0, 3000, 1000, 1514)[..15], &[1]].concat(),
        [&seed(0, 3000, 1000, 1514)[..14], &[3, 0]].concat(),
        [&seed(2, 3000, 1000, 1514)[..14], &[1, 0]].concat(),
        // The data offset points past the end.
        [&seed(0, 10, 5, 1514)[..], &[1, 0, 0, 46, 0xf0]].concat(),
    ]);
    seeds
}
