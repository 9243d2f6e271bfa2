//! The Noise handshake, as two typed halves over snow.
//!
//! `Noise_NNpsk0_25519_AESGCM_SHA256` (Noise revision 34). NN has two
//! messages; the initiator's offer (m3) is the first transport message.
//! Randomness is an argument: each side needs exactly the 32 bytes of one
//! ephemeral key.

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver, FallbackResolver, RingResolver};
use snow::types::{Cipher, Dh, Hash, Random as SnowRandom};
use snow::{Builder, HandshakeState, TransportState};
use zeroize::Zeroizing;

use crate::time::Random;

const PATTERN: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";

/// Bytes that the first two messages add to their payload: key and tag.
pub const HANDSHAKE_OVERHEAD: usize = 32 + 16;

/// Bytes that m3 adds to its payload.
pub const TRANSPORT_OVERHEAD: usize = 16;

/// The message does not authenticate, or has an impossible length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the handshake message does not authenticate")]
pub struct NoiseError;

impl From<snow::Error> for NoiseError {
    fn from(_: snow::Error) -> Self {
        Self
    }
}

/// Gives out the ephemeral key's bytes, once.
struct OneKey(Option<Zeroizing<[u8; 32]>>);

impl SnowRandom for OneKey {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        let key = self.0.take().ok_or(snow::Error::Rng)?;
        if out.len() != key.len() {
            return Err(snow::Error::Rng);
        }
        out.copy_from_slice(&*key);
        Ok(())
    }
}

/// A Diffie-Hellman key pair that is overwritten when dropped, which snow's
/// own are not.
struct WipedDh(Box<dyn Dh>);

impl Drop for WipedDh {
    fn drop(&mut self) {
        self.0.set(&[0; 32]);
    }
}

impl Dh for WipedDh {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn pub_len(&self) -> usize {
        self.0.pub_len()
    }

    fn priv_len(&self) -> usize {
        self.0.priv_len()
    }

    fn set(&mut self, privkey: &[u8]) {
        self.0.set(privkey);
    }

    fn generate(&mut self, rng: &mut dyn SnowRandom) -> Result<(), snow::Error> {
        self.0.generate(rng)
    }

    fn pubkey(&self) -> &[u8] {
        self.0.pubkey()
    }

    fn privkey(&self) -> &[u8] {
        self.0.privkey()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        self.0.dh(pubkey, out)
    }
}

/// A cipher state whose key is overwritten when dropped.
struct WipedCipher(Box<dyn Cipher>);

impl Drop for WipedCipher {
    fn drop(&mut self) {
        self.0.set(&[0; 32]);
    }
}

impl Cipher for WipedCipher {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0.set(key);
    }

    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        self.0.encrypt(nonce, authtext, plaintext, out)
    }

    fn decrypt(
        &self,
        nonce: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, snow::Error> {
        self.0.decrypt(nonce, authtext, ciphertext, out)
    }
}

/// Adds an ephemeral key to what the other resolvers provide.
struct WithKey {
    key: Zeroizing<[u8; 32]>,
    rest: FallbackResolver,
}

