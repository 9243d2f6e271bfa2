//! Group frames: one copy for each peer, at a bounded rate.
//!
//! A copy for every peer may be more than a burst, so a group frame is a job
//! that outlives a pass; its plaintext waits in memory of its own.

use std::time::Instant;

use super::ingest::Ingested;
use crate::ids::PeerIndex;

/// Group frames in a second, over time.
const RATE_PER_S: u32 = 1000;
/// Group frames at once.
const BURST_MAX: u32 = 256;
/// Nanoseconds that one group frame costs.
const COST_NS: u64 = 1_000_000_000 / RATE_PER_S as u64;

/// Largest plaintext of a group frame in bytes: as large as any MTU.
const PLAINTEXT_MAX: usize = 9216;

/// The group frame in work, and the bucket that admits the next.
pub(super) struct Group {
    members: Vec<PeerIndex>,
    plaintext: Box<[u8]>,
    len: usize,
    /// Time in nanoseconds since `start` at which the bucket is full again.
    full_at_ns: u64,
    start: Instant,
}

impl Group {
    pub(super) fn new(peers: usize, start: Instant) -> Self {
        Self {
            members: Vec::with_capacity(peers),
            plaintext: vec![0; PLAINTEXT_MAX].into(),
            len: 0,
            full_at_ns: 0,
            start,
        }
    }

    /// Takes a token; false if none is left.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.start).as_nanos();
        self.admit_at(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    fn admit_at(&mut self, now_ns: u64) -> bool {
        let full_at_ns = self.full_at_ns.max(now_ns) + COST_NS;
        if full_at_ns - now_ns > COST_NS * u64::from(BURST_MAX) {
            return false;
        }
        self.full_at_ns = full_at_ns;
        true
    }

    /// Starts a job: `plaintext` for every one of `members`. False, and no
    /// job, if there are none or it is too long.
    pub(super) fn start(
        &mut self,
        plaintext: &[u8],
        members: impl Iterator<Item = PeerIndex>,
    ) -> Ingested {
        let Some(place) = self.plaintext.get_mut(..plaintext.len()) else {
            return Ingested::TooLong;
        };
        place.copy_from_slice(plaintext);
        self.len = plaintext.len();
        self.members.clear();
        // Never more than there are peers, so this does not allocate.
        self.members.extend(members);
        if self.members.is_empty() {
            Ingested::NobodyThere
        } else {
            Ingested::Group
        }
    }

    /// The next peer that has no copy yet, and the plaintext for it.
    pub(super) fn next_copy(&mut self) -> Option<(PeerIndex, &[u8])> {
        let peer = self.members.pop()?;
        Some((peer, &self.plaintext[..self.len]))
    }

    /// Whether a job is unfinished.
    pub(super) fn is_pending(&self) -> bool {
        !self.members.is_empty()
    }

    /// Forgets the job.
    pub(super) fn abandon(&mut self) {
        self.members.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_admits_a_burst_and_then_its_rate() {
        let mut group = Group::new(1, Instant::now());
        let at_once = (0..1000).filter(|_| group.admit_at(5)).count();
        assert_eq!(at_once, BURST_MAX as usize);
        let in_a_second = (0..10_000u64)
            .filter(|i| group.admit_at(5 + i * 100_000))
            .count();
        assert!((999..=1001).contains(&in_a_second), "{in_a_second}");
        assert!(group.admit_at(u64::MAX / 2), "full after a long time");
    }

    #[test]
    fn every_member_gets_one_copy() {
        let mut group = Group::new(3, Instant::now());
        let members = [PeerIndex(0), PeerIndex(2)];
        assert_eq!(group.start(b"abc", members.into_iter()), Ingested::Group);
        assert!(group.is_pending());
        let mut seen = Vec::new();
        while let Some((peer, plaintext)) = group.next_copy() {
            assert_eq!(plaintext, b"abc");
            seen.push(peer);
        }
        seen.sort();
        assert_eq!(seen, members);
        assert!(!group.is_pending());
        assert_eq!(
            group.start(b"abc", std::iter::empty()),
            Ingested::NobodyThere
        );
        let long = vec![0; PLAINTEXT_MAX + 1];
        assert_eq!(group.start(&long, members.into_iter()), Ingested::TooLong);
    }
}
