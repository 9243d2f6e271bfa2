//! Every key that is derived, and from what (docs/protocol.md, "Keys").
//!
//! HKDF-SHA-256 (RFC 5869) and HMAC-SHA-256 (RFC 2104) by ring. Every input
//! is of fixed width or carries its length, so no two derivations can meet.

use std::sync::Arc;

use ring::{hkdf, hmac};
use subtle::ConstantTimeEq;
use tipsec_dataplane::ids::{Incarnation, LaneIndex, MasterId, NodeId, Spi};
use tipsec_dataplane::phase::Phase;
use tipsec_dataplane::secret::{LaneSecret, Suite};
use tipsec_xdp::gate::GateKey;
use tipsec_xdp::wire::CONTROL_MAC_LEN;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::cluster::ClusterName;
use crate::master::MasterKey;
use crate::masters::{Masters, Role};

/// Salt of the extraction from an exchange.
const CHAIN_SALT: &[u8] = b"tipsec v1 chain";
/// Salt of the extraction from a master key.
const MASTER_SALT: &[u8] = b"tipsec v1 master";

/// A length for ring's HKDF.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(prk: &hkdf::Prk, info: &[&[u8]], out: &mut [u8]) {
    // Fails only for more than 255 hashes of output; the longest here is two.
    #[allow(clippy::expect_used)]
    prk.expand(info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("HKDF output is shorter than 255 hashes");
}

/// Everything that a master key and a cluster name give. The master key itself
/// is not kept.
pub struct ClusterKeys {
    id: MasterId,
    xdp_gate: GateKey,
    gate: MacKey,
    beacon: MacKey,
    psk: Zeroizing<[u8; 32]>,
}

impl ClusterKeys {
    /// Derives the keys of `cluster` from the octets of a master key.
    pub fn derive(master: &[u8], cluster: &ClusterName) -> Self {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, MASTER_SALT).extract(master);
        let name = cluster.length_prefixed();
        let key = |label: &[u8], out: &mut [u8]| expand(&prk, &[label, &name], out);

        let mut id = [0; 8];
        key(b"tipsec v1 master id", &mut id);
        let mut xdp_gate = Zeroizing::new([0; 16]);
        key(b"tipsec v1 xdp gate", &mut *xdp_gate);
        let mut gate = Zeroizing::new([0; 32]);
        key(b"tipsec v1 gate", &mut *gate);
        let mut beacon = Zeroizing::new([0; 32]);
        key(b"tipsec v1 beacon", &mut *beacon);
        let mut psk = Zeroizing::new([0; 32]);
        key(b"tipsec v1 psk", &mut *psk);
        Self {
            id: MasterId(u64::from_be_bytes(id)),
            xdp_gate: GateKey::from_bytes(*xdp_gate),
            gate: MacKey::new(&gate),
            beacon: MacKey::new(&beacon),
            psk,
        }
    }

    /// The public name of the master key.
    pub fn id(&self) -> MasterId {
        self.id
    }

    /// Key of the driver's check of control frames.
    pub fn xdp_gate(&self) -> GateKey {
        self.xdp_gate
    }

    /// Key of the HMAC over handshake frames.
    pub fn gate(&self) -> &MacKey {
        &self.gate
    }

    /// Key of the HMAC over beacons.
    pub fn beacon(&self) -> &MacKey {
        &self.beacon
    }

    /// The pre-shared key of bare exchanges.
    pub fn psk(&self) -> &[u8; 32] {
        &self.psk
    }
}

/// What each master key of a node gives.
pub type MasterRing = Masters<Arc<ClusterKeys>>;

impl MasterRing {
    /// Derives the keys of `cluster` from each master key.
    pub fn derive(masters: &Masters<MasterKey>, cluster: &ClusterName) -> Self {
        masters.map(|key| Arc::new(ClusterKeys::derive(key.octets(), cluster)))
    }

    /// The keys' public names.
    pub fn ids(&self) -> Masters<MasterId> {
        self.map(|keys| keys.id())
    }

    /// What the key of this name gives, if it is held.
    pub fn named(&self, id: MasterId) -> Option<&Arc<ClusterKeys>> {
        let keys = self.iter().map(|(_, keys)| keys);
        keys.into_iter().find(|keys| keys.id() == id)
    }

    /// The role of the key of this name, if it is held.
    pub fn role_of(&self, id: MasterId) -> Option<Role> {
        self.ids().role_of(id)
    }
}

/// HMAC-SHA-256 cut to 128 bits.
pub struct MacKey(hmac::Key);

impl MacKey {
    /// From its 32 bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The code over `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; CONTROL_MAC_LEN] {
        let tag = hmac::sign(&self.0, message);
        let mut code = [0; CONTROL_MAC_LEN];
        code.copy_from_slice(&tag.as_ref()[..CONTROL_MAC_LEN]);
        code
    }

    /// Whether `code` is the one over `message`; constant time in both.
    pub fn verify(&self, message: &[u8], code: &[u8]) -> bool {
        self.sign(message).as_slice().ct_eq(code).into()
    }
}

/// The secret that an offer carries: 32 random bytes of the receiver.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Sek([u8; 32]);

impl Sek {
    /// From the offer, or from the RNG of who issues.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A second copy, for the SA's life: the offer ends with its message.
    pub fn duplicate(&self) -> Self {
        Self(self.0)
    }

