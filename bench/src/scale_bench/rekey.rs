//! A rekey of many peers while traffic flows: two real workers joined by
//! memory, each on its core, and a control thread that gives them commands as
//! the daemon's does. Imports `rounds`, `results`.
//!
//! * this file: who takes part, and the balance of the books;
//! * `pair`: the workers and their control thread; `keys`: their lanes;
//! * `schedule`: frames at times that are set beforehand, and how late they
//!   come; `floor`: the same without any work.
//!
//! The left worker stands for all peers: it has a sending lane to each, and
//! each of them is the right worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tipsec_dataplane::aead::aws_lc::AwsLc;
use tipsec_dataplane::aead::ring::Ring;
use tipsec_dataplane::aead::{Aead, Provider};
use tipsec_dataplane::counters::{RxDrop, TxDrop, WorkerCounters};
use tipsec_dataplane::ids::PeerIndex;

use super::REKEY;
use crate::error::{Error, Result};
use crate::results::{Sample, Series};
use crate::rounds::Contender;
use crate::wait::{self, Look};

mod floor;
mod keys;
mod pair;
mod schedule;

use floor::Floor;
use pair::Pair;
use schedule::{Lateness, Shared};

/// Contenders.
pub(super) const FLOOR: &str = "scheduler's floor";
pub(super) const STEADY: &str = "before";
pub(super) const REKEYING: &str = "rekey";
/// Names of metrics.
pub(super) const P999: &str = "p99.9";
pub(super) const KEY_LOSSES: &str = "lost for key reasons";

/// Rest between two rekeys.
const REST: Duration = Duration::from_millis(50);
/// Frames flow this long before they count.
const WARM_UP: Duration = Duration::from_millis(50);
/// The books must balance this long after the last frame was meant to be sent.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);
const SETTLE_INTERVAL: Duration = Duration::from_millis(2);

/// All contenders, with the cipher of the first of `providers`.
pub(super) fn contenders(
    peers: u16,
    provider: Option<&Provider>,
    cores: (usize, usize),
) -> Vec<Box<dyn Contender>> {
    let mut all: Vec<Box<dyn Contender>> = vec![Box::new(Floor::new(series(FLOOR, peers), cores))];
    for (name, rekeys) in [(STEADY, false), (REKEYING, true)] {
        let series = series(name, peers);
        all.push(match provider {
            Some(Provider::AwsLc) => Box::new(Traffic::<AwsLc>::new(series, peers, rekeys, cores)),
            _ => Box::new(Traffic::<Ring>::new(series, peers, rekeys, cores)),
        });
    }
    all
}

fn series(name: &str, peers: u16) -> Series {
    Series::new(REKEY, name, &[("peers", &peers.to_string())])
}

/// What latencies come to, in the order of the report.
fn metrics(lateness: &Lateness) -> Vec<(&'static str, &'static str, f64)> {
    let us = |ns: u64| ns as f64 / 1000.0;
    vec![
        ("p50", "µs", us(lateness.at(0.5))),
        ("p99", "µs", us(lateness.at(0.99))),
        (P999, "µs", us(lateness.at(0.999))),
        ("latest", "µs", us(lateness.at(1.0))),
        ("counted", "frames", lateness.frames() as f64),
    ]
}

/// Traffic to all peers in turn, with or without rekeys.
struct Traffic<A> {
    series: Series,
    peers: u16,
    rekeys: bool,
    cores: (usize, usize),
    cipher: std::marker::PhantomData<fn() -> A>,
}

impl<A: Aead> Traffic<A> {
    fn new(series: Series, peers: u16, rekeys: bool, cores: (usize, usize)) -> Self {
        Self {
            series,
            peers,
            rekeys,
            cores,
            cipher: std::marker::PhantomData,
        }
    }

    /// Lets frames flow for `duration`; says how many rekeys of all peers there
    /// were, and how long they took.
    fn flow(
        &self,
        pair: &mut Pair,
        shared: &Shared,
        duration: Duration,
    ) -> Result<(u32, Duration)> {
        let (mut rekeys, mut busy) = (0, Duration::ZERO);
        shared.start()?;
        pair.rest(WARM_UP)?;
        shared.count_from_now();
        let start = Instant::now();
        while start.elapsed() < duration {
            if self.rekeys {
                shared.set_rekeying(true);
                let begun = Instant::now();
                pair.rekey_all()?;
                busy += begun.elapsed();
                shared.set_rekeying(false);
                rekeys += 1;
            }
            pair.rest(REST)?;
        }
        shared.stop();
        Ok((rekeys, busy))
    }
}

impl<A: Aead> Contender for Traffic<A> {
    fn series(&self) -> Series {
        self.series.clone()
    }

    /// Loses no sample, since none may have lost a frame.
    fn is_short(&self) -> bool {
        false
    }

