//! `tipsec-bench tap`: what an application gets through Tipsec's tap, like for
//! like with other tunnels and with the wire in clear. Imports `peers`, `pair`,
//! `iperf`, `rounds`, `results`.
//!
//! * this file: options, who takes part, what is said about them;
//! * `through`: one contender and one kind of traffic, as rounds want it;
//! * `search`: the highest rate without loss (pure);
//! * `cpu`: how busy two cores are;
//! * `conclude`: what is set against what (pure).
//!
//! Every sample has a pair of namespaces, a wire and processes of its own, made
//! before and removed after it: so nobody else runs meanwhile, and nobody
//! profits from what is left of another.

use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::{Binaries, RunDirectory};
use crate::error::{Error, Result};
use crate::machine;
use crate::pair::WIRE_MTU;
use crate::peers::{self, Device, Peer};
use crate::report::Progress;
use crate::results::{Run, SCHEMA, Series, UNOPTIMISED};
use crate::rounds::{self, Contender};
use crate::wait;

mod conclude;
mod cpu;
mod search;
mod through;

use cpu::Reading;
use search::Grid;
use through::{Load, Setting, TRAFFIC, Through};

/// The benchmark's name.
const BENCH: &str = "tap";
/// Payload bytes of a datagram: with IPv4 and UDP headers (28 bytes) it fits
/// every tunnel on a wire of 1,500.
const DATAGRAM_BYTES: u32 = 1372;
const DATAGRAM_HEADERS: u32 = 28;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Peers by their names ([`peers::NAMES`]); Tipsec takes part anyway.
    pub peers: Vec<String>,
    /// Rounds, at least 1.
    pub rounds: usize,
    /// Seconds of TCP in a sample, warm-up not counted, at least 1.
    pub seconds: u32,
    /// Numbers of TCP streams to measure with.
    pub streams: Vec<u8>,
    /// Per cent between two rates that UDP is tried at, at least 1.
    pub udp_step_percent: u8,
    /// Where `tipsecd` and `tipsec-keyctl` are.
    pub binaries: PathBuf,
}

/// What was found out about a contender before the rounds.
struct Facts {
    version: String,
    device: Device,
    /// Offloads of its wire, as read back.
    features: String,
    notes: Vec<String>,
}

/// Who takes part, or why not.
struct Participant {
    peer: Box<dyn Peer>,
    facts: std::result::Result<Facts, String>,
}

/// Runs the benchmark. Everything that was made is gone when this returns.
///
/// # Errors
/// What stopped it. A peer that is not installed or does not work is skipped by
/// name, with the reason; Tipsec that does not work is an error.
pub fn run(options: &Options, progress: &Progress) -> Result<Run> {
    let binaries = Binaries::find(&options.binaries)?;
    let started = machine::now();
    let directory = RunDirectory::create(BENCH)?;
    let cores = choose_cores(&machine::cores()?)?;
    let grid = Grid::new(options.udp_step_percent);
    let setting = Setting::new(cores, directory.path(), grid)?;
    let mut participants = Vec::new();
    for peer in chosen(&options.peers, &binaries)? {
        participants.push(introduce(peer, &setting, progress)?);
    }
    let others = other_work(cores, progress)?;
    let loads = loads(&options.streams);
    let measured = measure(&participants, &loads, &setting, options, progress)?;
    let series = in_order(&participants, &loads, measured);
    let comparisons = conclude::compare(&series, &loads);
    Ok(Run {
        schema: SCHEMA,
        bench: BENCH.to_owned(),
        started,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: machine::look()?,
        rounds: options.rounds,
        pinning: pinning(cores),
        series,
        comparisons,
        notes: notes(&participants, &setting, options, others),
    })
}

/// How long the cores are watched before the rounds.
const WATCH: Duration = Duration::from_millis(500);
/// Core-seconds a second of others' work from which on figures are doubtful.
const NOISE_MAX: f64 = 0.1;

/// Busy cores while nothing of ours runs.
fn other_work(cores: [usize; 2], progress: &Progress) -> Result<f64> {
    let before = Reading::take(cores)?;
    wait::pass(WATCH)?;
    let busy = Reading::take(cores)?.busy_cores_since(&before);
    if busy > NOISE_MAX {
        progress.say(format!(
            "others keep {busy:.2} of the cores busy: the figures will be theirs, too"
        ));
    }
    Ok(busy)
}

