//! `tipsec-bench wire`: what passes between two ends of a veth pair, sealed,
//! and against what: a cipher that does nothing, a forwarder that does
//! nothing, and the kernel's UDP in clear; and from program to program by
//! `Endpoint`.
//!
//! One sender, one receiver, one queue, a core each. Profiles and frame sizes
//! come one after another; the contenders of one profile and size take turns
//! in interleaved rounds, and only they are set against each other.
//!
//! * `options`: what can be asked; `link`: the wire; `measure`: one sample;
//! * `ends`: XDP programs and books of both ends; `node`: the product (and the
//!   null cipher, `null`); `bare`, `udp`: the others; `endpoint`: embedded nodes;
//!   `message`: what it and `udp` do with messages; `aead_cost`: the cipher alone;
//! * `depth`: frames in flight; `accounting`: where frames went; `cpu`: what
//!   they cost; `targets`: what is compared;
//! * `paced`: the benchmarks `latency` and `ndr`, which run the same contenders
//!   on a schedule.

use tipsec_dataplane::aead::Provider;
use tipsec_dataplane::aead::aws_lc::AwsLc;
use tipsec_dataplane::aead::ring::Ring;
use tipsec_dataplane::secret::Suite;

use crate::error::{Error, Result};
use crate::machine;
use crate::report::{Countdown, Progress};
use crate::results::{NOT_COMPARABLE, Run, SCHEMA, Series, UNOPTIMISED};
use crate::rounds::{self, Contender};
use crate::sys::xsk;

mod accounting;
mod aead_cost;
mod bare;
mod cpu;
mod depth;
mod endpoint;
mod ends;
mod link;
mod measure;
mod message;
mod node;
mod null;
pub mod options;
pub mod paced;
pub(crate) mod scale;
mod targets;
mod udp;

use aead_cost::AeadCost;
use bare::Bare;
use endpoint::Program;
use ends::{Ends, FRAME_MAX};
use link::Link;
use measure::Plan;
use node::Tipsec;
pub(crate) use null::NullCipher;
pub use options::Options;
use options::{FrameSize, Kind, Profile};
use udp::Udp;

/// Name of this benchmark.
const BENCH: &str = "wire";
/// Contenders' names; a cipher follows on those that end in a blank.
const TIPSEC: &str = "tipsec ";
const NULL: &str = "null cipher";
const BARE: &str = "bare forwarder";
const ENDPOINT: &str = "endpoint ";
const UDP: &str = "kernel udp";
const UDP_SEGMENT: &str = "kernel udp_segment";
const AEAD: &str = "aead ";

/// What has to be known to judge the figures.
const NOTES: [&str; 10] = [
    "Frame sizes and Gbit/s count every byte of the Ethernet frame, from the first address to the \
     last byte before a checksum that a veth pair has not.",
    "IMIX is 64, 570 and 1400 bytes, 7 : 4 : 1.",
    "cpu, efficiency: time of both cores that was not idle (/proc/stat, ticks of 10 ms), whatever \
     ran there: system calls, softirqs, NAPI threads, and whatever else the machine did. cpu of \
     threads: what the scheduler charged to sender, receiver and the receiver's NAPI thread.",
    "What a cipher alone leaves of the bare forwarder's rate: its time a frame beside that time and \
     the cheaper of sealing and opening, round by round. Each end has a core of its own, and the \
     slower one has to do either. A pipeline around that cipher is only above where the kernel's \
     part comes cheaper than under the bare forwarder.",
    "Sender and receiver sleep when they have nothing to do: the receiver in poll, the sender for \
     20 µs while its frames are in flight.",
    "kernel udp has a veth pair of its own without XDP program, with the kernel's default offloads \
     (no checksum is computed); threaded: with GRO on, since there is no NAPI thread without.",
    "endpoint and kernel udp go from program to program, with the same work on the message: the \
     sender has it in a buffer in its cache, from where it is copied once (into frame memory by \
     the program, out of the buffer by the kernel), and the receiver reads a byte of each 64. Of a \
     frame of 1400 bytes the message is 1353 bytes of endpoint and 1358 of kernel udp. Both are \
     measured inside the process, and set against no figure of a tunnel device.",
    "endpoint: two embedded nodes with a veth pair and a key exchange of their own in each round, \
     no tap; the program's thread is the node's worker, one core each side. The sender commits a \
     burst and polls; the receiver sleeps in wait and reads in place. Every figure counts messages \
     alone; the balance of sent, delivered and lost has the nodes' probes in it as well, since \
     counters of drops do not tell them apart.",
    "kernel udp_segment compares with nothing here, and has no target: with UDP_SEGMENT and \
     UDP_GRO a train of up to 64 datagrams crosses veth as one packet, which nothing cuts. A \
     frame on a real wire is not that: there each datagram is one.",
    "A veth pair is copy mode and bound by system calls: it ranks overhead, and says nothing of \
     a NIC.",
];

