//! Cookies: whoever starts a bare exchange first shows that it receives where it
//! says that it does.
//!
//! A bare m1 costs the responder room and work, and comes from a node that it
//! shares no secret with but the master key. So it first answers with a hello,
//! which takes no state: a code over what the initiator says of itself, sent to
//! the address that it names. Only an m1 that brings the code back is looked at
//! further. A chained m1 needs none: who builds on a secret of an earlier exchange
//! has shown more.

use std::time::Duration;

use tipsec_dataplane::ids::{Incarnation, NodeId};
use zeroize::Zeroize;

use super::Context;
use crate::address::{ADDRESSES_LEN, Addresses};
use crate::derive::MacKey;
use crate::message::{COOKIE_LEN, Start};
use crate::time::{Instant, Random};

/// New cookies are made with one secret for so long; a cookie is taken for once
/// to twice as long.
const SECRET_LIFE: Duration = Duration::from_secs(60);

/// A cookie as it travels.
pub(super) type Cookie = [u8; COOKIE_LEN];

/// In an m1 or hello without one.
pub(super) const NO_COOKIE: Cookie = [0; COOKIE_LEN];

/// The secrets that this process makes and knows its cookies by, newest last.
#[derive(Default)]
pub(super) struct Cookies {
    previous: Option<Secret>,
    present: Option<Secret>,
}

struct Secret {
    key: MacKey,
    drawn: Instant,
}

#[cfg(feature = "sim")]
super::digest::parts!(Cookies: previous, present);

// By a cookie that nobody can ask for; it is as good as gone once it is not known
// any more.
#[cfg(feature = "sim")]
impl super::digest::Part for Secret {
    fn put(&self, into: &mut super::digest::Digester) {
        let Self { key, drawn } = self;
        into.value(&key.sign(&[]));
        into.moment_within(*drawn, 2 * SECRET_LIFE);
    }
}

/// What a cookie is for: who the initiator says it is, and where it receives.
fn claim(node: NodeId, incarnation: Incarnation, addresses: &Addresses) -> Vec<u8> {
    let mut claim = Vec::with_capacity(4 + 8 + ADDRESSES_LEN);
    claim.extend_from_slice(&node.value().to_be_bytes());
    claim.extend_from_slice(&incarnation.0.to_be_bytes());
    addresses.put(&mut claim);
    claim
}

impl Cookies {
    fn make(&mut self, now: Instant, random: &mut dyn Random, claim: &[u8]) -> Cookie {
        let is_young = |secret: &Secret| now.since(secret.drawn) < SECRET_LIFE;
        let secret = match self.present.take() {
            Some(present) if is_young(&present) => present,
            old => {
                self.previous = old;
                let mut bytes = [0; 32];
                random.fill(&mut bytes);
                let key = MacKey::new(&bytes);
                bytes.zeroize();
                Secret { key, drawn: now }
            }
        };
        self.present.insert(secret).key.sign(claim)
    }

    fn knows(&self, now: Instant, claim: &[u8], cookie: &Cookie) -> bool {
        let secrets = self.previous.iter().chain(&self.present);
        secrets
            .filter(|secret| now.since(secret.drawn) < 2 * SECRET_LIFE)
            .any(|secret| secret.key.verify(claim, cookie))
    }
}

impl Context<'_> {
    /// The cookie for a node that says this of itself.
    pub(super) fn cookie_for(&mut self, node: NodeId, start: &Start) -> Cookie {
        let claim = claim(node, start.initiator, &start.addresses);
        self.core.cookies.make(self.now, self.random, &claim)
    }

    /// Whether the node has brought back the cookie for what it says of itself.
    pub(super) fn has_cookie(&self, node: NodeId, start: &Start) -> bool {
        let claim = claim(node, start.initiator, &start.addresses);
        let cookies = &self.core.cookies;
        cookies.knows(self.now, &claim, &start.cookie)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Address, Network};

    struct Counting(u8);
    impl Random for Counting {
        fn fill(&mut self, bytes: &mut [u8]) {
            self.0 += 1;
            bytes.fill(self.0);
        }
    }

    fn of(node: u32, incarnation: u64, last: u8) -> Vec<u8> {
        let mac = tipsec_dataplane::mac::MacAddr([2, 0, 0, 0, 0, last]);
        let addresses = Addresses::one(Network::new(0).unwrap(), Address::Ethernet(mac));
        super::claim(
            NodeId::new(node).unwrap(),
            Incarnation(incarnation),
            &addresses,
        )
    }

    fn at(seconds: u64) -> Instant {
        Instant::since_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn a_cookie_is_for_one_claim() {
        let (mut cookies, mut random) = (Cookies::default(), Counting(0));
        let cookie = cookies.make(at(0), &mut random, &of(1, 2, 3));
        assert!(cookies.knows(at(0), &of(1, 2, 3), &cookie));
        for other in [of(9, 2, 3), of(1, 9, 3), of(1, 2, 9)] {
            assert!(!cookies.knows(at(0), &other, &cookie));
        }
        assert!(!cookies.knows(at(0), &of(1, 2, 3), &NO_COOKIE));
    }

    #[test]
    fn nothing_is_known_before_a_cookie_was_made() {
        assert!(!Cookies::default().knows(at(0), &of(1, 2, 3), &NO_COOKIE));
    }

    #[test]
    fn a_cookie_lives_one_to_two_minutes() {
        let (mut cookies, mut random) = (Cookies::default(), Counting(0));
        let early = cookies.make(at(0), &mut random, &of(1, 2, 3));
        let late = cookies.make(at(59), &mut random, &of(1, 2, 3));
        assert_eq!(early, late, "one secret");
        assert!(cookies.knows(at(119), &of(1, 2, 3), &late));
        assert!(!cookies.knows(at(120), &of(1, 2, 3), &late), "unused since");
        let (mut cookies, mut random) = (Cookies::default(), Counting(0));
        let first = cookies.make(at(0), &mut random, &of(1, 2, 3));
        let second = cookies.make(at(60), &mut random, &of(1, 2, 3));
        assert_ne!(first, second);
        assert!(cookies.knows(at(119), &of(1, 2, 3), &first));
        assert!(!cookies.knows(at(120), &of(1, 2, 3), &first));
        assert!(cookies.knows(at(179), &of(1, 2, 3), &second));
    }
}