/// Tipsec, and the peers of these names.
fn chosen(names: &[String], binaries: &Binaries) -> Result<Vec<Box<dyn Peer>>> {
    let mut chosen: Vec<Box<dyn Peer>> = peers::tipsec(binaries).into();
    for name in names {
        let peer = peers::by_name(name).ok_or_else(|| Error::Unavailable {
            name: name.clone(),
            why: format!("no such peer; there are {}", peers::NAMES.join(", ")),
        })?;
        if chosen.iter().all(|known| known.name() != peer.name()) {
            chosen.push(peer);
        }
    }
    Ok(chosen)
}

/// The first two that we may use; one for both ends where there is no other.
fn choose_cores(allowed: &[usize]) -> Result<[usize; 2]> {
    match *allowed {
        [near, far, ..] => Ok([near, far]),
        [only] => Ok([only, only]),
        [] => Err(Error::Unreadable {
            what: "the allowed cores".into(),
            detail: "there are none".into(),
        }),
    }
}

fn pinning(cores: [usize; 2]) -> String {
    let [near, far] = cores;
    let alike = "each end's tunnel processes and iperf3, for every contender alike";
    if near == far {
        return format!("one core for both ends, {near}: {alike}; set no figure against others");
    }
    format!("sender on core {near}, receiver on core {far}: {alike}")
}

fn loads(streams: &[u8]) -> Vec<Load> {
    let mut loads: Vec<Load> = Vec::new();
    for &streams in streams {
        let load = Load::Tcp { streams };
        if !loads.contains(&load) {
            loads.push(load);
        }
    }
    loads.push(Load::Udp);
    loads
}

/// Starts a contender once, to see that it works and what it is.
fn introduce(
    peer: Box<dyn Peer>,
    setting: &Setting<'_>,
    progress: &Progress,
) -> Result<Participant> {
    let name = peer.name();
    let version = match peer.is_available() {
        Ok(version) => version,
        Err(why) if peer.is_tipsec() => return Err(why.into_error(name)),
        Err(why) => {
            progress.say(format!("{name}: skipped, {why}"));
            let facts = Err(why.to_string());
            return Ok(Participant { peer, facts });
        }
    };
    let facts = setting.with_tunnel(peer.as_ref(), |pair, tunnel| {
        let device = Device::look_up(&pair.ends[0], tunnel.device())?;
        check_mtu(name, device.mtu)?;
        Ok(Facts {
            version: version.to_string(),
            device,
            features: pair.features()?,
            notes: tunnel.notes(),
        })
    });
    let facts = match facts {
        Ok(facts) => {
            progress.say(describe(peer.as_ref(), &facts));
            Ok(facts)
        }
        Err(error @ Error::Peer { .. }) => {
            let reason = format!("before the rounds, {}", error.line());
            progress.say(format!("{name}: SKIPPED, {reason}"));
            Err(reason)
        }
        Err(error) => return Err(error),
    };
    Ok(Participant { peer, facts })
}

/// Whether the datagrams fit the device.
fn check_mtu(name: &str, mtu: u32) -> Result<()> {
    if mtu >= DATAGRAM_BYTES + DATAGRAM_HEADERS {
        return Ok(());
    }
    Err(Error::Unreadable {
        what: format!("{name}'s device"),
        detail: format!(
            "datagrams of {DATAGRAM_BYTES} bytes and their headers do not fit its MTU of {mtu}"
        ),
    })
}

fn describe(peer: &dyn Peer, facts: &Facts) -> String {
    let Facts {
        version,
        device,
        features,
        notes,
    } = facts;
    let mut words = vec![
        format!("{version}"),
        peer.cipher().to_owned(),
        format!("device of kind {}, MTU {}", device.kind, device.mtu),
    ];
    words.extend(notes.iter().cloned());
    words.push(format!("{} ({features})", peer.offloads().describe()));
    format!("{}: {}", peer.name(), words.join("; "))
}

fn measure(
    participants: &[Participant],
    loads: &[Load],
    setting: &Setting<'_>,
    options: &Options,
    progress: &Progress,
) -> Result<Vec<Series>> {
    let mut contenders: Vec<Box<dyn Contender + '_>> = Vec::new();
    for load in loads {
        for participant in participants {
            if participant.facts.is_ok() {
                let series = empty_series(participant, *load);
                let peer = participant.peer.as_ref();
                contenders.push(Box::new(Through::new(peer, *load, series, setting)));
            }
        }
    }
    let mut countdown = progress.countdown(contenders.len() * options.rounds);
    let duration = Duration::from_secs(options.seconds.into());
    rounds::run(&mut contenders, options.rounds, duration, &mut countdown)
}

