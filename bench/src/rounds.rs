//! Contenders in interleaved rounds: A B C, B C A, C A B … each for the same
//! time, so that a machine that drifts or is shared drifts under all of them,
//! and no one always runs after the same other. Imports `results`, `report`,
//! `interrupt`, `steal`.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::interrupt;
use crate::report::Countdown;
use crate::results::{Sample, Series};
use crate::steal;

/// What takes part.
pub trait Contender {
    /// Its series, with name and labels and no samples yet.
    fn series(&self) -> Series;

    /// Runs for `duration`, warm-up and end not counted, and says what came
    /// of it.
    ///
    /// # Errors
    /// [`Error::Peer`] ends its own series alone; whatever else went wrong ends
    /// the whole run.
    fn sample(&mut self, duration: Duration) -> Result<Sample>;

    /// Whether a sample takes little longer than its duration, and so is taken
    /// again if the host disturbed it ([`crate::steal`]).
    fn is_short(&self) -> bool {
        true
    }
}

/// Who runs in a round, and in which order: all, starting with another each
/// time.
pub fn order(contenders: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..contenders).map(move |place| (place + round) % contenders)
}

/// Runs `rounds` rounds of `duration` each and gives back one series a
/// contender, in their order. Who fails for reasons of its own takes no further
/// part, and its series is skipped with the reason: what it did before is not
/// kept, since a series has a sample of every round or none.
///
/// # Errors
/// [`Error::Interrupted`], and those of the contenders but [`Error::Peer`].
pub fn run(
    contenders: &mut [Box<dyn Contender + '_>],
    rounds: usize,
    duration: Duration,
    countdown: &mut Countdown<'_>,
) -> Result<Vec<Series>> {
    let mut series: Vec<Series> = contenders.iter().map(|c| c.series()).collect();
    for round in 0..rounds {
        for index in order(contenders.len(), round) {
            interrupt::check()?;
            let title = format!("round {} of {rounds}: {}", round + 1, series[index].title());
            if series[index].skipped.is_some() {
                countdown.step(format!("{title}: left out"));
                continue;
            }
            countdown.step(&title);
            match take(contenders[index].as_mut(), duration, &mut series[index]) {
                Ok(sample) => series[index].add(sample),
                Err(error @ Error::Peer { .. }) => {
                    let reason = format!("in round {} of {rounds}, {}", round + 1, error.line());
                    countdown.say(format!("{title}: SKIPPED, {reason}"));
                    series[index] = contenders[index].series().skipped(reason);
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(series)
}

/// One sample that stands.
fn take(
    contender: &mut (dyn Contender + '_),
    duration: Duration,
    series: &mut Series,
) -> Result<Sample> {
    if !contender.is_short() {
        return contender.sample(duration);
    }
    steal::calm(
        || {
            interrupt::check()?;
            contender.sample(duration)
        },
        |discarded| series.discard(discarded.unwrap_or_default()),
    )
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::error::Error;
    use crate::report::Progress;

    struct Logger<'a> {
        name: &'static str,
        log: &'a RefCell<Vec<&'static str>>,
        fails: Option<fn() -> Error>,
    }

    impl Contender for Logger<'_> {
        fn series(&self) -> Series {
            Series::new("test", self.name, &[])
        }

        fn sample(&mut self, _: Duration) -> Result<Sample> {
            let mut log = self.log.borrow_mut();
            // In its second round.
            if let (Some(error), true) = (self.fails, log.contains(&self.name)) {
                return Err(error());
            }
            log.push(self.name);
            Ok(Sample {
                metrics: vec![("place", "", log.len() as f64)],
                ..Sample::default()
            })
        }

        /// Each runs as often as it is asked, whatever the host does meanwhile.
        fn is_short(&self) -> bool {
            false
        }
    }

    /// Four rounds of three contenders, of which one may fail.
    fn all(log: &RefCell<Vec<&'static str>>, of_b: Option<fn() -> Error>) -> Result<Vec<Series>> {
        let contender = |name| -> Box<dyn Contender + '_> {
            let fails = of_b.filter(|_| name == "b");
            Box::new(Logger { name, log, fails })
        };
        let mut contenders = ["a", "b", "c"].map(contender);
        let progress = Progress::start();
        let mut countdown = progress.countdown(12);
        run(&mut contenders, 4, Duration::ZERO, &mut countdown)
    }

    #[test]
    fn rounds_interleave_and_start_with_another_each_time() {
        let log = RefCell::default();
        let series = all(&log, None).unwrap();
        let wanted = ["a", "b", "c", "b", "c", "a", "c", "a", "b", "a", "b", "c"];
        assert_eq!(log.into_inner(), wanted);
        // Samples stay in the order of the rounds, whoever began.
        assert_eq!(series[0].samples("place"), [1.0, 6.0, 8.0, 10.0]);
        assert_eq!(series[1].contender, "b");
    }

    #[test]
    fn any_other_failure_ends_the_run() {
        let log = RefCell::default();
        let result = all(&log, Some(|| Error::NotRoot));
        assert!(matches!(result, Err(Error::NotRoot)), "{result:?}");
        assert_eq!(log.into_inner(), ["a", "b", "c"]);
    }

    #[test]
    fn a_peer_that_fails_takes_nobody_with_it_and_leaves_no_figures() {
        let log = RefCell::default();
        let ended = || Error::Peer {
            name: "b".into(),
            source: Box::new(Error::Ended {
                process: "b of end 1".into(),
                status: "signal: 9 (SIGKILL)".into(),
                log: "first\n\nlast".into(),
            }),
        };
        let series = all(&log, Some(ended)).unwrap();
        let wanted = ["a", "b", "c", "c", "a", "c", "a", "a", "c"];
        assert_eq!(log.into_inner(), wanted, "b has one round only");
        let counts: Vec<usize> = series.iter().map(|s| s.samples("place").len()).collect();
        assert_eq!(counts, [4, 0, 4]);
        let reason = series[1].skipped.as_deref().unwrap();
        assert!(
            reason.contains("round 2 of 4") && reason.contains("SIGKILL"),
            "{reason}"
        );
        assert!(
            reason.ends_with("last: first; last"),
            "one line: {reason:?}"
        );
        assert_eq!(series[1].contender, "b", "it keeps its place");
    }
}