/// Runs it all. Unaccounted frames are in the result and not an error here.
///
/// # Errors
/// [`Error`]; nothing is left behind.
pub fn run(options: &Options, progress: &Progress) -> Result<Run> {
    let started = machine::now();
    let machine = machine::look()?;
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
    let plan = Plan {
        send_core,
        receive_core,
        window: options.sample,
        depth: 0,
    };
    let a_round: usize = options
        .sizes
        .iter()
        .map(|&size| able(options, size).count())
        .sum();
    let mut countdown = progress.countdown(options.profiles.len() * options.rounds * a_round);
    let mut series = Vec::new();
    for &profile in &options.profiles {
        series.extend(run_profile(
            profile,
            options,
            plan,
            progress,
            &mut countdown,
        )?);
    }
    Ok(Run {
        schema: SCHEMA,
        bench: BENCH.into(),
        started,
        version: env!("CARGO_PKG_VERSION").into(),
        machine,
        rounds: options.rounds,
        pinning: format!(
            "sender on core {send_core}, receiver on core {receive_core}; NAPI inline: on core \
             {send_core} in the sender's system call; threaded: on core {receive_core}"
        ),
        comparisons: targets::compare(&series),
        notes: targets::busy_note(&series)
            .into_iter()
            .chain(cfg!(debug_assertions).then(|| UNOPTIMISED.to_owned()))
            .chain(NOTES.map(str::to_owned))
            .collect(),
        series,
    })
}

fn run_profile(
    profile: Profile,
    options: &Options,
    plan: Plan,
    progress: &Progress,
    countdown: &mut Countdown<'_>,
) -> Result<Vec<Series>> {
    let link = Link::create(profile, ends::MTU)?;
    let ends = Ends::attach(&link, plan.receive_core)?;
    let depth = match options.depth {
        Some(depth) => depth,
        None => depth::probe(&ends, options, plan, progress)?,
    };
    progress.say(format!("{profile}: {depth} frames in flight"));
    let plan = Plan { depth, ..plan };
    let stage = Stage {
        link: &link,
        ends: &ends,
        plan,
    };
    let mut series = Vec::new();
    for &size in &options.sizes {
        let mut contenders: Vec<_> = able(options, size)
            .map(|(kind, cipher)| stage.contender(size, kind, cipher))
            .collect();
        let rounds = options.rounds;
        series.extend(rounds::run(
            &mut contenders,
            rounds,
            options.sample,
            countdown,
        )?);
        for (kind, cipher) in entries(options) {
            if let Some(reason) = why_not(size, kind) {
                series.push(stage.series(size, kind, cipher).skipped(reason));
            }
        }
    }
    Ok(series)
}

/// AEAD crate and suite of those that have one.
type Cipher = Option<(Provider, Suite)>;

/// Everyone who was asked for.
fn entries(options: &Options) -> impl Iterator<Item = (Kind, Cipher)> {
    options.contenders.iter().flat_map(|&kind| {
        let ciphers: Vec<Cipher> = match kind {
            Kind::Tipsec | Kind::Endpoint | Kind::Aead => {
                let of = |&provider| options.suites.iter().map(move |&s| Some((provider, s)));
                options.providers.iter().flat_map(of).collect()
            }
            Kind::Null | Kind::Bare | Kind::Udp | Kind::UdpSegment => vec![None],
        };
        ciphers.into_iter().map(move |cipher| (kind, cipher))
    })
}

/// Those of them who can run at a size.
fn able(options: &Options, size: FrameSize) -> impl Iterator<Item = (Kind, Cipher)> {
    entries(options).filter(move |&(kind, _)| why_not(size, kind).is_none())
}

/// One profile, ready to measure.
struct Stage<'a> {
    link: &'a Link,
    ends: &'a Ends<'a>,
    plan: Plan,
}

