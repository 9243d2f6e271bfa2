//! Time that a host takes away from a virtual machine. What was measured
//! meanwhile says nothing of what was to be measured: nobody ran. Imports
//! `error`, `proc_stat`.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::proc_stat::{self, TICK};

/// Share of all cores' time beyond which a sample is taken again.
pub(crate) const SHARE_MAX: f64 = 0.02;
/// How often a sample is taken again at most; then it stands as it is, since a
/// host that is always busy is where the figures are from.
pub(crate) const RETAKES_MAX: u32 = 3;

/// Takes a sample, and again while the host took more than [`SHARE_MAX`] of the
/// cores' time meanwhile, [`RETAKES_MAX`] times at most. What decides is the
/// host's doing alone and never what was measured. `discarded` gets what does
/// not stand. [`Error::Failed`] counts as a sample here: where nobody ran,
/// nothing arrived.
///
/// # Errors
/// Those of `take`.
pub(crate) fn calm<T>(
    take: impl FnMut() -> Result<T>,
    discarded: impl FnMut(Option<T>),
) -> Result<T> {
    retake(take, discarded, || {
        let watch = Watch::start();
        move || watch.is_some_and(|watch| watch.share() > SHARE_MAX)
    })
}

/// [`calm`] by whatever `watch` begins to watch, and says at the end.
fn retake<T, W: FnOnce() -> bool>(
    mut take: impl FnMut() -> Result<T>,
    mut discarded: impl FnMut(Option<T>),
    mut watch: impl FnMut() -> W,
) -> Result<T> {
    for _ in 0..RETAKES_MAX {
        let is_disturbed = watch();
        let sample = take();
        if !is_disturbed() {
            return sample;
        }
        match sample {
            Ok(sample) => discarded(Some(sample)),
            Err(Error::Failed { .. }) => discarded(None),
            Err(error) => return Err(error),
        }
    }
    take()
}

/// From now on.
struct Watch {
    since: Instant,
    stolen: Duration,
    cores: u32,
}

impl Watch {
    /// `None` where the kernel does not tell.
    fn start() -> Option<Self> {
        let (stolen, cores) = stolen(&proc_stat::read().ok()?)?;
        Some(Self {
            since: Instant::now(),
            stolen,
            cores,
        })
    }

    /// Of the time of all cores.
    fn share(&self) -> f64 {
        let Some(now) = Self::start() else {
            return 0.0;
        };
        let wall = self.since.elapsed() * self.cores;
        let stolen = now.stolen.saturating_sub(self.stolen);
        stolen.as_secs_f64() / wall.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Since boot, and the number of cores: field eight of the line of all cores
/// (proc_stat(5)), and the lines of single ones.
fn stolen(stat: &str) -> Option<(Duration, u32)> {
    let ticks = *proc_stat::ticks(stat, "cpu")?.get(7)?;
    let cores = stat.lines().skip(1).filter(|line| line.starts_with("cpu"));
    let stolen = TICK * u32::try_from(ticks).ok()?;
    Some((stolen, u32::try_from(cores.count()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_is_field_eight_of_all_cores() {
        let stat = "cpu  1 2 3 4 5 6 7 80 9 10\ncpu0 1 2 3 4 5 6 7 8\ncpu1 1 2\nintr 1\n";
        assert_eq!(stolen(stat), Some((Duration::from_millis(800), 2)));
        assert_eq!(stolen("cpu 1 2 3\n"), None);
        assert_eq!(stolen(""), None);
        assert!(Watch::start().is_some_and(|watch| watch.cores > 0));
    }

    /// What stands of samples that were disturbed or not, one after another,
    /// and what was discarded before. Samples are numbered; some fail.
    fn of(disturbed: &[bool], fails: fn(u32) -> Option<Error>) -> (Result<u32>, Vec<Option<u32>>) {
        let (mut taken, mut discarded) = (0, Vec::new());
        let mut watched = disturbed.iter().copied();
        let result = retake(
            || {
                taken += 1;
                fails(taken).map_or(Ok(taken), Err)
            },
            |sample| discarded.push(sample),
            || {
                let is_disturbed = watched.next().unwrap_or(false);
                move || is_disturbed
            },
        );
        (result, discarded)
    }

    #[test]
    fn only_the_undisturbed_stands_or_the_last() {
        let (result, discarded) = of(&[false, true], |_| None);
        assert_eq!((result.unwrap(), discarded), (1, vec![]));
        let (result, discarded) = of(&[true, true, false], |_| None);
        assert_eq!((result.unwrap(), discarded), (3, vec![Some(1), Some(2)]));
        let (result, discarded) = of(&[true; 9], |_| None);
        assert_eq!(result.unwrap(), 1 + RETAKES_MAX);
        assert_eq!(discarded.len(), RETAKES_MAX as usize);
    }

    #[test]
    fn a_failure_is_the_hosts_fault_only_while_it_disturbed() {
        let failed = |_| {
            Some(Error::Failed {
                what: String::new(),
                detail: String::new(),
            })
        };
        let (result, discarded) = of(&[true, false], failed);
        assert!(result.is_err() && discarded == [None]);
        assert!(of(&[false], failed).0.is_err());
        let first = |n| (n == 1).then_some(Error::NotRoot);
        let (result, discarded) = of(&[true], first);
        assert!(matches!(result, Err(Error::NotRoot)) && discarded.is_empty());
    }
}
