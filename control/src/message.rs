//! What is inside control frames: the payloads of m1, m2 and m3 (encrypted by
//! Noise), of hello and of beacons (clear, under the HMAC).
//!
//! docs/protocol.md, "Messages".

use std::time::Duration;

use tipsec_dataplane::ids::{Epoch, Incarnation, MasterId, Spi};
use tipsec_dataplane::secret::Suite;
use zeroize::Zeroizing;

use crate::address::{ADDRESS_LEN, ADDRESSES_LEN, Address, Addresses, Network};
use crate::derive::Sek;
use crate::masters::{Masters, Role};
use crate::wire::Reader;

/// Most lanes (sending workers) of a node: an offer names an SPI for each.
pub const MAX_LANES: usize = 32;

/// Bytes of an offer before its SPIs.
const OFFER_FIXED_LEN: usize = 4 + 2 + 2 + 1 + 4 + 8 + ADDRESSES_LEN + Holdings::LEN + 32 + 1;

/// Longest offer in bytes; m1 is padded to it, so that no answer is longer
/// than its question.
pub const MAX_OFFER_LEN: usize = OFFER_FIXED_LEN + 4 * MAX_LANES;

/// Bytes of a cookie.
pub const COOKIE_LEN: usize = 16;

/// Which master keys a node holds, by their public ids, as it tells its peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holdings {
    /// Grows within an incarnation with each change of what follows: what was
    /// told earlier is known as such.
    pub change: u32,
    /// The ids, by role.
    pub masters: Masters<MasterId>,
}

/// Payload of m1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// The initiator's.
    pub initiator: Incarnation,
    /// The responder's as the initiator knows it; `None` if it does not.
    pub responder: Option<Incarnation>,
    /// Grows within the initiator's incarnation.
    pub counter: u64,
    /// The initiator's lanes.
    pub lanes: u8,
    /// Where the initiator receives.
    pub addresses: Addresses,
    /// The initiator's master keys.
    pub holdings: Holdings,
    /// From the last hello of the exchange, or zero. A bare exchange needs it.
    pub cookie: [u8; COOKIE_LEN],
}

/// Payload of m2 and m3: the receiver of a direction issues its keys.
pub struct Offer {
    /// Grows per direction and incarnation.
    pub epoch: Epoch,
    /// The AEAD, chosen by the receiver of the traffic.
    pub suite: Suite,
    /// Suites that the issuer allows for what it sends itself: a sum of codes.
    pub suites: u16,
    /// The issuer's own lanes, for the offer that answers.
    pub lanes: u8,
    /// The issuer's rekey interval; `None` = off.
    pub rekey_interval: Option<Duration>,
    /// Packets plus AES blocks that may be sealed per lane and phase.
    pub budget: u64,
    /// Where the issuer receives.
    pub addresses: Addresses,
    /// The issuer's master keys.
    pub holdings: Holdings,
    /// The secret of the lanes' keys.
    pub sek: Sek,
    /// One per lane of the sender.
    pub spis: Vec<Spi>,
}

/// Body of a hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Who answers.
    pub incarnation: Incarnation,
    /// "Not now": too many SAs of this pair are alive.
    pub busy: bool,
    /// To be echoed in m1, for what the initiator said of itself; zero if its m1
    /// could not be read.
    pub cookie: [u8; COOKIE_LEN],
    /// Where the sender receives.
    pub addresses: Addresses,
}

/// Body of a beacon; the incarnation is in the clear header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beacon {
    /// The network that it was sent on, by the sender's number.
    pub network: Network,
    /// Where the sender receives on it.
    pub address: Address,
    /// The sender's master keys.
    pub holdings: Holdings,
}

fn flag(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn lanes(byte: u8) -> Option<u8> {
    (1..=MAX_LANES).contains(&usize::from(byte)).then_some(byte)
}

impl Holdings {
    /// Bytes of the fields.
    pub const LEN: usize = 4 + 3 * 8;

    fn put(&self, out: &mut Vec<u8>) {
        // No key has the id 0 but with a chance of 2^-64.
        let id = |id: Option<&MasterId>| id.map_or(0, |id| id.0).to_be_bytes();
        out.extend_from_slice(&self.change.to_be_bytes());
        out.extend_from_slice(&id(Some(self.masters.active())));
        out.extend_from_slice(&id(self.masters.staged()));
        out.extend_from_slice(&id(self.masters.previous()));
    }

    /// Refuses one key in two roles.
    fn read(fields: &mut Reader<'_>) -> Option<Self> {
        let change = fields.u32()?;
        let active = MasterId(fields.u64()?);
        let mut other = || fields.u64().map(|id| (id != 0).then_some(MasterId(id)));
        let masters = Masters::new(active, other()?, other()?);
        let own_role = |(role, id): (Role, &MasterId)| masters.role_of(*id) == Some(role);
        let sound = active.0 != 0 && masters.iter().all(own_role);
        sound.then_some(Self { change, masters })
    }
}

impl Start {
    /// The payload, padded to [`MAX_OFFER_LEN`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_OFFER_LEN);
        out.extend_from_slice(&self.initiator.0.to_be_bytes());
        out.push(u8::from(self.responder.is_some()));
        out.extend_from_slice(&self.responder.map_or(0, |r| r.0).to_be_bytes());
        out.extend_from_slice(&self.counter.to_be_bytes());
        out.push(self.lanes);
        self.addresses.put(&mut out);
        self.holdings.put(&mut out);
        out.extend_from_slice(&self.cookie);
        out.resize(MAX_OFFER_LEN, 0);
        out
    }

    /// Reads the payload.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != MAX_OFFER_LEN {
            return None;
        }
        let mut fields = Reader::new(bytes);
        let initiator = Incarnation(fields.u64()?);
        let known = flag(fields.u8()?)?;
        let responder = Incarnation(fields.u64()?);
        let start = Self {
            initiator,
            responder: known.then_some(responder),
            counter: fields.u64()?,
            lanes: lanes(fields.u8()?)?,
            addresses: Addresses::read(&mut fields)?,
            holdings: Holdings::read(&mut fields)?,
            cookie: fields.array()?,
        };
        fields.zero_padding()?;
        Some(start)
    }
}

