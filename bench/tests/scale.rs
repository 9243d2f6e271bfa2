//! `tipsec-bench pipeline` and `scale`: everything that is asked for is
//! measured, every frame is accounted for, nothing is left behind. Says nothing
//! about speed. What goes over a veth pair needs root.
#![allow(clippy::unwrap_used)] // a test may stop

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tipsec_bench::report::Progress;
use tipsec_bench::results::{MPPS, Run};
use tipsec_bench::scale_bench::{self, Part};
use tipsec_bench::wire_bench::options::{FrameSize, PROVIDERS};
use tipsec_bench::{netns, pipeline_bench, report_html};
use tipsec_dataplane::secret::Suite;

const SHORT: Duration = Duration::from_millis(20);

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED (needs root): {test}");
    }
    root
}

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tipsec-bench"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn options(parts: &[Part]) -> scale_bench::Options {
    scale_bench::Options {
        parts: parts.into(),
        sas: vec![1, 70, 70_000],
        wire_sas: vec![1, 300],
        queues: vec![1, 2],
        peers: 50,
        sizes: scale_bench::SIZES.into(),
        providers: PROVIDERS.into(),
        seed: 7,
        rounds: 2,
        sample: SHORT,
    }
}

fn assert_whole(run: &Run) {
    for series in &run.series {
        let title = series.title();
        assert_eq!(series.unaccounted, 0, "{title}: {:?}", series.drops);
        for (name, metric) in &series.metrics {
            assert_eq!(metric.samples.len(), run.rounds, "{title}: {name}");
        }
        assert_eq!(series.metrics.is_empty(), series.skipped.is_some());
    }
    assert!(report_html::page(std::slice::from_ref(run)).contains("<svg"));
    let name = format!("tipsec-scale-{}-{}.json", run.bench, std::process::id());
    let file = std::env::temp_dir().join(name);
    run.write(&file).unwrap();
    assert_eq!(Run::read(&file).unwrap().series.len(), run.series.len());
    std::fs::remove_file(file).unwrap();
}

#[test]
fn pipelines_are_measured_beside_their_ciphers() {
    let options = pipeline_bench::Options {
        sizes: pipeline_bench::SIZES.into(),
        suites: Suite::ALL.into(),
        providers: PROVIDERS.into(),
        rounds: 2,
        sample: SHORT / 10,
    };
    let run = pipeline_bench::run(&options, &Progress::start()).unwrap();
    assert_whole(&run);
    // Three ciphers of two crates and the null cipher, with and without the
    // pipelines, at five sizes.
    assert_eq!(run.series.len(), (3 * 2 + 1) * 2 * 5);
    for series in &run.series {
        assert!(series.median("seal").unwrap() > 0.0, "{}", series.title());
        assert!(series.median("open").unwrap() > 0.0, "{}", series.title());
        let pipeline = series.contender.starts_with("pipeline ");
        let allocations = series.median("allocations");
        assert_eq!(allocations, pipeline.then_some(0.0), "{}", series.title());
    }
    let targets = run.comparisons.iter().filter(|c| c.wanted.is_some());
    assert_eq!(targets.count(), (3 * 2 + 1) * 2 * 5);

    let unknown = pipeline_bench::Options {
        sizes: vec![FrameSize::B9000],
        ..options
    };
    let error = pipeline_bench::run(&unknown, &Progress::start()).unwrap_err();
    assert!(error.to_string().contains("3400"), "{error}");
}

#[test]
fn many_sas_and_a_rekey_need_no_privileges() {
    let run = scale_bench::run(&options(&[Part::Sas, Part::Rekey]), &Progress::start()).unwrap();
    assert_whole(&run);
    for provider in ["ring", "aws-lc-rs"] {
        for sas in ["1", "70", "70000"] {
            for size in ["64", "1400"] {
                let labels = [("sas", sas), ("size", size)];
                let series = |who: &str| {
                    let name = format!("{who} aes-256-gcm {provider}");
                    run.find(&name, &labels).unwrap()
                };
                assert!(series("open_burst").median("cost").unwrap() > 0.0);
                // There are no more than 65,536 peers to send to.
                let sending = series("seal_burst");
                assert_eq!(sending.skipped.is_some(), sas == "70000");
            }
        }
    }
    let rekey = run.find("rekey", &[("peers", "50")]).unwrap();
    assert_eq!(rekey.median("lost for key reasons"), Some(0.0));
    assert_eq!(rekey.drops.values().sum::<u64>(), 0, "{:?}", rekey.drops);
    assert!(rekey.median("p99.9") >= rekey.median("p50"));
    assert!(run.find("before", &[]).is_some());
    assert!(run.find("scheduler's floor", &[]).is_some());
    assert!(run.notes.iter().any(|note| note == "Seed 7."));
}

#[test]
fn many_sas_and_queues_deliver_over_a_wire() {
    if !is_root("many_sas_and_queues_deliver_over_a_wire") {
        return;
    }
    let mut options = options(&[Part::Wire, Part::Queues]);
    options.providers.truncate(1);
    options.sample = Duration::from_millis(100);
    let run = scale_bench::run(&options, &Progress::start()).unwrap();
    assert_whole(&run);
    assert_eq!(run.series.len(), 2 * 2 * 2);
    for series in &run.series {
        assert!(series.median(MPPS).unwrap() > 0.0, "{}", series.title());
        assert!(series.median("efficiency").unwrap() > 0.0);
        let for_keys = |reason: &String| reason.starts_with("rx_") || reason.starts_with("tx_");
        assert!(!series.drops.keys().any(for_keys), "{:?}", series.drops);
    }
    assert_eq!(netns::made_by(std::process::id()), Vec::<String>::new());
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let refused = |arguments: &[&str], wanted: &str| {
        let output = bench(arguments);
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(wanted), "{said}");
    };
    refused(&["pipeline", "--sizes", "65"], "no frame size \"65\"");
    refused(&["pipeline", "--sizes", "imix"], "64, 256, 570, 1400, 3400");
    refused(&["pipeline", "--providers", "openssl"], "ring, aws-lc-rs");
    refused(&["pipeline", "--seconds", "0"], "0.05 to 600");
    refused(&["pipeline", "--json", "/none/x"], "/none/x");
    refused(&["scale", "--parts", "ships"], "sas, wire, queues, rekey");
    refused(&["scale", "--sas", "0"], "1..=1000000");
    refused(&["scale", "--wire-sas", "65001"], "65001");
    refused(&["scale", "--queues", "17"], "1..=16");
    refused(&["scale", "--peers", "1025"], "1..=1024");
    refused(
        &["scale", "--parts", "sas", "--sizes", "9000"],
        "3400 bytes",
    );
}
