//! Cutting and joining large frames, against frames that are built and read
//! independently.
// A test may stop at the first surprise.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod inner;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use inner::{ACK, CWR, ECE, Extra, FIN, Inner, PSH, RST, SYN, State, URG};
use proptest::prelude::*;
use tipsec_dataplane::ids::PeerIndex;
use tipsec_dataplane::tap::FRAME_MAX;
use tipsec_dataplane::tap::coalesce::{Coalescer, Delivery, FLOWS, HOLD, NoSuchChecksum, Received};
use tipsec_dataplane::tap::packet::Packet;
use tipsec_dataplane::tap::partial::{BadOffload, settle};
use tipsec_dataplane::tap::segment::{Segmenter, TCP_PACKET_MAX, Uncut};
use tipsec_dataplane::tap::vnet::{Gso, OpenChecksum, VNET_LEN, VnetHeader};

/// Longest frame of a tap with an MTU of 1465.
const LIMIT: usize = 1479;

fn start(
    segmenter: &mut Segmenter,
    header: &VnetHeader,
    frame: &[u8],
    limit: usize,
) -> Result<(), Uncut> {
    let head_len = frame.len().min(limit);
    let rest = &frame[head_len..];
    segmenter.overflow_mut(limit)[..rest.len()].copy_from_slice(rest);
    // The rest of the head's room is what an earlier frame left there.
    let mut head = vec![0xee; limit];
    head[..head_len].copy_from_slice(&frame[..head_len]);
    segmenter.start(header, &head, frame.len(), limit)
}

/// All segments of a started frame, each written to room of just `limit` bytes.
fn segments(segmenter: &mut Segmenter, limit: usize) -> Vec<(Vec<u8>, bool)> {
    let mut all = Vec::new();
    while segmenter.is_pending() {
        let mut room = vec![0xcc; limit];
        let segment = segmenter.next(&mut room).unwrap();
        assert!(room[segment.len..].iter().all(|&byte| byte == 0xcc));
        room.truncate(segment.len);
        all.push((room, segment.checksum_pending));
    }
    assert_eq!(segmenter.next(&mut [0; 4096]), None);
    all
}

/// A delivery, kept.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Kept {
    peer: PeerIndex,
    header: VnetHeader,
    frame: Vec<u8>,
    frames: u64,
}

/// What a host has got.
#[derive(Default)]
struct Host(Vec<Kept>);

impl Host {
    fn take(&mut self, delivery: &Delivery<'_>) {
        self.0.push(Kept {
            peer: delivery.peer,
            header: delivery.header,
            frame: delivery.frame.to_vec(),
            frames: delivery.frames,
        });
    }

    /// The received frames again, as the kernel would cut them: those that are
    /// right, and others byte for byte.
    fn cut(&self) -> Vec<(PeerIndex, Inner, State)> {
        let mut all = Vec::new();
        for kept in &self.0 {
            if kept.header == VnetHeader::default() {
                let (inner, state) = Inner::read_closed(&kept.frame);
                all.push((kept.peer, inner, state));
                assert_eq!(kept.frames, 1);
                continue;
            }
            let whole = Inner::read_open(&kept.frame);
            if kept.header.gso == Gso::None {
                let checksum = whole.vnet(0).checksum;
                let open = VnetHeader {
                    checksum,
                    ..VnetHeader::default()
                };
                assert_eq!((kept.header, kept.frames), (open, 1));
                all.push((kept.peer, whole, State::Complete));
                continue;
            }
            // What virtio_net_hdr_to_skb and tcp_gso_segment ask for.
            assert_eq!(kept.header, whole.vnet(kept.header.gso_size));
            assert!(kept.header.gso_size > 0 && kept.frame.len() <= 65_535);
            let pieces = whole.cut(kept.header.gso_size.into());
            assert_eq!(pieces.len() as u64, kept.frames);
            assert!(kept.frames > 1);
            let right = |piece| (kept.peer, piece, State::Complete);
            all.extend(pieces.into_iter().map(right));
        }
        all
    }
}

fn offer(
    coalescer: &mut Coalescer,
    peer: u16,
    (frame, checksum_pending): &(Vec<u8>, bool),
    now: Instant,
    host: &mut Host,
) -> Result<(), NoSuchChecksum> {
    let received = Received {
        peer: PeerIndex(peer),
        frame: &mut frame.clone(),
        checksum_pending: *checksum_pending,
    };
    coalescer.offer(received, now, &mut |delivery| host.take(&delivery))
}

