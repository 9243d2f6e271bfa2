//! Median and spread: the one place where figures are made of samples.
//! Imports nothing.

/// Order statistics of the samples of one metric.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Stats {
    /// How many samples.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// A quarter of them lies below.
    pub lower_quartile: f64,
    /// Half of them lies below.
    pub median: f64,
    /// A quarter of them lies above.
    pub upper_quartile: f64,
    /// The largest.
    pub max: f64,
}

impl Stats {
    /// Of any samples in any order; `None` if there are none, or one of them
    /// is no number.
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() || samples.iter().any(|sample| sample.is_nan()) {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            count: sorted.len(),
            min: quantile(&sorted, 0, 4),
            lower_quartile: quantile(&sorted, 1, 4),
            median: quantile(&sorted, 2, 4),
            upper_quartile: quantile(&sorted, 3, 4),
            max: quantile(&sorted, 4, 4),
        })
    }

    /// Distance between the quartiles: the spread of the middle half.
    pub fn iqr(&self) -> f64 {
        self.upper_quartile - self.lower_quartile
    }
}

/// The value below which `part` of `parts` of the sorted samples lies, linear
/// between neighbours (the definition that spreadsheets and R use by default).
fn quantile(sorted: &[f64], part: usize, parts: usize) -> f64 {
    let place = (sorted.len() - 1) * part;
    let (index, rest) = (place / parts, place % parts);
    let low = sorted[index];
    let high = sorted[(index + 1).min(sorted.len() - 1)];
    low + (high - low) * rest as f64 / parts as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_and_even_counts() {
        let odd = Stats::of(&[5.0, 1.0, 3.0]).unwrap();
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 3.0, 5.0));
        assert_eq!((odd.lower_quartile, odd.upper_quartile), (2.0, 4.0));
        assert_eq!((odd.count, odd.iqr()), (3, 2.0));
        let even = Stats::of(&[4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!(even.median, 2.5);
        assert_eq!((even.lower_quartile, even.upper_quartile), (1.75, 3.25));
    }

    #[test]
    fn one_sample_is_all_of_them() {
        let one = Stats::of(&[7.0]).unwrap();
        assert_eq!(
            [one.min, one.median, one.max, one.iqr()],
            [7.0, 7.0, 7.0, 0.0]
        );
    }

    #[test]
    fn nothing_comes_of_nothing() {
        assert_eq!(Stats::of(&[]), None);
        assert_eq!(Stats::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn one_outlier_moves_the_mean_and_not_the_median() {
        let stats = Stats::of(&[1.0, 1.0, 1.0, 1.0, 1000.0]).unwrap();
        assert_eq!((stats.median, stats.max), (1.0, 1000.0));
    }
}
