//! The highest rate at which nothing is lost, by a bounded number of trials on a
//! fixed grid of rates. Pure: a trial is a closure. Imports nothing.
//!
//! From a hint it gallops (1, 2, 4 … steps) up while trials pass, or down while
//! they fail, and then halves what is between the highest rate that passed and
//! the lowest that failed. With the last round's result as the hint that takes
//! two or three rates.

/// The lowest rate of a grid, in Mbit/s.
const LOWEST_MBIT_S: f64 = 10.0;
/// No rate of a grid is above, in Mbit/s.
const HIGHEST_MBIT_S: f64 = 40_000.0;
/// Rates tried at most. Galloping over a grid of 2 % and halving takes fewer.
const RATES_MAX: usize = 24;

/// Rates in equal ratios.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    ratio: f64,
    last: usize,
}

impl Grid {
    /// Each rate is `percent`, at least 1, above the one below it.
    pub(super) fn new(percent: u8) -> Self {
        let ratio = 1.0 + f64::from(percent.max(1)) / 100.0;
        let places = (HIGHEST_MBIT_S / LOWEST_MBIT_S).ln() / ratio.ln();
        // From 12 to 834.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let last = places as usize;
        Self { ratio, last }
    }

    /// The rate at a place, in Mbit/s.
    pub(super) fn rate_mbit_s(self, place: usize) -> u32 {
        let exponent = i32::try_from(place.min(self.last)).unwrap_or(0);
        let rate = LOWEST_MBIT_S * self.ratio.powi(exponent);
        // From 10 to 40,000.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rounded = rate.round() as u32;
        rounded
    }

    /// The highest place whose rate is at most that.
    pub(super) fn place_below(self, rate_mbit_s: u32) -> usize {
        let mut places = (0..=self.last).rev();
        let below = places.find(|&place| self.rate_mbit_s(place) <= rate_mbit_s);
        below.unwrap_or(0)
    }

    /// The highest place that passes: `trial` of a place gives back what it
    /// measured if the rate passed. Returns the place and its measurement, or
    /// none if no rate that was tried passed. No trial contradicts an earlier
    /// one, since only rates between the bounds so far are tried.
    ///
    /// # Errors
    /// Those of `trial`.
    pub(super) fn highest<T, E>(
        self,
        hint: usize,
        mut trial: impl FnMut(usize) -> Result<Option<T>, E>,
    ) -> Result<Option<(usize, T)>, E> {
        let mut bracket = Bracket::default();
        let mut best = None;
        let mut stride = 1;
        for tried in 0..RATES_MAX {
            let Some(place) = bracket.next(hint, stride, self.last) else {
                break;
            };
            // The first stride away from the hint is 1.
            if tried > 0 {
                stride *= 2;
            }
            match trial(place)? {
                Some(measured) => {
                    bracket.passed = Some(place);
                    best = Some((place, measured));
                }
                None => bracket.failed = Some(place),
            }
        }
        Ok(best)
    }
}

/// What is known of the grid so far.
#[derive(Default)]
struct Bracket {
    passed: Option<usize>,
    failed: Option<usize>,
}

impl Bracket {
    /// Where to try next, up to `last`; none if nothing is left between.
    fn next(&self, hint: usize, stride: usize, last: usize) -> Option<usize> {
        match (self.passed, self.failed) {
            (None, None) => Some(hint.min(last)),
            (Some(passed), None) if passed == last => None,
            (None, Some(0)) => None,
            (Some(passed), None) => Some((passed + stride).min(last)),
            (None, Some(failed)) => Some(failed.saturating_sub(stride)),
            (Some(passed), Some(failed)) if failed - passed <= 1 => None,
            (Some(passed), Some(failed)) => Some(passed + (failed - passed) / 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches where places up to `limit` pass; the result and what was tried.
    fn search(grid: Grid, limit: Option<usize>, hint: usize) -> (Option<usize>, Vec<usize>) {
        let mut tried = Vec::new();
        let found = grid.highest(hint, |place| -> Result<Option<usize>, ()> {
            tried.push(place);
            Ok(limit.filter(|&limit| place <= limit))
        });
        (found.unwrap().map(|(place, _)| place), tried)
    }

    #[test]
    fn finds_every_limit_from_every_hint_within_its_bound() {
        for percent in [1, 2, 5, 50, 100] {
            let grid = Grid::new(percent);
            for limit in 0..=grid.last {
                for hint in (0..=grid.last).step_by(7) {
                    let (found, tried) = search(grid, Some(limit), hint);
                    assert_eq!(found, Some(limit), "{percent} % from {hint}: {tried:?}");
                    assert!(
                        tried.len() < RATES_MAX,
                        "{percent} % from {hint}: {tried:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_good_hint_takes_few_rates() {
        let from = |hint| search(Grid::new(5), Some(50), hint);
        assert_eq!(from(50), (Some(50), vec![50, 51]));
        assert_eq!(from(51), (Some(50), vec![51, 50]));
        assert_eq!(from(49), (Some(50), vec![49, 50, 52, 51]));
    }

    #[test]
    fn the_ends_of_the_grid_end_it() {
        let grid = Grid::new(5);
        assert_eq!(search(grid, None, 5), (None, vec![5, 4, 2, 0]));
        let past = grid.last + 9;
        assert_eq!(
            search(grid, Some(past), past),
            (Some(grid.last), vec![grid.last])
        );
    }

    #[test]
    fn no_rate_is_tried_twice_even_if_trials_contradict_themselves() {
        // Passes and fails as it likes; the search ends all the same.
        for seed in 0..200u64 {
            let mut state = seed;
            let mut tried = Vec::new();
            let found = Grid::new(5).highest(80, |place| -> Result<Option<()>, ()> {
                assert!(!tried.contains(&place), "seed {seed}: {place} in {tried:?}");
                tried.push(place);
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                Ok((state >> 33 & 1 == 1).then_some(()))
            });
            assert!(found.is_ok() && tried.len() < RATES_MAX, "seed {seed}");
        }
    }

    #[test]
    fn an_error_ends_the_search() {
        let result = Grid::new(5).highest(3, |_| Err::<Option<()>, _>("broken"));
        assert_eq!(result, Err("broken"));
    }

    #[test]
    fn rates_rise_by_the_step() {
        for percent in [2, 5, 100] {
            let grid = Grid::new(percent);
            assert_eq!(grid.rate_mbit_s(0), 10);
            assert!((20_000..=40_000).contains(&grid.rate_mbit_s(grid.last)));
            assert_eq!(grid.place_below(1), 0);
            for place in 0..grid.last {
                let (rate, next) = (grid.rate_mbit_s(place), grid.rate_mbit_s(place + 1));
                let ideal = f64::from(rate) * (1.0 + f64::from(percent) / 100.0);
                // Both are rounded to whole Mbit/s.
                assert!(
                    (f64::from(next) - ideal).abs() <= 1.6,
                    "{rate}, then {next}"
                );
                let found = grid.rate_mbit_s(grid.place_below(rate));
                assert_eq!(found, rate);
            }
        }
    }
}
