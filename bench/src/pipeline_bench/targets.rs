//! What is set against what, and what it should come to. Imports `results`.

use super::{AEAD, NULL, OPEN, PIPELINE, SEAL};
use crate::results::{Bound, Comparison, Series};

/// The most that a pipeline may add to the cipher, in ns a frame.
const PIPELINE_NS: f64 = 30.0;

/// Each pipeline against its cipher alone and against the null cipher's.
pub(super) fn compare(series: &[Series]) -> Vec<Comparison> {
    let mut found = Vec::new();
    for pipeline in series {
        let Some(cipher) = pipeline.contender.strip_prefix(PIPELINE) else {
            continue;
        };
        let size = pipeline.label("size");
        let beside = |contender: String| {
            let same = |one: &&Series| one.contender == contender && one.label("size") == size;
            series.iter().find(same)
        };
        let aead = beside(format!("{AEAD}{cipher}"));
        let null = beside(format!("{PIPELINE}{NULL}")).filter(|_| cipher != NULL);
        for (metric, pass) in [(SEAL, "seal_burst"), (OPEN, "open_burst")] {
            if let Some(aead) = aead {
                let what = format!("{size} B: {pass} with {cipher} beyond the cipher alone");
                let wanted = Some(Bound::AtMost(PIPELINE_NS));
                found.extend(Comparison::difference(what, pipeline, aead, metric, wanted));
            }
            if let Some(null) = null {
                let what = format!("{size} B: {pass} with {cipher} beyond the null cipher");
                found.extend(Comparison::difference(what, pipeline, null, metric, None));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Sample;

    fn series(contender: &str, size: &str, seal: f64, open: f64) -> Series {
        let mut series = Series::new("pipeline", contender, &[("size", size)]);
        series.add(Sample {
            metrics: vec![(SEAL, "ns/frame", seal), (OPEN, "ns/frame", open)],
            ..Sample::default()
        });
        series
    }

    #[test]
    fn a_pipeline_is_held_against_its_own_cipher_at_its_own_size() {
        let all = [
            series("pipeline x", "64", 110.0, 131.0),
            series("aead x", "64", 80.0, 100.0),
            series("pipeline x", "256", 150.0, 150.0),
            series("aead x", "256", 150.0, 149.0),
            series("pipeline null", "64", 10.0, 20.0),
            series("aead null", "64", 2.0, 3.0),
        ];
        let outcomes: Vec<_> = compare(&all)
            .into_iter()
            .map(|c| (c.a, c.b, c.labels["size"].clone(), c.samples[0], c.met))
            .collect();
        let row = |a: &str, b: &str, size: &str, ns, met| {
            (a.to_owned(), b.to_owned(), size.to_owned(), ns, met)
        };
        assert_eq!(
            outcomes,
            [
                row("pipeline x", "aead x", "64", 30.0, Some(true)),
                row("pipeline x", "pipeline null", "64", 100.0, None),
                row("pipeline x", "aead x", "64", 31.0, Some(false)),
                row("pipeline x", "pipeline null", "64", 111.0, None),
                row("pipeline x", "aead x", "256", 0.0, Some(true)),
                row("pipeline x", "aead x", "256", 1.0, Some(true)),
                row("pipeline null", "aead null", "64", 8.0, Some(true)),
                row("pipeline null", "aead null", "64", 17.0, Some(true)),
            ]
        );
    }
}