impl Offer {
    /// The payload. It holds the SEK, and is wiped when dropped.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(MAX_OFFER_LEN));
        out.extend_from_slice(&self.epoch.0.to_be_bytes());
        out.extend_from_slice(&self.suite.code().to_be_bytes());
        out.extend_from_slice(&self.suites.to_be_bytes());
        out.push(self.lanes);
        out.extend_from_slice(&interval_s(self.rekey_interval).to_be_bytes());
        out.extend_from_slice(&self.budget.to_be_bytes());
        self.addresses.put(&mut out);
        self.holdings.put(&mut out);
        out.extend_from_slice(self.sek.bytes());
        // Bounded by MAX_LANES, which is below 256.
        #[allow(clippy::cast_possible_truncation)]
        out.push(self.spis.len() as u8);
        for spi in &self.spis {
            out.extend_from_slice(&spi.value().to_be_bytes());
        }
        out
    }

    /// Reads the payload. Refuses repeated SPIs: a lane's key would be another's.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Reader::new(bytes);
        let epoch = Epoch(fields.u32()?);
        let suite = Suite::from_code(fields.u16()?)?;
        let suites = fields.u16()?;
        let own_lanes = lanes(fields.u8()?)?;
        let rekey_interval = match fields.u32()? {
            0 => None,
            seconds => Some(Duration::from_secs(seconds.into())),
        };
        let budget = fields.u64()?;
        let addresses = Addresses::read(&mut fields)?;
        let holdings = Holdings::read(&mut fields)?;
        let sek = Sek::new(fields.array()?);
        let count = lanes(fields.u8()?)?;
        let spis: Vec<Spi> = (0..count)
            .map(|_| Spi::new(fields.u32()?))
            .collect::<Option<_>>()?;
        fields.end()?;
        let distinct = spis
            .iter()
            .enumerate()
            .all(|(at, spi)| !spis[..at].contains(spi));
        distinct.then_some(Self {
            epoch,
            suite,
            suites,
            lanes: own_lanes,
            rekey_interval,
            budget,
            addresses,
            holdings,
            sek,
            spis,
        })
    }
}

/// Whole seconds, at least 1, saturating; 0 stands for off.
fn interval_s(interval: Option<Duration>) -> u32 {
    interval.map_or(0, |i| u32::try_from(i.as_secs()).unwrap_or(u32::MAX).max(1))
}

impl Hello {
    /// Bytes of the body.
    pub const LEN: usize = 8 + 1 + COOKIE_LEN + ADDRESSES_LEN;

    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.extend_from_slice(&self.incarnation.0.to_be_bytes());
        out.push(u8::from(self.busy));
        out.extend_from_slice(&self.cookie);
        self.addresses.put(&mut out);
        out
    }

    /// Reads the body.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Reader::new(bytes);
        let hello = Self {
            incarnation: Incarnation(fields.u64()?),
            busy: flag(fields.u8()?)?,
            cookie: fields.array()?,
            addresses: Addresses::read(&mut fields)?,
        };
        fields.end()?;
        Some(hello)
    }
}

impl Beacon {
    /// Bytes of the body.
    pub const LEN: usize = 1 + ADDRESS_LEN + Holdings::LEN;

    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.push(self.network.number());
        self.address.put(&mut out);
        self.holdings.put(&mut out);
        out
    }

    /// Reads the body.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Reader::new(bytes);
        let beacon = Self {
            network: Network::new(fields.u8()?)?,
            address: Address::read(&mut fields)?,
            holdings: Holdings::read(&mut fields)?,
        };
        fields.end()?;
        Some(beacon)
    }
}

#[cfg(test)]
mod tests {
    use tipsec_dataplane::mac::MacAddr;

    use super::*;