impl<'a> Stage<'a> {
    fn contender(&self, size: FrameSize, kind: Kind, cipher: Cipher) -> Box<dyn Contender + 'a> {
        let series = self.series(size, kind, cipher);
        let plan = self.plan;
        match (kind, cipher) {
            (Kind::Tipsec, Some((provider, suite))) => {
                tipsec(self.ends, series, provider, suite, size, plan)
            }
            (Kind::Endpoint, Some((provider, suite))) => {
                program(self.link, series, provider, suite, size, plan)
            }
            (Kind::Aead, Some((provider, suite))) => aead(series, provider, suite, size, plan),
            (Kind::Bare, _) => Box::new(Bare::new(self.ends, series, size, plan)),
            (Kind::Udp, _) => Box::new(Udp::new(self.link, series, size, false, plan)),
            (Kind::UdpSegment, _) => Box::new(Udp::new(self.link, series, size, true, plan)),
            // The null cipher has no suite; any does. The others have one.
            (Kind::Null | Kind::Tipsec | Kind::Endpoint | Kind::Aead, _) => {
                Box::new(Tipsec::<NullCipher>::new(
                    self.ends,
                    series,
                    Suite::Aes256Gcm,
                    size,
                    plan,
                ))
            }
        }
    }

    fn series(&self, size: FrameSize, kind: Kind, cipher: Cipher) -> Series {
        let cipher = cipher.map_or(String::new(), |(provider, suite)| {
            format!("{} {}", suite.name(), provider.name())
        });
        let name = match kind {
            Kind::Tipsec => format!("{TIPSEC}{cipher}"),
            Kind::Endpoint => format!("{ENDPOINT}{cipher}"),
            Kind::Aead => format!("{AEAD}{cipher}"),
            Kind::Null => NULL.into(),
            Kind::Bare => BARE.into(),
            Kind::Udp => UDP.into(),
            Kind::UdpSegment => UDP_SEGMENT.into(),
        };
        let depth = match kind {
            Kind::Endpoint => endpoint::depth(self.plan.depth),
            _ => self.plan.depth,
        };
        let depth = depth.to_string();
        let mut labels = vec![("profile", self.link.profile.name()), ("size", size.name())];
        let has_depth = [Kind::Tipsec, Kind::Null, Kind::Bare, Kind::Endpoint];
        if has_depth.contains(&kind) {
            labels.push(("depth", &depth));
        }
        if kind == Kind::UdpSegment {
            labels.push(NOT_COMPARABLE);
        }
        // Ciphers alone are a benchmark within this one.
        let bench = if kind == Kind::Aead { "aead" } else { BENCH };
        Series::new(bench, name, &labels)
    }
}

/// Why a contender cannot run at a size.
fn why_not(size: FrameSize, kind: Kind) -> Option<String> {
    let longest = size.longest();
    if longest > FRAME_MAX && kind != Kind::Aead {
        return Some(format!(
            "a frame of {longest} bytes does not fit one chunk of frame memory ({FRAME_MAX} at \
             most), and this version joins no chunks"
        ));
    }
    if longest > xsk::FRAME_MAX && kind == Kind::Bare {
        return Some(format!(
            "the bare forwarder joins no chunks, as {longest} bytes would need"
        ));
    }
    if kind == Kind::UdpSegment && size.pattern().len() > 1 {
        return Some("UDP_SEGMENT cuts datagrams of one size only".into());
    }
    None
}

/// The product with a cipher chosen at run time.
fn tipsec<'a>(
    ends: &'a Ends<'a>,
    series: Series,
    provider: Provider,
    suite: Suite,
    size: FrameSize,
    plan: Plan,
) -> Box<dyn Contender + 'a> {
    match provider {
        Provider::Ring => Box::new(Tipsec::<Ring>::new(ends, series, suite, size, plan)),
        Provider::AwsLc => Box::new(Tipsec::<AwsLc>::new(ends, series, suite, size, plan)),
    }
}

/// Two embedded nodes with a cipher chosen at run time.
fn program<'a>(
    link: &'a Link,
    series: Series,
    provider: Provider,
    suite: Suite,
    size: FrameSize,
    plan: Plan,
) -> Box<dyn Contender + 'a> {
    match provider {
        Provider::Ring => Box::new(Program::<Ring>::new(link, series, suite, size, plan)),
        Provider::AwsLc => Box::new(Program::<AwsLc>::new(link, series, suite, size, plan)),
    }
}

/// The cipher alone, chosen at run time.
fn aead<'a>(
    series: Series,
    provider: Provider,
    suite: Suite,
    size: FrameSize,
    plan: Plan,
) -> Box<dyn Contender + 'a> {
    let core = plan.receive_core;
    match provider {
        Provider::Ring => Box::new(AeadCost::<Ring>::new(series, suite, size, core)),
        Provider::AwsLc => Box::new(AeadCost::<AwsLc>::new(series, suite, size, core)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ciphers_multiply_only_those_that_have_one() {
        let options = Options {
            sizes: vec![FrameSize::Imix],
            profiles: Vec::new(),
            contenders: Kind::ALL.into(),
            suites: Suite::ALL.into(),
            providers: options::PROVIDERS.into(),
            rounds: 1,
            sample: std::time::Duration::ZERO,
            depth: None,
        };
        assert_eq!(entries(&options).count(), 3 * 6 + 4);
        assert_eq!(able(&options, FrameSize::Imix).count(), 3 * 6 + 3);
        // All but the bare forwarder, which joins no chunks.
        assert_eq!(able(&options, FrameSize::B9000).count(), 3 * 6 + 3);
    }

    #[test]
    fn what_cannot_run_says_why() {
        let why = why_not(FrameSize::B9000, Kind::Bare).unwrap();
        assert!(why.contains("9000 bytes"), "{why}");
        assert!(why_not(FrameSize::B9000, Kind::Aead).is_none());
        assert!(why_not(FrameSize::Imix, Kind::UdpSegment).is_some());
        for size in [FrameSize::B64, FrameSize::B3400] {
            for kind in Kind::ALL {
                assert_eq!(why_not(size, kind), None);
            }
        }
    }
}
