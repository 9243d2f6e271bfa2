//! What is set against what, and what it should come to. Imports `results`.

use std::collections::BTreeMap;

use super::aead_cost::{OPEN, SEAL};
use super::measure::CPU_THREADS_NS;
use super::{AEAD, BARE, ENDPOINT, NULL, TIPSEC, UDP};
use crate::results::{Bound, CPU_NS, Comparison, MPPS, Series, Stats};

/// Nanoseconds that both pipelines together may cost beside the cipher.
const PIPELINE_NS: f64 = 60.0;
/// How much more the cipher may cost there than alone.
const CIPHER_FACTOR: f64 = 1.25;
/// How many times kernel UDP's messages an endpoint carries, at this size.
const ENDPOINT_FACTOR: f64 = 2.0;
/// See [`ENDPOINT_FACTOR`].
const ENDPOINT_SIZE: &str = "1400";
/// The cipher that targets are for: the default.
const DEFAULT_CIPHER: &str = "aes-256-gcm";

/// The least share of the bare forwarder's rate that sealed traffic reaches.
fn wanted_share(profile: &str, size: &str) -> Option<Bound> {
    match (profile, size) {
        (_, "64") => Some(Bound::AtLeast(0.92)),
        ("inline", "1400") => Some(Bound::AtLeast(0.85)),
        ("threaded", "1400") => Some(Bound::AtLeast(0.80)),
        _ => None,
    }
}

/// The most CPU time that a frame may cost beyond a bare one, in ns.
fn allowed_ns(aead: &Series) -> Option<f64> {
    let both = aead.median(SEAL)? + aead.median(OPEN)?;
    Some(CIPHER_FACTOR * both + PIPELINE_NS)
}

/// All comparisons among the series of one run.
pub(super) fn compare(series: &[Series]) -> Vec<Comparison> {
    let pipelines = series.iter().filter(|one| {
        one.skipped.is_none() && (one.contender.starts_with(TIPSEC) || one.contender == NULL)
    });
    let programs = series
        .iter()
        .filter(|one| one.skipped.is_none() && one.contender.starts_with(ENDPOINT));
    pipelines
        .flat_map(|one| against_all(one, series))
        .chain(programs.filter_map(|one| against_udp(one, series)))
        .collect()
}

/// What of the bare forwarder's rate the cipher alone leaves: sender and
/// receiver have a core each, so whichever of them is the slower has to seal or
/// to open as well; the cheaper of the two is counted.
fn most_to_be_had(one: &Series, aead: &Series, bare: &Series) -> Option<Comparison> {
    let both = aead.samples(SEAL).iter().zip(aead.samples(OPEN));
    let cheaper: Vec<f64> = both.map(|(&seal, &open)| seal.min(open)).collect();
    let what = format!(
        "{}: of {BARE}, what {} alone leaves",
        place(one),
        aead.contender
    );
    Comparison::share_left(what, aead, &cheaper, bare)
}

/// From program to program: sealed by an endpoint, against the kernel's UDP in
/// clear, a datagram a frame. Against trains of datagrams nothing is compared.
fn against_udp(one: &Series, series: &[Series]) -> Option<Comparison> {
    let udp = beside(one, UDP, series)?;
    let is_default = one
        .contender
        .starts_with(&format!("{ENDPOINT}{DEFAULT_CIPHER}"));
    let has_target = is_default && one.label("size") == ENDPOINT_SIZE;
    let wanted = has_target.then_some(Bound::AtLeast(ENDPOINT_FACTOR));
    let what = format!("{}: {} / {UDP}", place(one), one.contender);
    Comparison::ratio(what, one, udp, MPPS, wanted)
}

/// More CPU time than this share went elsewhere: the figures are not to be
/// quoted. Softirqs on idle cores take a little on a quiet machine, too.
const ELSEWHERE_MAX: f64 = 0.25;