    const ADDRESS: Address = Address::Ethernet(MacAddr([2, 0, 0, 0, 0, 9]));
    const ADDRESSES: Addresses = Addresses::one(Network::DEFAULT, ADDRESS);

    const HOLDINGS: Holdings = Holdings {
        change: 3,
        masters: Masters::new(MasterId(1), None, Some(MasterId(2))),
    };

    fn offer(lanes: u32) -> Offer {
        Offer {
            epoch: Epoch(7),
            suite: Suite::Aes256Gcm,
            suites: 7,
            lanes: 2,
            rekey_interval: Some(Duration::from_secs(600)),
            budget: 1 << 32,
            addresses: ADDRESSES,
            holdings: HOLDINGS,
            sek: Sek::new([5; 32]),
            spis: (1..=lanes).map(|n| Spi::new(n).unwrap()).collect(),
        }
    }

    #[test]
    fn start_round_trips_at_full_length() {
        let start = Start {
            initiator: Incarnation(1),
            responder: None,
            counter: 3,
            lanes: 1,
            addresses: ADDRESSES,
            holdings: HOLDINGS,
            cookie: [4; 16],
        };
        let bytes = start.encode();
        assert_eq!(bytes.len(), MAX_OFFER_LEN);
        assert_eq!(Start::decode(&bytes), Some(start));
        assert_eq!(Start::decode(&bytes[1..]), None);
        let mut padding = bytes;
        *padding.last_mut().unwrap() = 1;
        assert_eq!(Start::decode(&padding), None);
    }

    #[test]
    fn offer_round_trips_and_the_longest_fits_m1() {
        #[allow(clippy::cast_possible_truncation)]
        for lanes in [1, 2, MAX_LANES as u32] {
            let bytes = offer(lanes).encode();
            assert!(bytes.len() <= MAX_OFFER_LEN);
            let back = Offer::decode(&bytes).unwrap();
            assert_eq!(back.encode(), bytes);
        }
        assert_eq!(offer(32).encode().len(), MAX_OFFER_LEN);
    }

    #[test]
    fn offer_refuses_lengths_and_repeated_spis() {
        let bytes = offer(3).encode();
        for len in 0..bytes.len() {
            assert!(Offer::decode(&bytes[..len]).is_none(), "{len} bytes");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(Offer::decode(&longer).is_none());
        let mut repeated = offer(2);
        repeated.spis[1] = repeated.spis[0];
        assert!(Offer::decode(&repeated.encode()).is_none());
        let mut none = offer(1);
        none.spis.clear();
        assert!(Offer::decode(&none.encode()).is_none());
    }

    #[test]
    fn hello_and_beacon_round_trip() {
        let hello = Hello {
            incarnation: Incarnation(9),
            busy: true,
            cookie: [0; 16],
            addresses: ADDRESSES,
        };
        assert_eq!(hello.encode().len(), Hello::LEN);
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        let beacon = Beacon {
            network: Network::DEFAULT,
            address: ADDRESS,
            holdings: HOLDINGS,
        };
        assert_eq!(beacon.encode().len(), Beacon::LEN);
        assert_eq!(Beacon::decode(&beacon.encode()), Some(beacon));
        let mut elsewhere = beacon.encode();
        elsewhere[0] = 4;
        assert_eq!(Beacon::decode(&elsewhere), None, "no such network");
        let group = Beacon {
            address: Address::Ethernet(MacAddr::BROADCAST),
            ..beacon
        };
        assert_eq!(Beacon::decode(&group.encode()), None, "no group address");
    }

    #[test]
    fn holdings_name_each_key_once_and_an_active_one() {
        let read = |active: u64, staged: u64, previous: u64| {
            let ids = [active, staged, previous].map(u64::to_be_bytes);
            let bytes = [&9u32.to_be_bytes()[..], ids.as_flattened()].concat();
            Holdings::read(&mut Reader::new(&bytes))
        };
        let id = |n| (n != 0).then_some(MasterId(n));
        for (active, staged, previous) in [(1, 0, 0), (1, 2, 0), (1, 0, 2), (1, 2, 3)] {
            let expected = Holdings {
                change: 9,
                masters: Masters::new(MasterId(active), id(staged), id(previous)),
            };
            let read = read(active, staged, previous).unwrap();
            assert_eq!(read, expected);
            let mut bytes = Vec::new();
            read.put(&mut bytes);
            assert_eq!(bytes.len(), Holdings::LEN);
            assert_eq!(Holdings::read(&mut Reader::new(&bytes)), Some(read));
        }
        for (active, staged, previous) in [(0, 1, 0), (1, 1, 0), (1, 0, 1), (1, 2, 2)] {
            assert_eq!(read(active, staged, previous), None);
        }
    }

    #[test]
    fn no_interval_becomes_off_or_wraps() {
        assert_eq!(interval_s(None), 0);
        assert_eq!(interval_s(Some(Duration::from_millis(200))), 1);
        assert_eq!(interval_s(Some(Duration::from_secs(u64::MAX))), u32::MAX);
    }
}
