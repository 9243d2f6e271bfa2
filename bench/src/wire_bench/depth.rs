//! How many frames in flight serve a profile best: the largest single lever
//! that there is on veth, so no depth is assumed. Imports `rounds`, `results`.

use std::time::Duration;

use super::bare::Bare;
use super::ends::Ends;
use super::measure::Plan;
use super::options::{FrameSize, Options};
use super::{BARE, BENCH, tipsec};
use crate::error::Result;
use crate::report::Progress;
use crate::results::{MPPS, Series};
use crate::rounds::{self, Contender};

/// Depths that are tried.
const DEPTHS: [usize; 8] = [16, 32, 64, 96, 128, 192, 256, 512];
/// Rounds of the probe.
const ROUNDS: usize = 5;
/// Longest sample of the probe.
const SAMPLE_MAX: Duration = Duration::from_millis(150);
/// A depth this near to the best is as good, and the smallest such has the
/// shortest queue and the fewest chunks in use. Inline, all depths are so near
/// that fewer rounds and a narrower bound chose by chance: 16 in one run and
/// 256 in the next.
const AS_GOOD: f64 = 0.97;

/// Tries all depths with the bare forwarder and the product, both at 1400 B,
/// and chooses one for both.
///
/// # Errors
/// Those of the contenders.
pub(super) fn probe(
    ends: &Ends<'_>,
    options: &Options,
    plan: Plan,
    progress: &Progress,
) -> Result<usize> {
    let size = FrameSize::B1400;
    let mut contenders: Vec<Box<dyn Contender + '_>> = Vec::new();
    for depth in DEPTHS {
        let text = depth.to_string();
        let plan = Plan { depth, ..plan };
        let series = |name: &str| Series::new(BENCH, name, &[("depth", text.as_str())]);
        contenders.push(Box::new(Bare::new(ends, series(BARE), size, plan)));
        if let (Some(&suite), Some(&provider)) = (options.suites.first(), options.providers.first())
        {
            let probe = series("tipsec");
            contenders.push(tipsec(ends, probe, provider, suite, size, plan));
        }
    }
    let mut countdown = progress.countdown(ROUNDS * contenders.len());
    let sample = options.sample.min(SAMPLE_MAX);
    let series = rounds::run(&mut contenders, ROUNDS, sample, &mut countdown)?;
    let scores = DEPTHS.map(|depth| (depth, score(&series, depth)));
    let shown: Vec<String> = scores
        .iter()
        .map(|(depth, score)| format!("{depth}: {score:.3}"))
        .collect();
    progress.say(format!("depth: Mpps {}", shown.join(", ")));
    Ok(choose(&scores))
}

/// Geometric mean of the contenders' rates at a depth: no one's advantage
/// weighs more because it is faster.
fn score(series: &[Series], depth: usize) -> f64 {
    let depth = depth.to_string();
    let rates = series
        .iter()
        .filter(|one| one.label("depth") == depth)
        .filter_map(|one| one.median(MPPS));
    let (product, count) = rates.fold((1.0, 0), |(product, n), rate| (product * rate, n + 1));
    f64::powf(product, 1.0 / f64::from(count.max(1)))
}

/// The smallest depth that is about as good as the best.
fn choose(scores: &[(usize, f64)]) -> usize {
    let best = scores.iter().map(|&(_, score)| score).fold(0.0, f64::max);
    let good = scores.iter().find(|&&(_, score)| score >= best * AS_GOOD);
    good.map_or(64, |&(depth, _)| depth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Sample;

    #[test]
    fn the_smallest_of_the_good_is_chosen() {
        assert_eq!(choose(&[(16, 0.5), (64, 0.98), (128, 1.0), (256, 0.7)]), 64);
        assert_eq!(choose(&[(16, 0.5), (64, 0.96), (128, 1.0)]), 128);
        assert_eq!(choose(&[]), 64);
    }

    #[test]
    fn both_contenders_weigh_the_same() {
        let series = |contender: &str, depth: &str, rate| {
            let mut series = Series::new("wire", contender, &[("depth", depth)]);
            series.add(Sample {
                metrics: vec![(MPPS, "Mpps", rate)],
                ..Sample::default()
            });
            series
        };
        let all = [
            series("a", "16", 1.0),
            series("b", "16", 4.0),
            series("a", "32", 9.0),
        ];
        assert_eq!(score(&all, 16), 2.0);
        assert_eq!(score(&all, 32), 9.0);
    }
}