/// A warning if the cores were busy with other things: over all series, the
/// median share of their time that none of the benchmark's threads had.
pub(super) fn busy_note(series: &[Series]) -> Option<String> {
    let shares: Vec<f64> = series
        .iter()
        .filter_map(|one| {
            let (cores, threads) = (one.median(CPU_NS)?, one.median(CPU_THREADS_NS)?);
            Some(1.0 - threads / cores)
        })
        .collect();
    let elsewhere = Stats::of(&shares)?.median;
    (elsewhere > ELSEWHERE_MAX).then(|| {
        format!(
            "THE MACHINE WAS BUSY: {:.0} % of both cores' time went to something else. No figure \
             of this run is to be quoted, and no comparison trusted.",
            elsewhere * 100.0
        )
    })
}

/// The labels that two series must share to have run side by side.
fn conditions(series: &Series) -> BTreeMap<&str, &str> {
    let shared = ["profile", "size"];
    shared.iter().map(|&key| (key, series.label(key))).collect()
}

/// The series of `contender` that ran beside this one.
fn beside<'a>(one: &Series, contender: &str, series: &'a [Series]) -> Option<&'a Series> {
    series
        .iter()
        .find(|other| other.contender == contender && conditions(other) == conditions(one))
}

/// Profile and size, for people.
fn place(one: &Series) -> String {
    let (profile, size) = (one.label("profile"), one.label("size"));
    let unit = if size.parse::<usize>().is_ok() {
        " B"
    } else {
        ""
    };
    format!("{profile}, {size}{unit}")
}

