//! How much worse than its report a short run may be. Imports `results`.
//!
//! A short run shares its machine, has a few samples of a fraction of a second,
//! and may have run on other hardware than the report. So it is not asked for
//! the figure that is wanted: only for half of what the report has, in ratios,
//! or for twice of it and some nanoseconds, in differences, where the report's
//! figure may be next to nothing.

use crate::results::{Bound, CPU_NS, Comparison};

/// So many times as bad as the report is still good.
pub const TIMES: f64 = 2.0;
/// And so many ns a frame more, in differences that a clock measured around
/// bursts: caches and frequencies of another machine.
pub const SLACK_NS: f64 = 50.0;
/// And so many ns a frame more, in differences of CPU time. That is counted in
/// ticks of 10 ms, and whatever else the machine does counts, too: of a sample of
/// 0.3 s with 0.4 million frames a second, a tick is 80 ns a frame, and two cores
/// that do something else for a third of the time are 1,700.
pub const SLACK_CPU_NS: f64 = 2000.0;

/// What the run's median has to keep, by the report's median and by which side
/// `wanted` bounds. A difference may be negative: then half as good is nearer
/// to nothing.
pub(super) fn limit(comparison: &Comparison, wanted: Bound, report: f64) -> Bound {
    let slack = slack(comparison);
    let (less, more) = (report / TIMES, report * TIMES);
    match wanted {
        Bound::AtLeast(_) => Bound::AtLeast(less.min(more) - slack),
        Bound::AtMost(_) => Bound::AtMost(less.max(more) + slack),
    }
}

/// In the comparison's unit; none for ratios, and none for counts: those of
/// frames that must not be lost are to stay at nothing.
fn slack(comparison: &Comparison) -> f64 {
    match comparison.unit.as_str() {
        "ns" | "ns/frame" if comparison.metric == CPU_NS => SLACK_CPU_NS,
        "ns" | "ns/frame" => SLACK_NS,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit_of(unit: &str, metric: &str, wanted: Bound, report: f64) -> Bound {
        let comparison = Comparison {
            what: String::new(),
            a: String::new(),
            b: String::new(),
            metric: metric.into(),
            labels: Default::default(),
            unit: unit.into(),
            samples: Vec::new(),
            wanted: Some(wanted),
            met: None,
        };
        limit(&comparison, wanted, report)
    }

    #[test]
    fn a_ratio_may_halve_or_double_by_what_is_wanted_of_it() {
        let of = |wanted| limit_of("ratio", "delivered", wanted, 0.9);
        assert_eq!(of(Bound::AtLeast(0.92)), Bound::AtLeast(0.45));
        assert_eq!(of(Bound::AtMost(1.1)), Bound::AtMost(1.8));
    }

    #[test]
    fn a_difference_has_slack_by_how_it_was_measured() {
        let of = |unit, metric, report| limit_of(unit, metric, Bound::AtMost(30.0), report);
        assert_eq!(of("ns/frame", "seal", 20.0), Bound::AtMost(90.0));
        assert_eq!(of("ns/frame", "seal", -4.0), Bound::AtMost(48.0));
        assert_eq!(of("ns/frame", CPU_NS, 300.0), Bound::AtMost(2600.0));
        assert_eq!(of("frames", "lost", 0.0), Bound::AtMost(0.0));
        let least = limit_of("ns/frame", "seal", Bound::AtLeast(0.0), -10.0);
        assert_eq!(least, Bound::AtLeast(-70.0));
    }
}
