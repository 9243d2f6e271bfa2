//! Waiting for a condition with a deadline, and for time to pass; both end at
//! a signal. Imports `error` and `interrupt`.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::interrupt;

/// Longest sleep between two looks at the interrupt flag.
const SLICE: Duration = Duration::from_millis(20);

/// What a look at a condition found.
#[derive(Debug)]
pub enum Look<T> {
    /// It is true.
    Done(T),
    /// Not yet; the text says how things stand, for the error.
    NotYet(String),
}

/// Looks every `interval` until [`Look::Done`].
///
/// # Errors
/// [`Error::Timeout`] after `deadline`, [`Error::Interrupted`], and whatever
/// `look` fails with.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    interval: Duration,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        interrupt::check()?;
        let state = match look()? {
            Look::Done(value) => return Ok(value),
            Look::NotYet(state) => state,
        };
        if start.elapsed() >= deadline {
            return Err(Error::Timeout {
                what: what.to_owned(),
                waited_ms: start.elapsed().as_millis(),
                state,
            });
        }
        std::thread::sleep(interval.min(SLICE));
    }
}

/// Lets `duration` of traffic pass.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn pass(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        interrupt::check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(SLICE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_stays_false_says_how_it_stood() {
        let result = until(
            "rain",
            Duration::from_millis(5),
            Duration::from_millis(1),
            || Ok(Look::<()>::NotYet("dry".into())),
        );
        let Err(Error::Timeout { what, state, .. }) = result else {
            panic!("no timeout");
        };
        assert_eq!((what.as_str(), state.as_str()), ("rain", "dry"));
    }

    #[test]
    fn looks_until_it_is_true() {
        let mut looks = 0;
        let found = until("three", Duration::from_secs(5), Duration::ZERO, || {
            looks += 1;
            Ok(if looks == 3 {
                Look::Done(looks)
            } else {
                Look::NotYet(String::new())
            })
        });
        assert_eq!(found.unwrap(), 3);
    }
}
