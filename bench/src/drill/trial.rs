//! Traffic from before the harm until after it, and the account of it. Imports
//! `account`, `books`, `lab`, `stream`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::account::{self, Places};
use super::lab::{Lab, OFTEN};
use super::outcome::{Harm, Outcome, millis};
use super::stream::{End, Pace, Stream};
use super::tally::{Tally, Window};
use crate::accounts::{Balance, Cut, balance};
use crate::books;
use crate::error::Result;
use crate::wait::{self, Look};

/// Port of the first stream; the others follow.
const FIRST_PORT: u16 = 6100;
/// Traffic has to flow so long after it was started, or the harm ended.
const FLOW_WITHIN: Duration = Duration::from_secs(30);
/// Counters have to stand still for so long: longer than a frame is under way
/// on a machine that is busy otherwise.
const CALM: Duration = Duration::from_millis(15);
/// Frames that no counter has by then are lost.
const ACCOUNTED_WITHIN: Duration = Duration::from_secs(2);
/// ... and meanwhile the counters are read so far apart.
const AGAIN: Duration = Duration::from_millis(100);
/// Datagrams of each stream before harm is done.
const WARM: u64 = 20;

/// Traffic that runs.
pub(super) struct Trial {
    before: Cut,
    pub(super) streams: Vec<Stream>,
    pub(super) windows: Vec<Window>,
    /// Streams that harm holds up, by index.
    held_up: Vec<usize>,
}

/// What it came to.
pub(super) struct Ended {
    pub(super) tallies: Vec<Tally>,
    pub(super) balance: Balance,
    /// By stream.
    pub(super) places: Vec<Places>,
    pub(super) windows: Vec<Window>,
    held_up: Vec<usize>,
}

impl Trial {
    /// Reads the books, starts a stream for each (from, to, pace), by indexes
    /// of nodes, and waits until all flow. `held_up`: the streams, by index,
    /// that the harm will touch; the others must not lose anything.
    ///
    /// # Errors
    /// [`crate::Error::Timeout`] if there is no flow; those of daemons and sockets.
    pub(super) fn begin(
        lab: &mut Lab,
        streams: &[(usize, usize, Pace)],
        held_up: &[usize],
    ) -> Result<Self> {
        let before = books::take_calm(&mut lab.cluster, &mut lab.capture, CALM)?;
        let end = |index: usize| End {
            node: lab.id(index),
            namespace: lab.cluster.namespace(index),
        };
        let started = (FIRST_PORT..)
            .zip(streams)
            .map(|(port, &(from, to, pace))| {
                let target = SocketAddr::from((lab.cluster.nodes[to].address, port));
                Stream::start(&end(from), &end(to), target, pace)
            });
        let trial = Self {
            before,
            streams: started.collect::<Result<_>>()?,
            windows: Vec::new(),
            held_up: held_up.to_vec(),
        };
        wait::until("traffic to flow", FLOW_WITHIN, OFTEN, || {
            let dry = trial.streams.iter().find(|stream| stream.arrived() < WARM);
            Ok(match dry {
                None => Look::Done(()),
                Some(stream) => Look::NotYet(format!("{} does not", stream.way())),
            })
        })?;
        Ok(trial)
    }

    /// Waits until every stream that was held up has delivered a datagram after
    /// `since`, and notes the harm from `began` to `since`. Gives the time.
    ///
    /// # Errors
    /// [`crate::Error::Timeout`] that names the stream.
    pub(super) fn recover(
        &mut self,
        what: &str,
        began: Instant,
        since: Instant,
    ) -> Result<Duration> {
        let mut recovered = since;
        for &at in &self.held_up {
            let stream = &self.streams[at];
            let what = format!("a datagram {} after {what}", stream.way());
            let first = wait::until(&what, FLOW_WITHIN, OFTEN, || {
                Ok(match stream.first_after(since) {
                    Some(at) => Look::Done(at),
                    None => Look::NotYet("none came".into()),
                })
            })?;
            recovered = recovered.max(first);
        }
        self.windows.push(Window {
            what: what.to_owned(),
            began,
            ended: since,
            recovered,
        });
        Ok(recovered - since)
    }

