//! The whole state of a machine as a name, for whoever explores what can become
//! of it: two machines with the same name do the same from now on, whatever
//! befalls them.
//!
//! Each struct of the machine lists its fields beside its definition, those that
//! count and those that do not ([`parts`]). The list takes the struct apart
//! without `..`: whoever adds a field has to say which of both it is before
//! anything compiles.
//!
//! Moments count by their distance from now, so that the same state later has the
//! same name. Those that are further in the past than any limit of the machine
//! reaches are all alike.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use tipsec_dataplane::ids::{Epoch, Incarnation, LaneIndex, MasterId, NodeId, PeerIndex, Spi};
use tipsec_dataplane::phase::Phase;

use super::link::LinkState;
use super::{Core, Machine, Pending, Token};
use crate::address::{Addresses, Network};
use crate::derive::{Chain, MasterRing, Sek};
use crate::frame::ExchangeName;
use crate::message::Holdings;
use crate::time::Instant;

/// Moments longer ago than this are alike: longer than the longest limit by which
/// a machine looks back, the rest of an SPI.
const HORIZON: Duration = Duration::from_secs(100);

/// The name of a machine's state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Digest {
    /// Of everything but moments.
    fixed: [u8; 16],
    /// Moments in an order that `fixed` tells.
    moments: Vec<Moment>,
}

/// A moment as nanoseconds from now, and how far back it still counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Moment {
    ahead: i64,
    limit: i64,
}

impl Moment {
    fn after(self, wait: Duration) -> Self {
        let ahead = self.ahead.saturating_sub(nanos(wait)).max(-self.limit);
        Self { ahead, ..self }
    }
}

impl Digest {
    /// Appends what the name will be after a wait in which nothing has happened.
    pub fn write_after(&self, wait: Duration, out: &mut Vec<u8>) {
        out.extend(self.fixed);
        for moment in &self.moments {
            out.extend(moment.after(wait).ahead.to_le_bytes());
        }
    }

    /// Whether both tell the same but for moments.
    #[must_use]
    pub fn differs_by_moments_only(&self, other: &Self) -> bool {
        self.fixed == other.fixed
    }