fn against_all(one: &Series, series: &[Series]) -> Vec<Comparison> {
    let (profile, size) = (one.label("profile"), one.label("size"));
    let beside = |contender: &str| beside(one, contender, series);
    let place = place(one);
    let titled = |against: &str| format!("{place}: {} / {against}", one.contender);
    let is_default = one
        .contender
        .starts_with(&format!("{TIPSEC}{DEFAULT_CIPHER}"));
    let mut found = Vec::new();
    if let Some(bare) = beside(BARE) {
        let wanted = wanted_share(profile, size).filter(|_| is_default);
        let what = titled(BARE);
        found.extend(Comparison::ratio(what, one, bare, MPPS, wanted));
        let cipher = one.contender.strip_prefix(TIPSEC).unwrap_or_default();
        let aead = beside(&format!("{AEAD}{cipher}"));
        let wanted = aead.and_then(allowed_ns).filter(|_| is_default);
        let wanted = wanted.map(Bound::AtMost);
        let what = format!("{place}: CPU time of {} beyond {BARE}", one.contender);
        found.extend(Comparison::difference(&what, one, bare, CPU_NS, wanted));
        let what = format!("{what}, of threads");
        let threads = Comparison::difference(what, one, bare, CPU_THREADS_NS, None);
        found.extend(threads);
        found.extend(aead.and_then(|aead| most_to_be_had(one, aead, bare)));
    }
    for other in [UDP, NULL] {
        if let Some(series) = beside(other).filter(|_| one.contender != other) {
            found.extend(Comparison::ratio(titled(other), one, series, MPPS, None));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Sample;

    fn series(contender: &str, size: &str, metrics: &[(&'static str, f64)]) -> Series {
        let labels = [("profile", "threaded"), ("size", size)];
        let mut series = Series::new("wire", contender, &labels);
        series.add(Sample {
            metrics: metrics
                .iter()
                .map(|&(name, value)| (name, "", value))
                .collect(),
            ..Sample::default()
        });
        series
    }

    #[test]
    fn targets_are_those_of_the_default_cipher() {
        let rates = |mpps, ns| [(MPPS, mpps), (CPU_NS, ns)];
        let all = [
            series("tipsec aes-256-gcm ring", "1400", &rates(0.9, 1500.0)),
            series("tipsec chacha20-poly1305 ring", "1400", &rates(0.4, 3000.0)),
            series(NULL, "1400", &rates(0.8, 1100.0)),
            series(BARE, "1400", &rates(1.0, 1000.0)),
            series(BARE, "64", &rates(9.0, 1.0)),
            series(
                "aead aes-256-gcm ring",
                "1400",
                &[(SEAL, 200.0), (OPEN, 152.0)],
            ),
        ];
        let comparisons = compare(&all);
        let outcome = |met: Option<bool>| -> Vec<_> {
            let found = comparisons.iter().filter(|c| c.met == met);
            found
                .map(|c| (c.a.as_str(), c.b.as_str(), c.samples[0], c.wanted))
                .collect()
        };
        let (ring, chacha20) = ("tipsec aes-256-gcm ring", "tipsec chacha20-poly1305 ring");
        let allowed = 1.25 * 352.0 + 60.0;
        assert_eq!(
            outcome(Some(true)),
            [
                (ring, BARE, 0.9, Some(Bound::AtLeast(0.80))),
                (ring, BARE, 500.0, Some(Bound::AtMost(allowed))),
            ]
        );
        assert_eq!(outcome(Some(false)), []);
        assert_eq!(
            outcome(None),
            [
                // Of 1,000 ns a frame, 152 more.
                ("aead aes-256-gcm ring", BARE, 1000.0 / 1152.0, None),
                (ring, NULL, 1.125, None),
                (chacha20, BARE, 0.4, None),
                (chacha20, BARE, 2000.0, None),
                (chacha20, NULL, 0.5, None),
                (NULL, BARE, 0.8, None),
                (NULL, BARE, 100.0, None),
            ]
        );
    }

    #[test]
    fn endpoint_has_its_target_against_datagrams_that_are_frames() {
        let all = |endpoint: f64, size: &str| {
            compare(&[
                series("endpoint aes-256-gcm ring", size, &[(MPPS, endpoint)]),
                series("endpoint aes-128-gcm ring", size, &[(MPPS, endpoint)]),
                series(UDP, size, &[(MPPS, 1.0)]),
                series("kernel udp_segment", size, &[(MPPS, 50.0)]),
                series(BARE, size, &[(MPPS, 9.0)]),
            ])
        };
        let outcome = |endpoint, size| -> Vec<_> {
            let found = all(endpoint, size);
            found.iter().map(|c| (c.samples[0], c.met)).collect()
        };
        assert_eq!(outcome(2.0, "1400"), [(2.0, Some(true)), (2.0, None)]);
        assert_eq!(outcome(1.9, "1400"), [(1.9, Some(false)), (1.9, None)]);
        assert_eq!(outcome(1.9, "570"), [(1.9, None), (1.9, None)]);
        let line = all(2.5, "1400")[0].line();
        let wanted = "threaded, 1400 B: endpoint aes-256-gcm ring / kernel udp: 2.50, wanted";
        assert!(line.starts_with(wanted), "{line}");
    }

    #[test]
    fn a_busy_machine_is_told() {
        let of = |threads| {
            let metrics = [(CPU_NS, 1000.0), (CPU_THREADS_NS, threads)];
            busy_note(&[
                series("a", "64", &metrics),
                series("b", "64", &[(SEAL, 1.0)]),
            ])
        };
        assert!(of(600.0).unwrap().contains("40 %"));
        assert_eq!(of(900.0), None);
        assert_eq!(busy_note(&[]), None);
    }

    #[test]
    fn every_target_has_its_size_and_profile() {
        let wanted = |profile, size| wanted_share(profile, size);
        assert_eq!(wanted("inline", "64"), Some(Bound::AtLeast(0.92)));
        assert_eq!(wanted("threaded", "64"), Some(Bound::AtLeast(0.92)));
        assert_eq!(wanted("inline", "1400"), Some(Bound::AtLeast(0.85)));
        assert_eq!(wanted("threaded", "1400"), Some(Bound::AtLeast(0.80)));
        assert_eq!(wanted("inline", "256"), None);
    }
}