    /// Ends the traffic, waits for links and for counters to stand still, and
    /// balances. `killed`: the node whose process did not live throughout.
    ///
    /// # Errors
    /// Those of daemons that do not answer; [`crate::Error::Timeout`].
    pub(super) fn end(mut self, lab: &mut Lab, killed: Option<u32>) -> Result<Ended> {
        self.streams.iter_mut().for_each(Stream::stop);
        lab.wait_for_links()?;
        // Once all counters stand still, whatever was sealed is delivered; but a
        // worker may wait for a core meanwhile, with frames in its rings.
        let stopped = Instant::now();
        let (after, balance) = loop {
            let after = books::take_calm(&mut lab.cluster, &mut lab.capture, CALM)?;
            let balance = balance(&self.before, &after, killed);
            if balance.unaccounted.is_empty() || stopped.elapsed() > ACCOUNTED_WITHIN {
                break (after, balance);
            }
            wait::pass(AGAIN)?;
        };
        let finished = self.streams.into_iter().map(Stream::finish);
        let tallies: Vec<Tally> = finished.collect::<Result<_>>()?;
        let places = tallies
            .iter()
            .map(|tally| account::places(tally, &self.before, &after, &balance))
            .collect();
        Ok(Ended {
            tallies,
            balance,
            places,
            windows: self.windows,
            held_up: self.held_up,
        })
    }

    /// Ends the traffic without books, where counters or captures are gone.
    ///
    /// # Errors
    /// [`crate::Error::Timeout`].
    pub(super) fn end_without_books(self) -> Result<(Vec<Tally>, Vec<Window>)> {
        let tallies = self.streams.into_iter().map(Stream::finish);
        Ok((tallies.collect::<Result<_>>()?, self.windows))
    }
}

/// Notes sums and harms.
pub(super) fn note_sums(tallies: &[Tally], windows: &[Window], outcome: &mut Outcome) {
    outcome.sent += tallies.iter().map(|tally| tally.sent).sum::<u64>();
    outcome.lost += tallies.iter().map(Tally::lost).sum::<u64>();
    outcome.harms.extend(windows.iter().map(|window| Harm {
        what: window.what.clone(),
        lasted_ms: millis(window.ended - window.began),
        recovery_ms: Some(millis(window.recovered - window.ended)),
        lost: window.lost(tallies),
    }));
}

/// Holds that no receiver got a datagram twice.
pub(super) fn check_doubled(tallies: &[Tally], outcome: &mut Outcome) {
    let doubled: u64 = tallies.iter().map(|tally| tally.doubled).sum();
    outcome.check(
        "no datagram arrived twice",
        doubled == 0,
        format!("{doubled} did"),
    );
}

impl Ended {
    /// Notes sums and harms, and holds that nothing was lost beside the harm,
    /// nothing arrived twice, and every frame is accounted for.
    pub(super) fn check(&self, outcome: &mut Outcome) {
        note_sums(&self.tallies, &self.windows, outcome);
        check_doubled(&self.tallies, outcome);
        self.check_beside(outcome);
        self.check_balance(outcome);
        self.check_places(outcome);
    }

    /// As [`Self::check`], where the bridge had no way out to a node for a while:
    /// frames that ran into it then, which are `in_cut`, are counted nowhere
    /// else.
    pub(super) fn check_cut(&self, in_cut: u64, outcome: &mut Outcome) {
        note_sums(&self.tallies, &self.windows, outcome);
        check_doubled(&self.tallies, outcome);
        self.check_beside(outcome);
        let lost = self.balance.unaccounted_frames;
        outcome.check(
            "every frame is accounted for, or ran into the cut",
            lost <= in_cut && self.balance.sealed > 0,
            format!("{lost} known to no counter; {in_cut} entered the bridge during the cut"),
        );
        self.check_places(outcome);
        if lost > 0 {
            outcome
                .why
                .push(format!("of frames, {lost} ran into the cut"));
        }
    }

