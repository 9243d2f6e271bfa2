//! Lanes of many peers, generation by generation. Imports nothing of the
//! harness but `error`.

use tipsec_dataplane::command::{Budget, RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::sa::RxShared;
use tipsec_dataplane::secret::LaneSecret;

use crate::error::{Error, Result};
use crate::scale_bench::SUITE;

/// Which of the two directions between a peer and the right worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// From the peer, that is from the left worker.
    In,
    /// To the peer. The left worker has nothing to open it with.
    Out,
}

/// The node that a peer is.
///
/// # Errors
/// None in fact.
pub(super) fn node_of(peer: u16) -> Result<NodeId> {
    NodeId::new(u32::from(peer) + 1000).ok_or_else(|| nameless("a node", peer))
}

fn nameless(what: &str, peer: u16) -> Error {
    Error::Failed {
        what: format!("name {what}"),
        detail: format!("of peer {peer}"),
    }
}

/// The SPI of a peer's lane in a generation. Neighbours have places of their
/// own in the table, since the old lane stays until the new one carries.
pub(super) fn spi(peer: u16, generation: u32) -> Result<Spi> {
    let index = 2 * u32::from(peer) + generation % 2;
    // 12 bits, and never 0.
    let rest = generation % 4095 + 1;
    Spi::from_parts(index, rest).ok_or_else(|| nameless("a lane", peer))
}

/// A lane's secret, which protects nothing and is never the same.
fn secret(peer: u16, generation: u32, way: Way) -> LaneSecret {
    let mut key = [0x5a; 32];
    key[0] = way as u8;
    key[1..3].copy_from_slice(&peer.to_be_bytes());
    key[3..7].copy_from_slice(&generation.to_be_bytes());
    let mut iv = [0xa5; 12];
    iv[..7].copy_from_slice(&key[..7]);
    LaneSecret::new(SUITE, key, iv)
}

/// The lane on which the right worker opens a peer's frames.
pub(super) fn rx_lane(peer: u16, generation: u32) -> Result<RxLaneSpec> {
    Ok(RxLaneSpec {
        spi: spi(peer, generation)?,
        peer: PeerIndex(peer),
        node: node_of(peer)?,
        epoch: Epoch(generation),
        lane: LaneIndex(0),
        secret: secret(peer, generation, Way::In),
        next: Some(secret(peer, generation, Way::In)),
        phase_bits: PhaseBits::PROTOCOL,
        shared: RxShared::of_single_lane(u64::MAX),
    })
}

/// The lane on which frames are sealed, by the peer or for it.
pub(super) fn tx_lane(peer: u16, generation: u32, way: Way) -> Result<TxLaneSpec> {
    Ok(TxLaneSpec {
        spi: spi(peer, generation)?,
        peer: PeerIndex(peer),
        node: node_of(peer)?,
        epoch: Epoch(generation),
        lane: LaneIndex(0),
        secret: secret(peer, generation, way),
        next: Some(secret(peer, generation, way)),
        phase_bits: PhaseBits::PROTOCOL,
        budget: Budget {
            soft: u64::MAX,
            hard: u64::MAX,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_generations_share_no_place() {
        for generation in [1, 2, 4094, 4095, 4096] {
            let (now, next) = (spi(7, generation).unwrap(), spi(7, generation + 1).unwrap());
            assert_ne!(now.index(), next.index());
            assert!(now.index() < 16 && next.index() < 16);
            assert_ne!(spi(7, generation + 2).unwrap(), now);
        }
    }

    #[test]
    fn no_two_lanes_share_a_secret() {
        let lanes = [
            (1, 1, Way::In),
            (1, 1, Way::Out),
            (1, 2, Way::In),
            (2, 1, Way::In),
        ];
        let mut ivs = lanes.map(|(peer, generation, way)| *secret(peer, generation, way).iv());
        ivs.sort_unstable();
        assert!(ivs.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