    /// For the offer.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What an exchange leaves to the next ones of the same pair: a secret that
/// nobody has who was in neither, master key or not.
pub struct Chain {
    id: u64,
    secret: Zeroizing<[u8; 32]>,
}

impl Chain {
    /// The chain of an exchange: of its handshake hash, and of the SEKs for what
    /// the initiator and what the responder sends.
    pub fn of_exchange(handshake_hash: &[u8; 32], initiator: &Sek, responder: &Sek) -> Self {
        let mut input = Zeroizing::new([0; 96]);
        input[..32].copy_from_slice(handshake_hash);
        input[32..64].copy_from_slice(initiator.bytes());
        input[64..].copy_from_slice(responder.bytes());
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, CHAIN_SALT).extract(&*input);
        let mut secret = Zeroizing::new([0; 32]);
        expand(&prk, &[b"tipsec v1 chain secret"], &mut *secret);
        let mut id = [0; 8];
        expand(&prk, &[b"tipsec v1 chain id"], &mut id);
        // 0 says that an exchange is bare.
        let id = u64::from_be_bytes(id).max(1);
        Self { id, secret }
    }

    /// The chain's public name; never 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The pre-shared key of an exchange that builds on this chain, under the
    /// master key that gives this `psk`.
    pub fn psk(&self, psk: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &*self.secret).extract(psk);
        let mut chained = Zeroizing::new([0; 32]);
        expand(&prk, &[b"tipsec v1 chained psk"], &mut *chained);
        chained
    }
}

/// All that a lane's key is bound to, besides the SEK: it can serve nobody
/// else and nothing else, even at a node that forgets to check.
pub struct LaneBinding<'a> {
    /// Hash of the Noise handshake: gives both sides their say.
    pub handshake_hash: &'a [u8; 32],
    /// The AEAD.
    pub suite: Suite,
    /// Whose keys these are.
    pub cluster: &'a ClusterName,
    /// Who seals.
    pub sender: (NodeId, Incarnation),
    /// Who opens.
    pub receiver: (NodeId, Incarnation),
    /// The receiver's name for the lane.
    pub spi: Spi,
    /// Which of the sender's workers.
    pub lane: LaneIndex,
    /// Which phase.
    pub phase: Phase,
}

impl LaneBinding<'_> {
    /// Key and IV of the lane: HKDF-Expand(SEK, binding).
    pub fn derive(&self, sek: &Sek) -> LaneSecret {
        let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, sek.bytes());
        let mut okm = Zeroizing::new([0; 44]);
        expand(
            &prk,
            &[
                b"tipsec v1 lane",
                self.handshake_hash,
                &self.suite.code().to_be_bytes(),
                &self.cluster.length_prefixed(),
                &self.sender.0.value().to_be_bytes(),
                &self.receiver.0.value().to_be_bytes(),
                &self.sender.1.0.to_be_bytes(),
                &self.receiver.1.0.to_be_bytes(),
                &self.spi.value().to_be_bytes(),
                &[self.lane.0],
                &self.phase.0.to_be_bytes(),
            ],
            &mut *okm,
        );
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(&okm[..32]);
        let mut iv = [0; 12];
        iv.copy_from_slice(&okm[32..]);
        LaneSecret::new(self.suite, *key, iv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str) -> ClusterName {
        name.parse().unwrap()
    }

    fn node(id: u32) -> NodeId {
        NodeId::new(id).unwrap()
    }

    #[test]
    fn every_input_of_the_master_derivation_counts() {
        let keys = ClusterKeys::derive(&[7; 32], &cluster("a"));
        assert_ne!(keys.id(), ClusterKeys::derive(&[8; 32], &cluster("a")).id());
        assert_ne!(keys.id(), ClusterKeys::derive(&[7; 32], &cluster("b")).id());
        assert_ne!(keys.gate().sign(b"m"), keys.beacon().sign(b"m"));
    }

    #[test]
    fn mac_refuses_changes_and_other_lengths() {
        let keys = ClusterKeys::derive(&[7; 32], &cluster("a"));
        let code = keys.gate().sign(b"frame");
        assert!(keys.gate().verify(b"frame", &code));
        assert!(!keys.gate().verify(b"frama", &code));
        assert!(!keys.gate().verify(b"frame", &code[..15]));
        assert!(!keys.gate().verify(b"frame", &[]));
    }

    #[test]
    fn every_input_of_a_lane_key_counts() {
        let name = cluster("a");
        let other = cluster("b");
        let base = || LaneBinding {
            handshake_hash: &[1; 32],
            suite: Suite::Aes256Gcm,
            cluster: &name,
            sender: (node(1), Incarnation(11)),
            receiver: (node(2), Incarnation(12)),
            spi: Spi::new(5).unwrap(),
            lane: LaneIndex(0),
            phase: Phase::FIRST,
        };
        let sek = Sek::new([9; 32]);
        let variants = [
            LaneBinding {
                handshake_hash: &[2; 32],
                ..base()
            },
            LaneBinding {
                suite: Suite::ChaCha20Poly1305,
                ..base()
            },
            LaneBinding {
                cluster: &other,
                ..base()
            },
            LaneBinding {
                sender: (node(3), Incarnation(11)),
                ..base()
            },
            LaneBinding {
                sender: (node(1), Incarnation(13)),
                ..base()
            },
            LaneBinding {
                receiver: (node(3), Incarnation(12)),
                ..base()
            },
            LaneBinding {
                receiver: (node(2), Incarnation(13)),
                ..base()
            },
            LaneBinding {
                spi: Spi::new(6).unwrap(),
                ..base()
            },
            LaneBinding {
                lane: LaneIndex(1),
                ..base()
            },
            LaneBinding {
                phase: Phase(1),
                ..base()
            },
        ];
        let mut keys: Vec<Vec<u8>> = variants
            .iter()
            .map(|v| v.derive(&sek).key().to_vec())
            .collect();
        keys.push(base().derive(&sek).key().to_vec());
        keys.push(base().derive(&Sek::new([8; 32])).key().to_vec());
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}
