use super::*;
use crate::results::{Bound, Machine, SCHEMA, Sample, Series, UNOPTIMISED};

const SEALED: &str = "tipsec aes-256-gcm ring";
const BARE: &str = "bare forwarder";
const RATE: &str = "delivered";

fn series(contender: &str, depth: &str, metrics: &[(&'static str, &'static str, f64)]) -> Series {
    let labels = [("profile", "inline"), ("size", "64"), ("depth", depth)];
    let mut series = Series::new("wire", contender, &labels);
    series.add(Sample {
        metrics: metrics.into(),
        ..Sample::default()
    });
    series
}

fn run_of(bench: &str, series: Vec<Series>, comparisons: Vec<Comparison>) -> Run {
    Run {
        schema: SCHEMA,
        bench: bench.into(),
        started: "2020-02-29T12:00:00Z".into(),
        version: "0".into(),
        machine: Machine {
            cpu: "c".into(),
            cores: 2,
            kernel: "k".into(),
            virtualised: true,
            memory_bytes: 1,
        },
        rounds: 1,
        pinning: "p".into(),
        series,
        comparisons,
        notes: vec!["A note.".into()],
    }
}

/// A run in which sealed frames pass at `rate` and cost `cpu` ns, bare ones at 1
/// and 1000; with a bound on both, and with none on the rate of the other.
fn run(depth: &str, rate: f64, cpu: f64) -> Run {
    let of = |who, rate, cpu| {
        let metrics = [(RATE, "Mpps", rate), ("cpu", "ns/frame", cpu)];
        series(who, depth, &metrics)
    };
    let all = vec![of(SEALED, rate, cpu), of(BARE, 1.0, 1000.0)];
    let comparisons = [
        Comparison::ratio(
            "sealed / bare",
            &all[0],
            &all[1],
            RATE,
            Some(Bound::AtLeast(0.92)),
        ),
        Comparison::difference(
            "sealed beyond bare",
            &all[0],
            &all[1],
            "cpu",
            Some(Bound::AtMost(300.0)),
        ),
        Comparison::ratio("bare / sealed", &all[1], &all[0], RATE, None),
    ];
    run_of("wire", all, comparisons.into_iter().flatten().collect())
}

fn expect(text: &str) -> Expectations {
    Expectations::parse(text).unwrap()
}

/// What is wrong, in words.
fn faults(runs: &[Run], reports: &[Run], expected: &str) -> Vec<String> {
    let verdict = judge(runs, reports, &expect(expected)).unwrap();
    assert_eq!(verdict.passed, verdict.faults.is_empty());
    verdict.faults.iter().map(Fault::to_string).collect()
}

const BOTH: &str = "wire tipsec size=64 profile=inline\nwire bare forwarder size=64\n";

#[test]
fn a_good_run_passes_and_says_what_it_was_held_against() {
    // A full run finds out a depth of its own.
    let (short, report) = (run("64", 0.5, 1900.0), run("192", 0.95, 1300.0));
    let verdict = judge(&[short], &[report], &expect(BOTH)).unwrap();
    assert!(verdict.passed, "{verdict:?}");
    let held: Vec<_> = verdict
        .held
        .iter()
        .map(|held| (held.median, held.report, held.limit))
        .collect();
    let wanted = [
        (0.5, 0.95, Bound::AtLeast(0.475)),
        (900.0, 300.0, Bound::AtMost(2600.0)),
    ];
    assert_eq!(held, wanted, "only what carries a bound");
    assert_eq!(verdict.not_gated, []);
}

#[test]
fn figures_far_out_of_line_are_faults_each() {
    let report = || [run("64", 0.95, 1300.0)];
    assert_eq!(
        faults(&[run("64", 0.476, 3600.0)], &report(), BOTH),
        [""; 0]
    );
    let slow = faults(&[run("64", 0.474, 1300.0)], &report(), BOTH);
    assert_eq!(slow.len(), 1, "{slow:?}");
    assert!(
        slow[0].contains("sealed / bare: 0.474; 0.950 in the report"),
        "{slow:?}"
    );
    let dear = faults(&[run("64", 0.9, 3601.0)], &report(), BOTH);
    assert!(
        dear.len() == 1 && dear[0].contains("2601 ns/frame"),
        "{dear:?}"
    );
    assert_eq!(faults(&[run("64", 0.1, 9000.0)], &report(), BOTH).len(), 2);
}

#[test]
fn the_report_of_the_same_settings_comes_first() {
    let mut report = run("192", 0.95, 1300.0);
    let same = run("64", 0.2, 1300.0).comparisons;
    report.comparisons.extend(same);
    assert_eq!(faults(&[run("64", 0.11, 1300.0)], &[report], BOTH), [""; 0]);
}