    fn check_balance(&self, outcome: &mut Outcome) {
        let faults = &self.balance.unaccounted;
        outcome.check(
            "every frame is accounted for",
            faults.is_empty(),
            if faults.is_empty() {
                let (sealed, opened) = (self.balance.sealed, self.balance.opened);
                format!("{sealed} sealed, {opened} opened, counters name the rest")
            } else {
                faults.join("; ")
            },
        );
    }

    /// As [`Self::check`], for traffic that overloads the nodes: loss is no
    /// fault as long as it has a name.
    pub(super) fn check_saturated(&self, outcome: &mut Outcome) {
        note_sums(&self.tallies, &self.windows, outcome);
        check_doubled(&self.tallies, outcome);
        self.check_balance(outcome);
        self.check_places(outcome);
    }

    /// Losses have to lie in the harm's windows, and on the streams that it
    /// holds up.
    pub(super) fn check_beside(&self, outcome: &mut Outcome) {
        let mut beside = Vec::new();
        for (at, tally) in self.tallies.iter().enumerate() {
            let one = std::slice::from_ref(tally);
            let expected: u64 = match self.held_up.contains(&at) {
                true => self.windows.iter().map(|window| window.lost(one)).sum(),
                false => 0,
            };
            let gaps: u64 = tally.gaps.iter().map(|gap| gap.end - gap.start).sum();
            if gaps > expected {
                let (from, to) = (tally.from, tally.to);
                beside.push(format!("{} of {from} -> {to}", gaps - expected));
            }
        }
        outcome.check(
            "nothing lost beside the harm",
            beside.is_empty(),
            match beside.is_empty() {
                true => "all losses were sent between its beginning and the recovery".to_owned(),
                false => beside.join(", "),
            },
        );
    }

    /// Every lost datagram has to be among what the counters know, where both
    /// processes lived; else the rest is said to have died with one.
    fn check_places(&self, outcome: &mut Outcome) {
        let mut unknown = Vec::new();
        for (tally, places) in self.tallies.iter().zip(&self.places) {
            let (rest, dead) = account::unknown(tally, places);
            let way = format!("{} -> {}", tally.from, tally.to);
            if tally.refused > 0 {
                let refused = tally.refused;
                outcome
                    .why
                    .push(format!("{way} not sent {refused}: there was no tap"));
            }
            if tally.lost() == 0 {
                continue;
            }
            let mut words = places.words();
            words.extend(dead);
            if rest > 0 {
                unknown.push(format!("{way}: {rest} of {}", tally.lost()));
                words.push(format!("{rest} UNKNOWN"));
            }
            outcome
                .why
                .push(format!("{way} lost {}: {}", tally.lost(), words.join(", ")));
        }
        for (reason, frames) in &self.balance.lost {
            if *frames > 0 && (reason.starts_with("xdp ") || reason.starts_with("xsk ")) {
                outcome.why.push(format!("of frames, {frames} {reason}"));
            }
        }
        outcome.check(
            "every lost datagram has a reason",
            unknown.is_empty(),
            match unknown.is_empty() {
                true => "the counters know of at least as many".to_owned(),
                false => unknown.join("; "),
            },
        );
    }

    /// Nothing may be lost for a key reason, but by pairs with a node that was
    /// killed, and on links that are still down.
    pub(super) fn check_keys(&self, outcome: &mut Outcome) {
        let losses: Vec<String> = self
            .balance
            .key_losses
            .iter()
            .map(|loss| {
                let peer = loss.peer.map_or(String::new(), |p| format!(" of peer {p}"));
                format!("node {}: {} {}{peer}", loss.node, loss.frames, loss.reason)
            })
            .collect();
        outcome.check(
            "no frame lost for a key reason",
            losses.is_empty(),
            match losses.is_empty() {
                true => "0 frames".to_owned(),
                false => losses.join("; "),
            },
        );
    }
}
