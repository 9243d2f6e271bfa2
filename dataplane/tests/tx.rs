//! The send pipeline through the public API: what is refused and why, what a
//! sealed frame looks like in memory, what stays when there is no room.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may stop

mod common;

use common::{Cipher, Node, PEER, UNBOUNDED, pair, secret};
use tipsec_dataplane::aead::{Aead, Nonce};
use tipsec_dataplane::bearer::memory::{Faults, MemoryFrame};
use tipsec_dataplane::bearer::{Bearer, FrameMemory};
use tipsec_dataplane::burst::{BURST, Burst};
use tipsec_dataplane::counters::TxDrop;
use tipsec_dataplane::frame::{PAYLOAD_OFFSET, TAP_OFFSET};
use tipsec_dataplane::ids::{NodeId, PeerIndex};
use tipsec_dataplane::payload::Payload;
use tipsec_dataplane::rx::open_burst;
use tipsec_dataplane::secret::Suite;
use tipsec_dataplane::tx::{Plain, Sealed, seal_burst};

fn node() -> (Node<Cipher>, Node<Cipher>) {
    let (mut a, mut b) = pair::<Cipher>(Faults::default(), 0);
    a.install_tx(7, 1, secret(Suite::Aes128Gcm, 1), UNBOUNDED);
    b.install_rx(7, 1, secret(Suite::Aes128Gcm, 1));
    (a, b)
}

fn seal(a: &mut Node<Cipher>, plain: Plain<MemoryFrame>) -> Option<Sealed<MemoryFrame>> {
    let mut plain = Burst::from_iter([plain]);
    let mut sealed = Burst::new();
    seal_burst(
        &mut a.tx,
        &mut a.bearer,
        &mut plain,
        &mut sealed,
        &a.counters,
        |_| (),
    );
    sealed.pop()
}

#[test]
fn sealed_frame_is_byte_for_byte_the_protocol() {
    let (mut a, mut b) = node();
    let mut frame = a.bearer.allocate().unwrap();
    let room = &mut a.bearer.room_mut(&mut frame)[PAYLOAD_OFFSET..];
    room[..3].copy_from_slice(&[Payload::Message.encode(), 0xab, 0xcd]);
    let sealed = seal(&mut a, Plain::data(frame, PEER, 3)).unwrap();
    assert_eq!(sealed.peer(), PEER);
    a.bearer.transmit(&mut Burst::from_iter([sealed])).unwrap();

    let mut received = Burst::new();
    b.bearer.receive(&mut received).unwrap();
    let mut frame = received.pop().unwrap();
    let bytes = b.bearer.segment_mut(&mut frame, 0);
    let outer = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    let header = [0x10, 0, 0, 19, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0];
    let secret = secret(Suite::Aes128Gcm, 1);
    let mut payload = [2, 0xab, 0xcd];
    let nonce = Nonce::new(secret.iv(), 0);
    let tag = Cipher::seal(&Cipher::key(&secret), nonce, &header, &mut payload);
    assert_eq!(*bytes, [&outer[..], &header, &payload, &tag].concat());
    b.bearer.release(frame);
}

#[test]
fn refusals_release_the_frame_and_name_the_reason() {
    let (mut a, _b) = node();
    let stranger = PeerIndex(1);
    let out_of_range = PeerIndex(99);
    let too_long = 2048 + 1 - 16;
    let mut refuse = |peer, len, reason| {
        let frame = a.bearer.allocate().unwrap();
        assert!(seal(&mut a, Plain::data(frame, peer, len)).is_none());
        let at_peer = a.counters.peer(peer).tx_drops(reason);
        assert_eq!(at_peer, 1, "{}", reason.name());
        assert_eq!(a.bearer.free_frames(), 256, "{}", reason.name());
    };
    refuse(stranger, 10, TxDrop::NoKey);
    refuse(out_of_range, 10, TxDrop::NoKey);
    refuse(PEER, 0, TxDrop::TooShort);
    refuse(PEER, too_long, TxDrop::TooLong);
    assert_eq!(a.counters.nobody.tx_drops(TxDrop::NoKey), 1);
    let lane = a.tx.lane(PEER).unwrap();
    assert_eq!(lane.next_packet_number(), 0, "no number was taken");
    // Up to the last byte of the room it works.
    let frame = a.bearer.allocate().unwrap();
    assert!(seal(&mut a, Plain::data(frame, PEER, too_long - 1)).is_some());
}