fn empty_series(participant: &Participant, load: Load) -> Series {
    let traffic = load.name();
    Series::new(BENCH, participant.peer.name(), &[(TRAFFIC, &traffic)])
}

/// What was measured, and in their places what was not.
fn in_order(participants: &[Participant], loads: &[Load], measured: Vec<Series>) -> Vec<Series> {
    let mut measured = measured.into_iter();
    let mut series = Vec::new();
    for load in loads {
        for participant in participants {
            match &participant.facts {
                Ok(_) => series.extend(measured.next()),
                Err(why) => series.push(empty_series(participant, *load).skipped(why)),
            }
        }
    }
    series
}

fn notes(
    participants: &[Participant],
    setting: &Setting<'_>,
    options: &Options,
    others: f64,
) -> Vec<String> {
    let mut notes = Vec::from_iter(cfg!(debug_assertions).then(|| UNOPTIMISED.to_owned()));
    notes.extend([
        format!(
            "one veth pair, MTU {WIRE_MTU}, one queue each way, no bridge, made anew for every \
             sample; offloads as said with each contender"
        ),
        format!(
            "UDP: the highest rate on a grid of {} % at which iperf3 keeps its pace and at most \
             {} of datagrams of {DATAGRAM_BYTES} bytes get lost, the better of {} trials a rate; \
             iperf3's sockets hold {} bytes; Tipsec's losses are those of all trials, most of them \
             offered too much on purpose",
            options.udp_step_percent,
            through::LOSS_MAX,
            through::ATTEMPTS,
            setting.buffer_bytes(),
        ),
        format!(
            "cpu: time that both cores were not idle, in all processes and the kernel, iperf3 \
             included; before the rounds, others kept {others:.2} of them busy"
        ),
    ]);
    for participant in participants {
        if let Ok(facts) = &participant.facts {
            notes.push(describe(participant.peer.as_ref(), facts));
        }
    }
    notes.extend(setting.remarks());
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binaries() -> Binaries {
        Binaries {
            tipsecd: "/nowhere/tipsecd".into(),
            drill_tipsecd: "/nowhere/drill/tipsecd".into(),
            keyctl: "/nowhere/tipsec-keyctl".into(),
        }
    }

    fn names(peers: &[&str]) -> Result<Vec<&'static str>> {
        let peers: Vec<String> = peers.iter().map(|&name| name.to_owned()).collect();
        let chosen = chosen(&peers, &binaries())?;
        Ok(chosen.iter().map(|peer| peer.name()).collect())
    }

    #[test]
    fn tipsec_takes_part_anyway_and_nobody_twice() {
        let all = names(&["openvpn", "boringtun", "openvpn"]).unwrap();
        assert_eq!(all, ["tipsec", "tipsec-chacha20", "openvpn", "boringtun"]);
        let error = names(&["opnevpn"]).unwrap_err().to_string();
        assert!(
            error.contains("opnevpn") && error.contains("wireguard-go"),
            "{error}"
        );
    }

    #[test]
    fn each_end_has_its_core_where_there_are_two() {
        assert_eq!(choose_cores(&[2, 5, 6]).unwrap(), [2, 5]);
        assert_eq!(choose_cores(&[3]).unwrap(), [3, 3]);
        assert!(pinning([3, 3]).contains("one core"));
        assert!(choose_cores(&[]).is_err());
    }

    #[test]
    fn who_is_not_there_keeps_its_place() {
        let participant = |name: &str, facts| Participant {
            peer: peers::by_name(name).unwrap(),
            facts,
        };
        let facts = || Facts {
            version: "1".into(),
            device: Device {
                mtu: 1440,
                kind: "tun".into(),
            },
            features: String::new(),
            notes: Vec::new(),
        };
        let participants = [
            participant("boringtun", Err("not installed: x".into())),
            participant("openvpn", Ok(facts())),
        ];
        let loads = loads(&[1, 4, 1]);
        assert_eq!(loads.len(), 3, "one stream, four, datagrams");
        let measured = loads
            .iter()
            .map(|load| empty_series(&participants[1], *load))
            .collect();
        let series = in_order(&participants, &loads, measured);
        let shown: Vec<_> = series
            .iter()
            .map(|s| (s.contender.as_str(), s.skipped.is_some(), s.label(TRAFFIC)))
            .collect();
        let both = |traffic| [("boringtun", true, traffic), ("openvpn", false, traffic)];
        assert_eq!(shown, ["tcp", "tcp, 4 streams", "udp"].map(both).concat());
    }
}