impl CryptoResolver for WithKey {
    fn resolve_rng(&self) -> Option<Box<dyn SnowRandom>> {
        Some(Box::new(OneKey(Some(self.key.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let dh = self.rest.resolve_dh(choice)?;
        Some(Box::new(WipedDh(dh)))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        self.rest.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        let cipher = self.rest.resolve_cipher(choice)?;
        Some(Box::new(WipedCipher(cipher)))
    }
}

fn builder<'a>(
    psk: &'a [u8; 32],
    prologue: &'a [u8],
    random: &mut dyn Random,
) -> Result<Builder<'a>, NoiseError> {
    let mut key = Zeroizing::new([0; 32]);
    random.fill(&mut *key);
    let rest = FallbackResolver::new(Box::new(RingResolver), Box::new(DefaultResolver));
    let params: NoiseParams = PATTERN.parse().map_err(|_| NoiseError)?;
    Ok(
        Builder::with_resolver(params, Box::new(WithKey { key, rest }))
            .psk(0, psk)?
            .prologue(prologue)?,
    )
}

fn into_session(state: HandshakeState) -> Result<Session, NoiseError> {
    let hash = state
        .get_handshake_hash()
        .try_into()
        .map_err(|_| NoiseError)?;
    Ok(Session {
        hash,
        transport: state.into_transport_mode()?,
    })
}

/// An initiator that waits for m2.
pub struct Initiator(HandshakeState);

impl Initiator {
    /// Writes m1 around `payload`.
    ///
    /// # Errors
    /// [`NoiseError`] only if snow refuses its own parameters.
    pub fn start(
        psk: &[u8; 32],
        prologue: &[u8],
        random: &mut dyn Random,
        payload: &[u8],
    ) -> Result<(Self, Vec<u8>), NoiseError> {
        let mut state = builder(psk, prologue, random)?.build_initiator()?;
        let mut message = vec![0; payload.len() + HANDSHAKE_OVERHEAD];
        let len = state.write_message(payload, &mut message)?;
        message.truncate(len);
        Ok((Self(state), message))
    }

    /// Reads m2. A message that does not authenticate leaves the initiator as
    /// it was, so that a forged m2 cannot end an exchange.
    ///
    /// # Errors
    /// [`NoiseError`], with the initiator to go on with.
    #[allow(clippy::result_large_err, clippy::type_complexity)]
    pub fn finish(
        mut self,
        message: &[u8],
    ) -> Result<(Session, Zeroizing<Vec<u8>>), (Self, NoiseError)> {
        let mut payload = Zeroizing::new(vec![0; message.len()]);
        let len = match self.0.read_message(message, &mut payload) {
            Ok(len) => len,
            Err(_) => return Err((self, NoiseError)),
        };
        payload.truncate(len);
        match into_session(self.0) {
            Ok(session) => Ok((session, payload)),
            // NN is complete after m2: snow cannot refuse.
            Err(_) => unreachable!("the handshake ends with m2"),
        }
    }
}

/// A responder that has read m1.
pub struct Responder(HandshakeState);

impl Responder {
    /// Reads m1.
    ///
    /// # Errors
    /// [`NoiseError`] if it was not made under `psk` and `prologue`.
    pub fn read(
        psk: &[u8; 32],
        prologue: &[u8],
        random: &mut dyn Random,
        message: &[u8],
    ) -> Result<(Self, Vec<u8>), NoiseError> {
        let mut state = builder(psk, prologue, random)?.build_responder()?;
        let mut payload = vec![0; message.len()];
        let len = state.read_message(message, &mut payload)?;
        payload.truncate(len);
        Ok((Self(state), payload))
    }

    /// Writes m2 around `payload`.
    ///
    /// # Errors
    /// [`NoiseError`] only if snow has no room.
    pub fn answer(mut self, payload: &[u8]) -> Result<(Session, Vec<u8>), NoiseError> {
        let mut message = vec![0; payload.len() + HANDSHAKE_OVERHEAD];
        let len = self.0.write_message(payload, &mut message)?;
        message.truncate(len);
        Ok((into_session(self.0)?, message))
    }
}

/// A completed handshake.
pub struct Session {
    hash: [u8; 32],
    transport: TransportState,
}

impl Session {
    /// The handshake hash: binds keys to everything that both sides said.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Writes m3 around `payload`; once, since what is sealed is stored and
    /// repeated byte for byte.
    ///
    /// # Errors
    /// [`NoiseError`] only if snow has no room.
    pub fn seal(&mut self, payload: &[u8]) -> Result<Vec<u8>, NoiseError> {
        let mut message = vec![0; payload.len() + TRANSPORT_OVERHEAD];
        let len = self.transport.write_message(payload, &mut message)?;
        message.truncate(len);
        Ok(message)
    }

    /// Reads m3. A message that does not authenticate changes nothing.
    ///
    /// # Errors
    /// [`NoiseError`] if it is not the initiator's.
    pub fn open(&mut self, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, NoiseError> {
        let mut payload = Zeroizing::new(vec![0; message.len()]);
        let len = self.transport.read_message(message, &mut payload)?;
        payload.truncate(len);
        Ok(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(u8);
    impl Random for Bytes {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    const PSK: [u8; 32] = [3; 32];

    #[test]
    fn both_sides_agree_and_a_forgery_changes_nothing() {
        let (mut initiator, m1) =
            Initiator::start(&PSK, b"prologue", &mut Bytes(1), b"start").unwrap();
        let (responder, start) = Responder::read(&PSK, b"prologue", &mut Bytes(2), &m1).unwrap();
        assert_eq!(start, b"start");
        let (mut theirs, m2) = responder.answer(b"offer").unwrap();

        let mut forged = m2.clone();
        *forged.last_mut().unwrap() ^= 1;
        for bad in [&forged[..], &m2[..20], &[]] {
            initiator = match initiator.finish(bad) {
                Ok(_) => panic!("accepted a forgery"),
                Err((initiator, NoiseError)) => initiator,
            };
        }
        let (mut ours, offer) = initiator.finish(&m2).map_err(|(_, e)| e).unwrap();
        assert_eq!(*offer, b"offer");
        assert_eq!(ours.hash(), theirs.hash());

        let m3 = ours.seal(b"counter-offer").unwrap();
        let mut forged = m3.clone();
        forged[0] ^= 1;
        assert!(theirs.open(&forged).is_err());
        assert_eq!(*theirs.open(&m3).unwrap(), b"counter-offer");
        assert!(theirs.open(&m3).is_err(), "not a second time");
    }

    #[test]
    fn another_psk_or_prologue_ends_at_m1() {
        let (_, m1) = Initiator::start(&PSK, b"prologue", &mut Bytes(1), b"").unwrap();
        assert!(Responder::read(&[4; 32], b"prologue", &mut Bytes(2), &m1).is_err());
        assert!(Responder::read(&PSK, b"prologus", &mut Bytes(2), &m1).is_err());
    }
}