    /// The name after a wait in which nothing has happened.
    #[must_use]
    pub fn after(&self, wait: Duration) -> Self {
        let moments = self.moments.iter().map(|moment| moment.after(wait));
        Self {
            fixed: self.fixed,
            moments: moments.collect(),
        }
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// Gathers a [`Digest`].
pub struct Digester {
    now: Instant,
    fixed: Vec<u8>,
    moments: Vec<Moment>,
}

impl Digester {
    /// An empty one.
    pub fn new(now: Instant) -> Self {
        Self {
            now,
            fixed: Vec::new(),
            moments: Vec::new(),
        }
    }

    /// Something that has no moments in it.
    pub fn value(&mut self, value: &(impl Hash + ?Sized)) {
        value.hash(&mut Raw(&mut self.fixed));
    }

    /// A moment.
    pub fn moment(&mut self, at: Instant) {
        self.moment_within(at, HORIZON);
    }

    /// A moment that is as good as any other once it is so long ago.
    pub fn moment_within(&mut self, at: Instant, limit: Duration) {
        let ahead = nanos(at.since(self.now)) - nanos(self.now.since(at));
        let limit = nanos(limit);
        self.moments
            .push(Moment { ahead, limit }.after(Duration::ZERO));
    }

    /// The name.
    pub fn finish(self) -> Digest {
        let mut fixed = [0; 16];
        fixed.copy_from_slice(&digest(&SHA256, &self.fixed).as_ref()[..16]);
        Digest {
            fixed,
            moments: self.moments,
        }
    }
}

/// Keeps what is hashed, byte for byte.
struct Raw<'a>(&'a mut Vec<u8>);

impl Hasher for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

/// What counts in a name.
pub(super) trait Part {
    fn put(&self, into: &mut Digester);
}

/// `parts!(Type: field, …; not field, …)` for a struct, fields that do not count
/// last; `parts!(enum Type: Variant, Variant(x), Variant { field })`.
macro_rules! parts {
    (enum $type:ident: $($variant:ident $(($($item:ident),+))? $({ $($field:ident),+ })?),+) => {
        impl $crate::machine::digest::Part for $type {
            fn put(&self, into: &mut $crate::machine::digest::Digester) {
                match self {
                    $(Self::$variant $(($($item),+))? $({ $($field),+ })? => {
                        into.value(stringify!($variant));
                        $($($crate::machine::digest::Part::put($item, into);)+)?
                        $($($crate::machine::digest::Part::put($field, into);)+)?
                    })+
                }
            }
        }
    };
    ($type:ident: $($field:ident),+ $(; not $($skipped:ident),+)?) => {
        impl $crate::machine::digest::Part for $type {
            fn put(&self, into: &mut $crate::machine::digest::Digester) {
                let Self { $($field,)+ $($($skipped: _,)+)? } = self;
                $($crate::machine::digest::Part::put($field, into);)+
            }
        }
    };
}
pub(super) use parts;

macro_rules! values {
    ($($type:ty),+) => {
        $(impl Part for $type {
            fn put(&self, into: &mut Digester) {
                into.value(self);
            }
        })+
    };
}

values!(
    bool,
    u8,
    u16,
    u32,
    u64,
    Duration,
    Epoch,
    Incarnation,
    LaneIndex,
    MasterId,
    NodeId,
    PeerIndex,
    Spi,
    Phase,
    Token,
    Network
);

/// Plain values that can only be printed.
macro_rules! printed {
    ($($type:ty),+) => {
        $(impl Part for $type {
            fn put(&self, into: &mut Digester) {
                into.value(&format!("{self:?}"));
            }
        })+
    };
}

printed!(Addresses, ExchangeName, Holdings, LinkState);

impl Part for Instant {
    fn put(&self, into: &mut Digester) {
        into.moment(*self);
    }
}

impl Part for Sek {
    fn put(&self, into: &mut Digester) {
        into.value(self.bytes());
    }
}

impl Part for Chain {
    /// Its id is derived from the same as its secret.
    fn put(&self, into: &mut Digester) {
        into.value(&self.id());
    }
}

impl Part for MasterRing {
    fn put(&self, into: &mut Digester) {
        for (role, id) in self.ids().iter() {
            into.value(&(role.to_string(), id));
        }
    }
}

impl<T: Part> Part for Option<T> {
    fn put(&self, into: &mut Digester) {
        into.value(&self.is_some());
        if let Some(inner) = self {
            inner.put(into);
        }
    }
}

impl<T: Part> Part for Box<T> {
    fn put(&self, into: &mut Digester) {
        (**self).put(into);
    }
}

impl<A: Part, B: Part> Part for (A, B) {
    fn put(&self, into: &mut Digester) {
        self.0.put(into);
        self.1.put(into);
    }
}

fn put_all<'a, T: Part + 'a>(all: impl ExactSizeIterator<Item = &'a T>, into: &mut Digester) {
    into.value(&all.len());
    for one in all {
        one.put(into);
    }
}

impl<T: Part, const N: usize> Part for [T; N] {
    fn put(&self, into: &mut Digester) {
        put_all(self.iter(), into);
    }
}

impl<T: Part> Part for Vec<T> {
    fn put(&self, into: &mut Digester) {
        put_all(self.iter(), into);
    }
}

impl<T: Part> Part for VecDeque<T> {
    fn put(&self, into: &mut Digester) {
        put_all(self.iter(), into);
    }
}

impl<T: Part> Part for BTreeSet<T> {
    fn put(&self, into: &mut Digester) {
        put_all(self.iter(), into);
    }
}

impl<K: Part, V: Part> Part for BTreeMap<K, V> {
    fn put(&self, into: &mut Digester) {
        into.value(&self.len());
        for (key, value) in self {
            key.put(into);
            value.put(into);
        }
    }
}

parts!(enum Pending: Installed(peer, epoch), Staged(peer, spi, phase), Removed(spis));

// Of the settings, what may change. Actions are all taken when a name is asked
// for; the journal and the counts are written, and never looked at by a rule.
impl Part for Core {
    fn put(&self, into: &mut Digester) {
        let Self {
            settings,
            masters,
            holdings_change,
            actions,
            journal: _,
            counts: _,
            spis,
            pending,
            next_token,
            m1_counter,
            next_probe,
            cookies,
            evicted,
            lost_lanes,
            epoch_floor,
            defect: _,
        } = self;
        debug_assert!(actions.is_empty(), "actions that nobody has taken");
        settings.incarnation.put(into);
        Part::put(&settings.addresses, into);
        settings.rekey_interval.put(into);
        masters.put(into);
        holdings_change.put(into);
        spis.put(into);
        pending.put(into);
        next_token.put(into);
        m1_counter.put(into);
        next_probe.put(into);
        cookies.put(into);
        evicted.put(into);
        lost_lanes.put(into);
        epoch_floor.put(into);
    }
}

impl Machine {
    /// Adds everything that decides what it will do, but for the source of random
    /// numbers, which the caller has.
    pub fn put_into(&self, digester: &mut Digester) {
        let Self {
            core,
            peers,
            // Follows from the peers.
            schedule: _,
            beaconing,
            claims,
            // Of interest only when a timer is late: none is, where states are compared.
            stepped: _,
        } = self;
        core.put(digester);
        peers.put(digester);
        beaconing.put(digester);
        claims.put(digester);
    }
}