#[test]
fn unconfirmed_lane_carries_probes_only() {
    let (mut a, _b) = node();
    a.tx.allow_data(PEER, false);
    let frame = a.bearer.allocate().unwrap();
    assert!(seal(&mut a, Plain::data(frame, PEER, 16)).is_none());
    assert_eq!(a.counters.peer(PEER).tx_drops(TxDrop::NoKey), 1);
    let frame = a.bearer.allocate().unwrap();
    assert!(seal(&mut a, Plain::probe(frame, PEER, 16)).is_some());
}

#[test]
fn what_finds_no_room_stays() {
    let (mut a, mut b) = node();
    let mut sealed = Burst::new();
    let mut plain = Burst::new();
    for expected in [40, BURST] {
        for _ in 0..40 {
            let mut frame = a.bearer.allocate().unwrap();
            a.bearer.room_mut(&mut frame)[PAYLOAD_OFFSET] = Payload::Message.encode();
            plain.push(Plain::data(frame, PEER, 1));
        }
        seal_burst(
            &mut a.tx,
            &mut a.bearer,
            &mut plain,
            &mut sealed,
            &a.counters,
            |_| (),
        );
        assert_eq!(sealed.len(), expected);
    }
    assert_eq!(plain.len(), 80 - BURST);
    a.bearer.transmit(&mut sealed).unwrap();

    // And the same on the way in.
    let mut received = Burst::new();
    let mut opened = Burst::new();
    b.bearer.receive(&mut received).unwrap();
    for (left, delivered) in [(0, BURST), (BURST, BURST)] {
        open_burst(
            &mut b.rx,
            &b.encapsulation,
            &mut b.bearer,
            &mut received,
            &mut opened,
            &b.counters,
            |_| (),
        );
        assert_eq!((received.len(), opened.len()), (left, delivered));
        if received.is_empty() {
            received.extend((0..BURST).filter_map(|_| b.bearer.allocate()));
        }
    }
}

#[test]
fn tap_frames_get_their_addresses_from_the_sa() {
    for group in [false, true] {
        let (mut a, mut b) = node();
        // A sender that lies about both addresses: they lie where the payload
        // byte and the header come to be, and do not travel.
        let inner = [&[0xee; 12][..], &[0x08, 0x00], b"payload"].concat();
        let mut frame = a.bearer.allocate().unwrap();
        let room = a.bearer.room_mut(&mut frame);
        room[TAP_OFFSET..][..inner.len()].copy_from_slice(&inner);
        let kind = Payload::Tap {
            group,
            checksum_pending: false,
        };
        room[PAYLOAD_OFFSET] = kind.encode();
        let len = 1 + inner.len() - 12;
        let sealed = seal(&mut a, Plain::data(frame, PEER, len)).unwrap();
        a.bearer.transmit(&mut Burst::from_iter([sealed])).unwrap();

        let (mut received, mut opened) = (Burst::new(), Burst::new());
        b.bearer.receive(&mut received).unwrap();
        open_burst(
            &mut b.rx,
            &b.encapsulation,
            &mut b.bearer,
            &mut received,
            &mut opened,
            &b.counters,
            |_| (),
        );
        let own = NodeId::new(2).unwrap();
        let mut opened = opened.pop().unwrap();
        assert_eq!(opened.payload(), kind);
        assert_eq!(opened.node(), NodeId::new(1).unwrap());
        assert_eq!(opened.spi().value(), 7);
        let destination = match group {
            true => [0xff; 6],
            false => [2, 0x54, 0, 0, 0, 2],
        };
        let source = [2, 0x54, 0, 0, 0, 1];
        let expected = [&destination[..], &source, &[0x08, 0x00], b"payload"].concat();
        let tap_frame = opened.tap_frame_mut(&mut b.bearer, own);
        assert_eq!(tap_frame.unwrap(), expected);
    }
}
