//! What is set against what, and what it should come to. Imports `results`.

use super::rekey::{FLOOR, KEY_LOSSES, P999, REKEYING, STEADY};
use super::{COST, OPENING, OWN_CORES, QUEUES, REKEY, SAS, WIRE};
use crate::results::{Bound, Comparison, MPPS, Series};

/// The most that one of 10,000 SAs may cost more than the only one, in ns.
const LOOKUP_NS: f64 = 100.0;
/// The most that it may cost end to end, as a ratio of rates.
const END_TO_END: f64 = 1.10;
/// The least gain by two queues where two cores are to be had for each end.
const TWO_QUEUES: f64 = 1.6;
/// Frames per core-second, of `measure`.
const EFFICIENCY: &str = "efficiency";

/// All comparisons among the series of one run.
pub(super) fn compare(series: &[Series]) -> Vec<Comparison> {
    let of = |bench: &'static str| series.iter().filter(move |one| one.bench == bench);
    let mut found = Vec::new();
    for one in of(SAS) {
        found.extend(against_first(one, series, "sas", |first, title| {
            let bounded = one.label("sas") == "10000" && one.contender.starts_with(OPENING);
            let wanted = bounded.then_some(Bound::AtMost(LOOKUP_NS));
            let title = format!("{title}, beyond {} SA", first.label("sas"));
            Comparison::difference(title, one, first, COST, wanted)
        }));
    }
    for one in of(WIRE) {
        found.extend(against_first(one, series, "sas", |first, title| {
            let bounded = one.label("sas") == "10000" && first.label("sas") == "1";
            let wanted = bounded.then_some(Bound::AtMost(END_TO_END));
            let title = format!("{title}: rate with {} SA / this", first.label("sas"));
            Comparison::ratio(title, first, one, MPPS, wanted)
        }));
    }
    for one in of(QUEUES) {
        found.extend(against_first(one, series, "queues", |first, title| {
            let spread = one.label("cores") == OWN_CORES;
            let wanted =
                (one.label("queues") == "2" && spread).then_some(Bound::AtLeast(TWO_QUEUES));
            let title = format!("{title}: rate / with {} queue", first.label("queues"));
            Comparison::ratio(title, one, first, MPPS, wanted)
        }));
        found.extend(against_first(one, series, "queues", |first, title| {
            let title = format!(
                "{title}: per core-second / with {} queue",
                first.label("queues")
            );
            Comparison::ratio(title, one, first, EFFICIENCY, None)
        }));
    }
    let named = |contender: &str| of(REKEY).find(|one| one.contender == contender);
    if let (Some(rekeying), Some(steady)) = (named(REKEYING), named(STEADY)) {
        let peers = rekeying.label("peers");
        let what = format!("frames lost for key reasons while {peers} peers rekey");
        let none = Some(Bound::AtMost(0.0));
        found.extend(Comparison::difference(
            what, rekeying, steady, KEY_LOSSES, none,
        ));
        let what = format!("{P999} while {peers} peers rekey / before");
        found.extend(Comparison::ratio(what, rekeying, steady, P999, None));
        for one in [steady, rekeying] {
            let what = format!("{P999}, {}, beyond the scheduler's floor", one.contender);
            let floor = named(FLOOR);
            found.extend(floor.and_then(|f| Comparison::difference(what, one, f, P999, None)));
        }
    }
    found
}

/// `one` set against the first series that differs from it in `key` alone.
fn against_first(
    one: &Series,
    series: &[Series],
    key: &str,
    comparison: impl Fn(&Series, String) -> Option<Comparison>,
) -> Option<Comparison> {
    let first = series.iter().find(|other| {
        other.bench == one.bench
            && other.contender == one.contender
            && other.label("size") == one.label("size")
    })?;
    if first.label(key) == one.label(key) {
        return None;
    }
    let (size, value) = (one.label("size"), one.label(key));
    comparison(first, format!("{size} B: {}, {key} {value}", one.contender))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Sample;

    fn series(
        bench: &str,
        contender: &str,
        labels: &[(&str, &str)],
        metrics: &[(&'static str, f64)],
    ) -> Series {
        let mut series = Series::new(bench, contender, labels);
        let metrics = metrics.iter().map(|&(name, value)| (name, "", value));
        series.add(Sample {
            metrics: metrics.collect(),
            ..Sample::default()
        });
        series
    }

    #[test]
    fn each_number_of_sas_is_held_against_the_first() {
        let cost = |who: &str, sas: &str, size: &str, ns| {
            series(SAS, who, &[("sas", sas), ("size", size)], &[(COST, ns)])
        };
        let all = [
            cost("open_burst x", "1", "64", 100.0),
            cost("open_burst x", "1", "1400", 300.0),
            cost("open_burst x", "10000", "64", 201.0),
            cost("open_burst x", "10000", "1400", 400.0),
            cost("seal_burst x", "1", "64", 100.0),
            cost("seal_burst x", "10000", "64", 300.0),
        ];
        let outcomes: Vec<_> = compare(&all)
            .iter()
            .map(|c| (c.samples[0], c.met))
            .collect();
        let wanted = [(101.0, Some(false)), (100.0, Some(true)), (200.0, None)];
        assert_eq!(outcomes, wanted);
    }

    #[test]
    fn two_queues_have_to_be_faster_only_on_cores_of_their_own() {
        let queues = |queues: &str, cores: &str, mpps| {
            let labels = [("queues", queues), ("cores", cores), ("size", "64")];
            series(QUEUES, "t", &labels, &[(MPPS, mpps), (EFFICIENCY, mpps)])
        };
        let met = |cores| {
            let all = [queues("1", "of their own", 1.0), queues("2", cores, 1.5)];
            compare(&all)[0].met
        };
        assert_eq!(met("of their own"), Some(false));
        assert_eq!(met("shared"), None);
    }

    #[test]
    fn end_to_end_and_rekey_have_their_bounds() {
        let wire =
            |sas: &str, mpps| series(WIRE, "t", &[("sas", sas), ("size", "64")], &[(MPPS, mpps)]);
        let rekey =
            |who: &str, lost, p999| series(REKEY, who, &[], &[(KEY_LOSSES, lost), (P999, p999)]);
        let all = [
            wire("1", 1.2),
            wire("10000", 1.0),
            rekey(STEADY, 0.0, 50.0),
            rekey(REKEYING, 1.0, 100.0),
        ];
        let outcomes: Vec<_> = compare(&all)
            .iter()
            .map(|c| (c.samples[0], c.met))
            .collect();
        let wanted = [(1.2, Some(false)), (1.0, Some(false)), (2.0, None)];
        assert_eq!(outcomes, wanted);
    }
}