    fn sample(&mut self, duration: Duration) -> Result<Sample> {
        let shared = Arc::new(Shared::new()?);
        let mut pair = Pair::start::<A>(self.peers, self.cores, &shared)?;
        let flown = pair
            .rekey_all()
            .and_then(|()| self.flow(&mut pair, &shared, duration));
        let (left, right) = pair.counters();
        let book = || Book::read(&shared, &left, &right, self.peers);
        let settled = flown.and_then(|flown| {
            let late = wait::until("the last frames", SETTLE_WITHIN, SETTLE_INTERVAL, || {
                let book = book();
                Ok(match book.unaccounted() {
                    0 => Look::Done(()),
                    rest => Look::NotYet(format!("{rest} frames are on their way")),
                })
            });
            match late {
                // Then they are unaccounted for, and the sample says so.
                Ok(()) | Err(Error::Timeout { .. }) => Ok(flown),
                Err(error) => Err(error),
            }
        });
        let stopped = pair.stop();
        let (rekeys, busy) = settled?;
        stopped?;
        let book = book();
        let lateness = shared.lateness(self.rekeys);
        if lateness.frames() == 0 {
            return Err(Error::Failed {
                what: "measure latency".into(),
                detail: "no frame arrived that counts".into(),
            });
        }
        let mut metrics = metrics(&lateness);
        metrics.push((KEY_LOSSES, "frames", book.for_key_reasons as f64));
        if self.rekeys {
            metrics.push(("rekeys", "of all peers", f64::from(rekeys)));
            let ms = busy.as_secs_f64() * 1000.0 / f64::from(rekeys.max(1));
            metrics.push(("a rekey of all peers", "ms", ms));
        }
        Ok(Sample {
            metrics,
            unaccounted: book.unaccounted(),
            drops: book.losses,
        })
    }
}

/// Where frames went.
#[derive(Default)]
struct Book {
    submitted: u64,
    delivered: u64,
    losses: BTreeMap<String, u64>,
    for_key_reasons: u64,
}

impl Book {
    fn read(shared: &Shared, left: &WorkerCounters, right: &WorkerCounters, peers: u16) -> Self {
        let mut book = Self {
            submitted: shared.submitted(),
            delivered: shared.delivered(),
            ..Self::default()
        };
        let all = |counters: &WorkerCounters, drops: &dyn Fn(&_) -> u64| {
            let peers = (0..peers).map(|peer| drops(counters.peer(PeerIndex(peer))));
            peers.sum::<u64>() + drops(&counters.nobody)
        };
        for &reason in TxDrop::ALL {
            let lost = all(left, &|counters| counters.tx_drops(reason));
            book.lose(reason.name(), lost, reason.is_key_related());
        }
        for &reason in RxDrop::ALL {
            let lost = all(right, &|counters| counters.rx_drops(reason));
            book.lose(reason.name(), lost, reason.is_key_related());
        }
        book
    }

    fn lose(&mut self, reason: &str, frames: u64, for_key_reasons: bool) {
        if frames > 0 {
            self.losses.insert(reason.to_owned(), frames);
        }
        if for_key_reasons {
            self.for_key_reasons += frames;
        }
    }

    fn unaccounted(&self) -> i64 {
        let explained = self.delivered + self.losses.values().sum::<u64>();
        let difference = i128::from(self.submitted) - i128::from(explained);
        i64::try_from(difference).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rekey_loses_nothing_and_everything_is_counted() {
        let cores = crate::machine::cores().unwrap();
        let cores = (cores[0], *cores.last().unwrap());
        for mut contender in contenders(20, Some(&Provider::Ring), cores) {
            let title = contender.series().title();
            let sample = contender.sample(Duration::from_millis(100)).unwrap();
            assert_eq!(sample.unaccounted, 0, "{title}: {:?}", sample.drops);
            assert_eq!(sample.drops, BTreeMap::new(), "{title}");
            let value = |wanted: &str| {
                let mut metrics = sample.metrics.iter();
                metrics.find(|(name, ..)| *name == wanted).map(|m| m.2)
            };
            assert!(value("counted").unwrap() > 0.0, "{title}");
            assert!(value("p50") <= value(P999), "{title}");
            if title.starts_with(REKEYING) {
                assert!(value("rekeys").unwrap() >= 1.0);
                assert_eq!(value(KEY_LOSSES), Some(0.0));
            }
        }
    }

    #[test]
    fn frames_lost_for_a_key_are_told_from_others() {
        let mut book = Book {
            submitted: 10,
            delivered: 4,
            ..Book::default()
        };
        let unknown = RxDrop::UnknownSpi;
        book.lose(unknown.name(), 2, unknown.is_key_related());
        book.lose(RxDrop::TapFull.name(), 3, RxDrop::TapFull.is_key_related());
        assert_eq!((book.for_key_reasons, book.unaccounted()), (2, 1));
    }
}