fn any_inner() -> impl Strategy<Value = Inner> {
    let shape = (any::<bool>(), any::<bool>(), 0..3usize, 0..8u8);
    let numbers = (any::<u32>(), any::<u16>(), any::<u16>(), any::<bool>());
    let tcp = (
        proptest::collection::vec(any::<u8>(), 0..=10),
        prop_oneof![Just(ACK), Just(ACK | PSH), any::<u8>()],
    );
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..20),
        proptest::collection::vec(any::<u8>(), 0..5000),
        (any::<u8>(), 0..60_000usize)
            .prop_map(|(seed, len)| { (0..len).map(|i| ((i * 31) >> 3) as u8 ^ seed).collect() }),
    ];
    (shape, numbers, tcp, payload).prop_map(
        |((v6, udp, vlan_tags, extra), (sequence, id, window, df), (options, flags), payload)| {
            Inner {
                v6,
                udp,
                vlan_tags,
                extra: match extra {
                    0 => Extra::Options,
                    1 if v6 => Extra::Routing,
                    _ => Extra::Nothing,
                },
                sequence,
                // IPv6 has none: the default.
                id: if v6 { 5 } else { id },
                window,
                dont_fragment: v6 || df,
                flags,
                tcp_options: options.iter().flat_map(|&b| [b; 4]).collect(),
                payload,
                ..Inner::default()
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn segments_are_what_the_rfcs_say(
        inner in any_inner(),
        gso_size in prop_oneof![1..40u16, 500..1300u16],
    ) {
        // Not more than a kernel would hand over.
        let mut inner = inner;
        inner.payload.truncate(usize::from(gso_size) * 128);
        let mut segmenter = Segmenter::new();
        let frame = inner.frame(State::Partial);
        prop_assert_eq!(start(&mut segmenter, &inner.vnet(gso_size), &frame, LIMIT), Ok(()));
        let cut = segments(&mut segmenter, LIMIT);
        let wanted = inner.cut(gso_size.into());
        prop_assert_eq!(cut.len(), wanted.len());
        for ((bytes, pending), wanted) in cut.iter().zip(&wanted) {
            prop_assert_eq!(*pending, inner.extra == Extra::Nothing);
            let state = if *pending { State::Zero } else { State::Complete };
            prop_assert_eq!(bytes, &wanted.frame(state));
        }
    }

    #[test]
    fn stream_survives_cut_and_join(
        inner in any_inner(),
        gso_size in 100..1300u16,
    ) {
        let inner = Inner { udp: false, ..inner };
        let mut segmenter = Segmenter::new();
        let frame = inner.frame(State::Partial);
        start(&mut segmenter, &inner.vnet(gso_size), &frame, LIMIT).unwrap();
        let (mut coalescer, mut host, now) = (Coalescer::new(), Host::default(), Instant::now());
        for segment in segments(&mut segmenter, LIMIT) {
            offer(&mut coalescer, 1, &segment, now, &mut host).unwrap();
        }
        coalescer.flush_all(&mut |delivery| host.take(&delivery));
        let got = host.cut();
        for (_, _, state) in &got {
            prop_assert_eq!(*state, State::Complete);
        }
        let got: Vec<_> = got.into_iter().map(|(_, piece, _)| piece).collect();
        let wanted = inner.cut(gso_size.into());
        prop_assert_eq!(&got, &wanted);
        let plain = inner.extra == Extra::Nothing && inner.vlan_tags == 0;
        if plain && inner.flags & !PSH == ACK && wanted.len() > 1 {
            prop_assert_eq!(host.0.len(), 1, "all in one");
        }
    }

    /// Whatever comes in whatever order: each connection's frames leave as they
    /// came.
    #[test]
    fn nothing_is_reordered_lost_or_changed_within_a_flow(
        steps in proptest::collection::vec(
            // Flow, what to do, payload length, change, microseconds.
            (0..12u8, 0..12u8, prop_oneof![Just(100usize), 1..120usize], any::<u8>(), 0..30u64),
            1..300,
        ),
    ) {
        let mut flows: HashMap<u8, Inner> = HashMap::new();
        let mut offered: HashMap<(u16, u8), Vec<(Inner, State)>> = HashMap::new();
        let (mut coalescer, mut host) = (Coalescer::new(), Host::default());
        let mut now = Instant::now();
        for (flow, action, len, change, us) in steps {
            now += Duration::from_micros(us);
            coalescer.flush_due(now, &mut |delivery| host.take(&delivery));
            let peer = u16::from(flow % 3);
            let next = flows.entry(flow).or_insert_with(|| Inner {
                v6: flow % 2 == 1,
                id: 5,
                host: flow + 1,
                ..Inner::default()
            });
            let mut frame = Inner {
                payload: (0..len).map(|i| i as u8 ^ change).collect(),
                ..next.clone()
            };
            let mut state = State::Zero;
            match action {
                0 => frame.flags |= PSH,
                1 => frame.flags |= [FIN, SYN, RST, URG, ECE, CWR][usize::from(change) % 6],
                2 => frame.payload.clear(),
                3 => frame.sequence = frame.sequence.wrapping_sub(100 * u32::from(change % 4)),
                4 => state = State::Complete,
                5 => state = State::Wrong,
                6 if change % 4 == 0 => next.acknowledgement += 1,
                6 if change % 4 == 1 => next.window += 1,
                6 if change % 4 == 2 => next.ttl -= 1,
                6 => next.tcp_options[11] += 1,
                7 if change % 4 == 0 => next.tos ^= 4,
                7 if change % 4 == 1 && !next.v6 => next.dont_fragment = !next.dont_fragment,
                7 if change % 4 == 2 => frame.extra = Extra::Options,
                _ => {}
            }
            if action == 6 || action == 7 && frame.extra == Extra::Nothing {
                // The change shows in this frame.
                let (sequence, flags, payload) = (frame.sequence, frame.flags, frame.payload);
                frame = Inner { sequence, flags, payload, ..next.clone() };
            }
            if frame.extra != Extra::Nothing {
                state = State::Complete;
            }
            next.sequence = frame.sequence.wrapping_add(frame.payload.len() as u32);
            if !next.v6 && change % 16 != 0 {
                next.id = next.id.wrapping_add(1);
            }
            let bytes = (frame.frame(state), state == State::Zero);
            offer(&mut coalescer, peer, &bytes, now, &mut host).unwrap();
            let right = if state == State::Zero { State::Complete } else { state };
            offered.entry((peer, frame.host)).or_default().push((frame, right));
        }
        now += HOLD;
        coalescer.flush_due(now, &mut |delivery| host.take(&delivery));
        prop_assert!(!coalescer.is_holding() && coalescer.next_due().is_none());
        let mut got: HashMap<(u16, u8), Vec<(Inner, State)>> = HashMap::new();
        for (peer, inner, state) in host.cut() {
            got.entry((peer.0, inner.host)).or_default().push((inner, state));
        }
        prop_assert_eq!(got.len(), offered.len());
        for (key, wanted) in offered {
            let got = &got[&key];
            prop_assert_eq!(got.len(), wanted.len());
            for ((got, got_state), (wanted, state)) in got.iter().zip(&wanted) {
                prop_assert_eq!(got_state, state);
                let mut got = got.clone();
                if got.dont_fragment && wanted.dont_fragment && !got.v6 {
                    // An atomic datagram's identification means nothing.
                    got.id = wanted.id;
                }
                prop_assert_eq!(&got, wanted);
            }
        }
    }

    #[test]
    fn hostile_frames_and_headers_do_no_harm(
        inner in any_inner(),
        header in any::<[u8; VNET_LEN]>(),
        keep in any::<[bool; 3]>(),
        gso_size in any::<u16>(),
        flips in proptest::collection::vec((0..120usize, any::<u8>()), 0..4),
        cut in prop_oneof![Just(0usize), 0..200usize],
        pending in any::<bool>(),
    ) {
        let mut frame = inner.frame(State::Partial);
        for (at, byte) in flips {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(frame.len().saturating_sub(cut));
        let random = VnetHeader::decode(&header);
        let right = inner.vnet(gso_size);
        let header = VnetHeader {
            checksum: if keep[0] { right.checksum } else { random.checksum },
            gso: if keep[1] { right.gso } else { random.gso },
            gso_size: if keep[2] { right.gso_size } else { random.gso_size },
            header_len: random.header_len,
        };
        let mut segmenter = Segmenter::new();
        if start(&mut segmenter, &header, &frame, LIMIT).is_ok() {
            let whole = Packet::parse(&frame).unwrap().payload_at;
            let mut total = 0;
            for (segment, open) in segments(&mut segmenter, LIMIT) {
                prop_assert!(segment.len() <= LIMIT);
                prop_assert!(Packet::parse(&segment).is_some(), "malformed segment");
                prop_assert!(!open || Packet::parse(&segment).unwrap().is_plain);
                total += segment.len() - whole;
            }
            prop_assert_eq!(total, frame.len() - whole);
        }
        let mut single = frame.clone();
        match settle(&header, &mut single) {
            Ok(true) => prop_assert!(Packet::parse(&single).unwrap().is_plain),
            Ok(false) => {}
            Err(BadOffload) => prop_assert_eq!(&single, &frame),
        }
        let (mut coalescer, mut host, now) = (Coalescer::new(), Host::default(), Instant::now());
        for _ in 0..3 {
            let result = offer(&mut coalescer, 1, &(frame.clone(), pending), now, &mut host);
            let plain = Packet::parse(&frame).is_some_and(|packet| packet.is_plain);
            prop_assert_eq!(result.is_ok(), !pending || plain);
        }
        coalescer.flush_all(&mut |delivery| host.take(&delivery));
        for kept in &host.0 {
            if kept.header.gso != Gso::None {
                Inner::read(&kept.frame);
            } else if kept.header.checksum.is_none() {
                prop_assert_eq!(&kept.frame, &frame);
            }
        }
    }

    #[test]
    fn noise_is_no_packet_or_a_whole_one(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Some(packet) = Packet::parse(&bytes) {
            prop_assert!(packet.payload_at <= bytes.len());
            prop_assert!(packet.checksum_at() + 2 <= packet.payload_at);
        }
        let mut frame = bytes.clone();
        let _ = settle(&VnetHeader::decode(&[1, 0, 0, 0, 0, 0, 20, 0, 6, 0]), &mut frame);
    }
}

#[test]
fn frames_that_cannot_be_cut_are_refused() {
    let mut segmenter = Segmenter::new();
    let inner = Inner {
        payload: vec![7; 10_000],
        ..Inner::default()
    };
    let frame = inner.frame(State::Partial);
    let right = inner.vnet(1400);
    assert_eq!(start(&mut segmenter, &right, &frame, LIMIT), Ok(()));
    assert_eq!(segmenter.abandon(), 8);
    assert_eq!(segmenter.abandon(), 0);
    let too_long = inner.vnet((LIMIT - inner.payload_at()) as u16 + 1);
    assert_eq!(
        start(&mut segmenter, &too_long, &frame, LIMIT),
        Err(Uncut::TooLong)
    );
    let fits = inner.vnet((LIMIT - inner.payload_at()) as u16);
    assert_eq!(start(&mut segmenter, &fits, &frame, LIMIT), Ok(()));
    segmenter.abandon();
    let with = |change: fn(&mut VnetHeader)| {
        let mut header = right;
        change(&mut header);
        header
    };
    let wrong = [
        with(|header| header.gso_size = 0),
        with(|header| header.checksum = None),
        with(|header| header.gso = Gso::TcpV6),
        with(|header| header.gso = Gso::Udp),
        with(|header| header.gso = Gso::Unknown(3)),
        with(|header| header.checksum.as_mut().unwrap().start -= 4),
        with(|header| header.checksum.as_mut().unwrap().offset = 6),
    ];
    for header in wrong {
        assert_eq!(
            start(&mut segmenter, &header, &frame, LIMIT),
            Err(Uncut::BadOffload)
        );
    }
    // Perhaps cut by the read.
    let head = &frame[..LIMIT];
    assert_eq!(
        segmenter.start(&right, head, FRAME_MAX, LIMIT),
        Err(Uncut::TooLong)
    );
    assert!(!segmenter.is_pending());
    // Room that is smaller than promised ends the job and writes nothing.
    assert_eq!(start(&mut segmenter, &right, &frame, LIMIT), Ok(()));
    let mut small = [0xcc; 1000];
    assert_eq!(segmenter.next(&mut small), None);
    assert!(small.iter().all(|&byte| byte == 0xcc) && !segmenter.is_pending());
}

#[test]
fn tcp_is_cut_shorter_than_a_large_mtu() {
    let mut segmenter = Segmenter::new();
    let limit = 9014;
    let mut inner = Inner {
        payload: vec![7; 30_000],
        ..Inner::default()
    };
    let step = TCP_PACKET_MAX - (inner.payload_at() - inner.ip_at());
    start(
        &mut segmenter,
        &inner.vnet(8900),
        &inner.frame(State::Partial),
        limit,
    )
    .unwrap();
    let cut = segments(&mut segmenter, limit);
    let wanted: Vec<_> = inner
        .cut(step)
        .iter()
        .map(|inner| inner.frame(State::Zero))
        .collect();
    assert_eq!(
        cut.into_iter().map(|(bytes, _)| bytes).collect::<Vec<_>>(),
        wanted
    );
    // Datagrams end where they end.
    inner.udp = true;
    start(
        &mut segmenter,
        &inner.vnet(8900),
        &inner.frame(State::Partial),
        limit,
    )
    .unwrap();
    assert_eq!(
        segments(&mut segmenter, limit)[0].0.len(),
        inner.payload_at() + 8900
    );
}

#[test]
fn open_checksums_are_left_where_the_receiver_finds_them() {
    for (v6, udp, vlan_tags) in [(false, false, 0), (true, true, 0), (false, true, 1)] {
        let inner = Inner {
            v6,
            udp,
            vlan_tags,
            ..Inner::default()
        };
        let mut frame = inner.frame(State::Partial);
        assert_eq!(settle(&inner.vnet(0), &mut frame), Ok(true));
        assert_eq!(frame, inner.frame(State::Zero));
        // Complete ones are not touched.
        let mut frame = inner.frame(State::Wrong);
        assert_eq!(settle(&VnetHeader::default(), &mut frame), Ok(false));
        assert_eq!(frame, inner.frame(State::Wrong));
    }
    // Options, a routing header, a tunnel: computed here.
    for (v6, extra) in [
        (false, Extra::Options),
        (true, Extra::Options),
        (true, Extra::Routing),
    ] {
        let inner = Inner {
            v6,
            extra,
            ..Inner::default()
        };
        let mut frame = inner.frame(State::Partial);
        assert_eq!(settle(&inner.vnet(0), &mut frame), Ok(false));
        assert_eq!(frame, inner.frame(State::Complete));
        let (mut coalescer, mut host) = (Coalescer::new(), Host::default());
        let open = (inner.frame(State::Partial), true);
        let refused = offer(&mut coalescer, 1, &open, Instant::now(), &mut host);
        assert_eq!(refused, Err(NoSuchChecksum));
        assert!(host.0.is_empty());
    }
    let tunnelled = Inner {
        host: 9,
        ..Inner::default()
    };
    let mut tunnel = Inner {
        udp: true,
        payload: tunnelled.frame(State::Partial),
        ..Inner::default()
    };
    let open = |start: usize, offset: usize| VnetHeader {
        checksum: Some(OpenChecksum {
            start: start as u16,
            offset: offset as u16,
        }),
        ..VnetHeader::default()
    };
    let mut frame = tunnel.frame(State::Zero);
    let header = open(tunnel.payload_at() + tunnelled.transport_at(), 16);
    assert_eq!(settle(&header, &mut frame), Ok(false));
    tunnel.payload = tunnelled.frame(State::Complete);
    assert_eq!(frame, tunnel.frame(State::Zero));
    for header in [
        open(frame.len() - 1, 0),
        open(0, frame.len() - 1),
        open(65_535, 65_535),
    ] {
        let mut same = frame.clone();
        assert_eq!(settle(&header, &mut same), Err(BadOffload));
        assert_eq!(same, frame);
    }
    // UDP sends a checksum of zero as its other form, else it would be none.
    let mut zero = Inner {
        udp: true,
        payload: vec![0, 0],
        ..Inner::default()
    };
    let at = zero.transport_at() + zero.checksum_offset();
    zero.payload = zero.frame(State::Complete)[at..at + 2].to_vec();
    zero.extra = Extra::Options;
    let mut frame = zero.frame(State::Partial);
    assert_eq!(settle(&zero.vnet(0), &mut frame), Ok(false));
    assert_eq!(frame[at + 8..at + 10], [0xff, 0xff]);
}

/// Data segments of a default connection, `step` bytes each.
fn data(count: usize, step: usize) -> Vec<(Vec<u8>, bool)> {
    let inner = Inner {
        payload: vec![3; count * step],
        ..Inner::default()
    };
    let cut = inner.cut(step);
    cut.iter()
        .map(|inner| (inner.frame(State::Zero), true))
        .collect()
}

#[test]
fn hold_ends_60_us_after_the_first_segment() {
    let (mut coalescer, mut host, start) = (Coalescer::new(), Host::default(), Instant::now());
    let us = Duration::from_micros;
    for (index, segment) in data(5, 100).iter().enumerate() {
        offer(
            &mut coalescer,
            1,
            segment,
            start + us(index as u64 * 10),
            &mut host,
        )
        .unwrap();
    }
    assert!(host.0.is_empty() && coalescer.is_holding());
    assert_eq!(coalescer.next_due(), Some(start + us(60)));
    coalescer.flush_due(start + us(59), &mut |delivery| host.take(&delivery));
    assert!(host.0.is_empty());
    coalescer.flush_due(start + us(60), &mut |delivery| host.take(&delivery));
    assert_eq!((host.0.len(), host.0[0].frames), (1, 5));
    assert!(!coalescer.is_holding());
}

#[test]
fn joined_frames_end_at_64_kb() {
    let (mut coalescer, mut host, now) = (Coalescer::new(), Host::default(), Instant::now());
    for chunk in 0..4u32 {
        let inner = Inner {
            sequence: chunk * 30_000,
            id: chunk as u16 * 30,
            payload: vec![3; 30_000],
            ..Inner::default()
        };
        for segment in inner.cut(1000) {
            offer(
                &mut coalescer,
                1,
                &(segment.frame(State::Zero), true),
                now,
                &mut host,
            )
            .unwrap();
        }
    }
    coalescer.flush_all(&mut |delivery| host.take(&delivery));
    let lengths: Vec<_> = host.0.iter().map(|kept| kept.frames).collect();
    assert_eq!(lengths, [65, 55]);
    assert_eq!(host.cut().len(), 120);
}

#[test]
fn oldest_flow_makes_room() {
    let (mut coalescer, mut host, start) = (Coalescer::new(), Host::default(), Instant::now());
    for index in 0..=FLOWS {
        let frame = Inner {
            host: index as u8,
            ..Inner::default()
        }
        .frame(State::Zero);
        let now = start + Duration::from_micros(index as u64);
        offer(&mut coalescer, 1, &(frame, true), now, &mut host).unwrap();
    }
    assert_eq!(
        host.cut()
            .iter()
            .map(|(_, inner, _)| inner.host)
            .collect::<Vec<_>>(),
        [0]
    );
    // The same addresses and ports at another peer are another connection.
    coalescer.flush_all(&mut |_| {});
    for peer in [1, 2] {
        offer(&mut coalescer, peer, &data(1, 100)[0], start, &mut host).unwrap();
    }
    coalescer.flush_all(&mut |delivery| host.take(&delivery));
    assert_eq!(host.0.len(), 3);
}

#[test]
fn wrong_checksum_is_never_made_right() {
    let (mut coalescer, mut host, now) = (Coalescer::new(), Host::default(), Instant::now());
    let inner = Inner {
        payload: vec![3; 300],
        ..Inner::default()
    };
    let states = [State::Complete, State::Wrong, State::Complete];
    for (segment, state) in inner.cut(100).iter().zip(states) {
        offer(
            &mut coalescer,
            1,
            &(segment.frame(state), false),
            now,
            &mut host,
        )
        .unwrap();
    }
    coalescer.flush_all(&mut |delivery| host.take(&delivery));
    let got: Vec<_> = host.cut().into_iter().map(|(_, _, state)| state).collect();
    assert_eq!(got, states);
    // Right ones are joined like open ones.
    host.0.clear();
    for segment in inner.cut(100) {
        offer(
            &mut coalescer,
            1,
            &(segment.frame(State::Complete), false),
            now,
            &mut host,
        )
        .unwrap();
    }
    coalescer.flush_all(&mut |delivery| host.take(&delivery));
    assert_eq!(host.0.len(), 1);
}

#[test]
fn fragments_of_the_same_peer_do_not_overtake() {
    let (mut coalescer, mut host, now) = (Coalescer::new(), Host::default(), Instant::now());
    let mut fragment = Inner::default().frame(State::Complete);
    fragment[20] |= 0x20;
    let udp = Inner {
        udp: true,
        ..Inner::default()
    }
    .frame(State::Complete);
    // To the final stop of a routing header it is another address.
    let routed = Inner {
        v6: true,
        extra: Extra::Routing,
        ..Inner::default()
    };
    let routed = routed.frame(State::Complete);
    for (frame, overtakes) in [(udp, true), (fragment, false), (routed, false)] {
        for peer in [1, 2] {
            offer(&mut coalescer, peer, &data(1, 100)[0], now, &mut host).unwrap();
        }
        host.0.clear();
        offer(&mut coalescer, 1, &(frame.clone(), false), now, &mut host).unwrap();
        assert_eq!(host.0.last().unwrap().frame, frame);
        assert_eq!(host.0.len() == 1, overtakes);
        // The other peer's is not concerned.
        coalescer.flush_all(&mut |delivery| host.take(&delivery));
        assert_eq!(host.0.len(), 3);
        host.0.clear();
    }
}