#[test]
fn what_the_report_does_not_hold_is_told_and_passes() {
    let short = || [run("64", 0.01, 9e6)];
    let not_gated = |reports: &[Run]| {
        let verdict = judge(&short(), reports, &expect(BOTH)).unwrap();
        assert!(verdict.passed && verdict.held.is_empty(), "{verdict:?}");
        let all = verdict.not_gated.into_iter();
        all.map(|one| one.why).collect::<Vec<_>>()
    };
    let other = run_of("tap", Vec::new(), Vec::new());
    assert_eq!(not_gated(&[]), [verdict::NO_REPORT; 2]);
    assert_eq!(not_gated(&[other]), [verdict::NO_REPORT; 2]);
    // Other conditions, other words, another unit.
    let mut report = run("64", 0.95, 1300.0);
    report.comparisons[0]
        .labels
        .insert("size".into(), "1400".into());
    report.comparisons[1].what = "of threads".into();
    assert_eq!(not_gated(&[report]), ["the report does not hold it"; 2]);
    let mut report = run("64", 0.95, 1300.0);
    report.comparisons[0].unit = "Mpps".into();
    report.comparisons[1].samples.clear();
    let wanted = [
        "the report does not hold it",
        "the report has no samples of it",
    ];
    assert_eq!(not_gated(&[report]), wanted);
}

#[test]
fn what_is_expected_and_not_measured_is_a_fault() {
    let told = |runs: &[Run], line: &str| {
        let mut faults = faults(runs, &[], line);
        assert_eq!(faults.len(), 1, "{line}: {faults:?}");
        faults.remove(0)
    };
    let good = || run("64", 0.9, 1300.0);
    let text = told(&[good()], "# first\nwire kernel udp size=64");
    assert!(
        text.contains("`wire kernel udp size=64` (line 2)"),
        "{text}"
    );
    assert!(text.contains(SEALED), "who is there: {text}");
    let text = told(&[good()], "wire bare forwarder size=1400");
    assert!(text.contains("no series with these labels"), "{text}");
    let text = told(&[good()], "tap tipsec traffic=tcp");
    assert!(text.contains("no run of tap"), "{text}");

    let mut other = good();
    other.bench = "latency".into();
    other.series[0].bench = "ndr".into();
    assert_eq!(faults(&[other], &[], "ndr tipsec\nlatency tipsec"), [""; 0]);

    let mut skipping = good();
    let skipped = Series::new("wire", BARE, &[("size", "64")]).skipped("no luck");
    skipping.series.push(skipped);
    let text = told(&[skipping], "wire bare forwarder size=64");
    assert!(text.contains("skipped, no luck"), "one of two: {text}");
    let mut empty = good();
    empty.series[1].metrics.clear();
    let text = told(&[empty], "wire bare forwarder");
    assert!(text.contains("nothing was measured"), "{text}");
}

#[test]
fn a_comparison_can_be_expected_too() {
    let line = "wire tipsec / bare forwarder metric=delivered size=64";
    assert_eq!(faults(&[run("64", 0.9, 1300.0)], &[], line), [""; 0]);
    for break_it in [
        |one: &mut Comparison| one.metric = "other".into(),
        |one: &mut Comparison| one.samples.clear(),
        |one: &mut Comparison| one.b = "kernel udp".into(),
        |one: &mut Comparison| drop(one.labels.remove("size")),
    ] {
        let mut run = run("64", 0.9, 1300.0);
        break_it(&mut run.comparisons[0]);
        let faults = faults(&[run], &[], line);
        assert!(
            faults.len() == 1 && faults[0].contains("comparison"),
            "{faults:?}"
        );
    }
}

#[test]
fn unaccounted_frames_are_a_fault_of_each_series() {
    let mut run = run("64", 0.9, 1300.0);
    run.series[0].unaccounted = -3;
    run.series[1].unaccounted = 4;
    let faults = faults(&[run], &[], BOTH);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains(SEALED) && faults[0].contains("-3 frames"));
    assert!(faults[1].contains(BARE) && faults[1].contains("4 frames"));
}

#[test]
fn a_development_build_is_a_fault_of_run_and_of_report() {
    let slow = || {
        let mut run = run("64", 0.9, 1300.0);
        run.notes.push(UNOPTIMISED.into());
        run
    };
    let good = || run("64", 0.9, 1300.0);
    for (short, report, what) in [(slow(), good(), "run"), (good(), slow(), "report")] {
        let faults = faults(&[short], &[report], BOTH);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(
            faults[0].contains(&format!("the {what} is of a build")),
            "{faults:?}"
        );
    }
}

#[test]
fn two_reports_of_one_benchmark_are_refused() {
    let all = [run("64", 0.9, 1300.0), run("192", 0.9, 1300.0)];
    let error = judge(&all, &all, &expect(BOTH)).unwrap_err().to_string();
    assert!(error.contains("two of them are of `wire`"), "{error}");
    // Two runs are none of that: short runs may be parted.
    assert!(judge(&all, &[], &expect(BOTH)).unwrap().passed);
}

#[test]
fn a_verdict_is_told_in_words_and_in_json() {
    let verdict = judge(
        &[run("64", 0.1, 1300.0)],
        &[run("64", 0.9, 1300.0)],
        &expect("wire kernel udp"),
    )
    .unwrap();
    let mut text = Vec::new();
    verdict.print(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("Held against the report: 2\n"), "{text}");
    assert!(
        text.contains("FAULTS: 2\n  missing: `wire kernel udp`"),
        "{text}"
    );
    assert!(!text.contains("Not gated"), "{text}");
    let json = serde_json::to_value(&verdict).unwrap();
    assert_eq!(json["passed"], false);
    assert_eq!(json["faults"][0]["fault"], "missing");
    assert_eq!(json["faults"][0]["line"], 1);
    assert_eq!(json["faults"][1]["fault"], "worse");
    assert_eq!(json["faults"][1]["median"], 0.1);
    assert_eq!(json["held"][0]["limit"]["at_least"], 0.45);
}
