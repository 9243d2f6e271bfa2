//! The contenders of one profile, as devices that can be paced, and the frame
//! of a run. Imports `wire_bench`.

use tipsec_dataplane::aead::Provider;
use tipsec_dataplane::aead::aws_lc::AwsLc;
use tipsec_dataplane::aead::ring::Ring;
use tipsec_dataplane::secret::Suite;

use super::{Device, Options, Wait};
use crate::error::{Error, Result};
use crate::machine;
use crate::results::{Comparison, Run, SCHEMA, Series, UNOPTIMISED};
use crate::wire_bench::bare::Bare;
use crate::wire_bench::ends::{Ends, MTU};
use crate::wire_bench::link::Link;
use crate::wire_bench::measure::Plan;
use crate::wire_bench::node::Tipsec;
use crate::wire_bench::null::NullCipher;
use crate::wire_bench::options::{FrameSize, Kind, Profile};
use crate::wire_bench::udp::Udp;
use crate::wire_bench::{BARE, NULL, TIPSEC, UDP};

/// One profile, ready to measure.
pub(super) struct Stage<'a> {
    pub(super) link: &'a Link,
    pub(super) ends: &'a Ends<'a>,
    pub(super) plan: Plan,
    pub(super) options: &'a Options,
}

impl<'a> Stage<'a> {
    /// A contender at a size.
    pub(super) fn device(&self, kind: Kind, size: FrameSize) -> Box<dyn Device + 'a> {
        let Self {
            link, ends, plan, ..
        } = *self;
        let Options {
            suite, provider, ..
        } = *self.options;
        // Series are for the closed loop; a device has none of its own.
        let series = Series::default();
        match (kind, provider) {
            (Kind::Tipsec, Provider::Ring) => {
                Box::new(Tipsec::<Ring>::new(ends, series, suite, size, plan))
            }
            (Kind::Tipsec, Provider::AwsLc) => {
                Box::new(Tipsec::<AwsLc>::new(ends, series, suite, size, plan))
            }
            (Kind::Bare, _) => Box::new(Bare::new(ends, series, size, plan)),
            (Kind::Udp | Kind::UdpSegment, _) => {
                Box::new(Udp::new(link, series, size, false, plan))
            }
            // The null cipher has no suite; any does. Those beside it cannot be
            // asked for.
            (Kind::Null | Kind::Endpoint | Kind::Aead, _) => Box::new(Tipsec::<NullCipher>::new(
                ends,
                series,
                Suite::Aes256Gcm,
                size,
                plan,
            )),
        }
    }

    /// Its name in reports.
    pub(super) fn name(&self, kind: Kind) -> String {
        let Options {
            suite, provider, ..
        } = self.options;
        match kind {
            Kind::Tipsec => format!("{TIPSEC}{} {}", suite.name(), provider.name()),
            Kind::Bare => BARE.into(),
            Kind::Udp | Kind::UdpSegment => UDP.into(),
            Kind::Null | Kind::Endpoint | Kind::Aead => NULL.into(),
        }
    }

    /// An empty series under these conditions; the `load` if there is one.
    pub(super) fn series(
        &self,
        bench: &str,
        contender: impl Into<String>,
        (size, wait, load): (FrameSize, Wait, Option<&str>),
    ) -> Series {
        let mut labels = vec![
            ("profile", self.link.profile.name()),
            ("size", size.name()),
            ("wait", wait.name()),
        ];
        labels.extend(load.map(|load| ("load", load)));
        Series::new(bench, contender, &labels)
    }
}

/// A sender's and a receiver's core.
fn plan(options: &Options) -> Result<Plan> {
    let cores = machine::cores()?;
    let [send_core, receive_core, ..] = cores[..] else {
        return Err(Error::Failed {
            what: "measure".into(),
            detail: format!(
                "sender and receiver need a core each, and this process may use {} only",
                cores.len()
            ),
        });
    };
    Ok(Plan {
        send_core,
        receive_core,
        window: options.sample,
        depth: options.depth,
    })
}

/// Puts up the wire of each profile, lets `measure` run on it, and makes a run
/// of all series, of what `compare` finds in them, and of what `notes` say.
///
/// # Errors
/// [`Error`]; nothing is left behind.
pub(super) fn run(
    bench: &str,
    options: &Options,
    notes: &[&str],
    compare: impl Fn(&[Series]) -> Vec<Comparison>,
    mut measure: impl FnMut(&Stage<'_>) -> Result<Vec<Series>>,
) -> Result<Run> {
    let started = machine::now();
    let machine = machine::look()?;
    let plan = plan(options)?;
    let (send_core, receive_core) = (plan.send_core, plan.receive_core);
    let mut series = Vec::new();
    for &profile in &options.profiles {
        let link = Link::create(profile, MTU)?;
        let ends = Ends::attach(&link, receive_core)?;
        series.extend(measure(&Stage {
            link: &link,
            ends: &ends,
            plan,
            options,
        })?);
    }
    let crowded =
        options.profiles.contains(&Profile::Threaded) && options.waits.contains(&Wait::Spin);
    Ok(Run {
        schema: SCHEMA,
        bench: bench.into(),
        started,
        version: env!("CARGO_PKG_VERSION").into(),
        machine,
        rounds: options.rounds,
        pinning: format!(
            "sender on core {send_core}, receiver on core {receive_core}; NAPI inline: on core \
             {send_core} in the sender's system call; threaded: on core {receive_core}"
        ),
        comparisons: compare(&series),
        notes: cfg!(debug_assertions)
            .then(|| UNOPTIMISED.to_owned())
            .into_iter()
            .chain(notes.iter().map(|&note| note.to_owned()))
            .chain(crowded.then(|| CROWDED.to_owned()))
            .chain([format!("{} frames in flight at most.", options.depth)])
            .collect(),
        series,
    })
}

/// Said where it matters.
const CROWDED: &str = "threaded, spin: the receiver spins on the core that its NAPI thread needs, \
                       and the scheduler parts the core between the two. A spinning receiver wants \
                       a core of its own.";

/// The series of another contender under the same conditions.
pub(super) fn beside<'a>(one: &Series, who: &str, all: &'a [Series]) -> Option<&'a Series> {
    all.iter().find(|other| {
        other.contender == who && other.bench == one.bench && other.labels == one.labels
    })
}

/// Conditions of a series as a title.
pub(super) fn place(series: &Series) -> String {
    let conditions: Vec<&str> = ["profile", "size", "wait", "load"]
        .into_iter()
        .map(|key| series.label(key))
        .filter(|value| !value.is_empty())
        .collect();
    conditions.join(", ")
}
