//! Contenders in interleaved rounds: A B C, B C A, C A B … each for the same
//! time, so that a machine that drifts or is shared drifts under all of them,
//! and no one always runs after the same other. Imports `results`, `report`,
//! `interrupt`.

use std::time::Duration;

use crate::error::Result;
use crate::interrupt;
use crate::report::Countdown;
use crate::results::{Sample, Series};

/// What takes part.
pub trait Contender {
    /// Its series, with name and labels and no samples yet.
    fn series(&self) -> Series;

    /// Runs for `duration`, warm-up and end not counted, and says what came
    /// of it.
    ///
    /// # Errors
    /// Whatever went wrong; it ends the whole run.
    fn sample(&mut self, duration: Duration) -> Result<Sample>;
}

/// Who runs in a round, and in which order: all, starting with another each
/// time.
pub fn order(contenders: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..contenders).map(move |place| (place + round) % contenders)
}

/// Runs `rounds` rounds of `duration` each and gives back one series a
/// contender, in their order.
///
/// # Errors
/// [`crate::Error::Interrupted`], and those of the contenders.
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
            let title = series[index].title();
            countdown.step(format!("round {} of {rounds}: {title}", round + 1));
            series[index].add(contenders[index].sample(duration)?);
        }
    }
    Ok(series)
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
        fails: bool,
    }

    impl Contender for Logger<'_> {
        fn series(&self) -> Series {
            Series::new("test", self.name, &[])
        }

        fn sample(&mut self, _: Duration) -> Result<Sample> {
            if self.fails {
                return Err(Error::NotRoot);
            }
            let mut log = self.log.borrow_mut();
            log.push(self.name);
            Ok(Sample {
                metrics: vec![("place", "", log.len() as f64)],
                ..Sample::default()
            })
        }
    }

    fn all(log: &RefCell<Vec<&'static str>>, fails: bool) -> Result<Vec<Series>> {
        let contender = |name| -> Box<dyn Contender + '_> {
            let fails = fails && name == "b";
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
        let series = all(&log, false).unwrap();
        let wanted = ["a", "b", "c", "b", "c", "a", "c", "a", "b", "a", "b", "c"];
        assert_eq!(log.into_inner(), wanted);
        // Samples stay in the order of the rounds, whoever began.
        assert_eq!(series[0].samples("place"), [1.0, 6.0, 8.0, 10.0]);
        assert_eq!(series[1].contender, "b");
    }

    #[test]
    fn one_failure_ends_the_run() {
        let log = RefCell::default();
        assert!(all(&log, true).is_err());
        assert_eq!(log.into_inner(), ["a"]);
    }
}
