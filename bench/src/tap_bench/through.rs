//! One contender under one kind of traffic: a sample starts it, loads it, reads
//! its books and removes it. Imports `peers`, `pair`, `iperf`, `rounds`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::DATAGRAM_BYTES;
use super::cpu::Reading;
use super::search::Grid;
use crate::accounts::Balance;
use crate::cluster::make_directory;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::iperf::{self, Outcome, Plan, Traffic};
use crate::pair::Pair;
use crate::peers::{self, Peer, Tunnel};
use crate::results::{CPU_NS, MPPS, Sample, Series};
use crate::rounds::Contender;
use crate::wait;

/// Metric: Gbit/s of payload that arrived.
pub(super) const THROUGHPUT: &str = "throughput";
/// Metric: Gbit of payload for each second of work of a core.
const PER_CORE: &str = "per core-second";
/// Metric: core-seconds of work a second, of both cores.
const BUSY: &str = "busy cores";
/// Metric: TCP segments sent again.
const RETRANSMITS: &str = "retransmits";

/// Of the datagrams of a trial, at most so many may get lost for its rate to
/// count as one without loss.
pub(super) const LOSS_MAX: f64 = 0.001;
/// Of the rate asked for, at least so much has to arrive: else the sender could
/// not keep the pace, and a higher rate would be one in name only.
const PACE_MIN: f64 = 0.98;
/// Trials of a rate before it counts as too high: on a shared machine one may
/// fail for reasons of its own.
pub(super) const ATTEMPTS: usize = 2;
/// Seconds of a trial, at most.
const TRIAL_S_MAX: u32 = 2;
/// Seconds of TCP before those that count.
const WARM_UP_S: u32 = 1;
/// The rate of the first trial of the first round, in Mbit/s.
const FIRST_MBIT_S: u32 = 300;
/// Remarks kept.
const REMARKS_MAX: usize = 50;
/// CPU time is read so long after traffic begins, and so long before it ends.
const MARGIN: Duration = Duration::from_millis(250);

/// Label: the kind of traffic.
pub(super) const TRAFFIC: &str = "traffic";

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Load {
    /// As fast as it goes.
    Tcp {
        /// At a time.
        streams: u8,
    },
    /// At the highest rate without loss.
    Udp,
}

impl Load {
    /// The one label of its series, [`TRAFFIC`]: others would keep contenders
    /// apart in a report.
    pub(super) fn name(self) -> String {
        match self {
            Self::Tcp { streams: 1 } => "tcp".to_owned(),
            Self::Tcp { streams } => format!("tcp, {streams} streams"),
            Self::Udp => "udp".to_owned(),
        }
    }
}

/// Where contenders run.
pub(super) struct Setting<'a> {
    cores: [usize; 2],
    directory: &'a Path,
    grid: Grid,
    /// Of iperf3's UDP sockets.
    buffer_bytes: u32,
    starts: Cell<u32>,
    remarks: RefCell<Vec<String>>,
}

impl<'a> Setting<'a> {
    /// Works on `cores` and in `directory`, and tries rates of `grid`.
    ///
    /// # Errors
    /// Those of [`iperf::smooth_buffer_bytes`].
    pub(super) fn new(cores: [usize; 2], directory: &'a Path, grid: Grid) -> Result<Self> {
        Ok(Self {
            cores,
            directory,
            grid,
            buffer_bytes: iperf::smooth_buffer_bytes()?,
            starts: Cell::new(0),
            remarks: RefCell::default(),
        })
    }

    /// Bytes that iperf3's UDP sockets hold, as asked for.
    pub(super) fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// What a reader should know of: processes that had to be killed, samples
    /// that had to be taken again.
    pub(super) fn remarks(&self) -> Vec<String> {
        self.remarks.borrow().clone()
    }

    fn remark(&self, text: String) {
        let mut remarks = self.remarks.borrow_mut();
        match remarks.len() {
            REMARKS_MAX.. => {}
            len if len + 1 == REMARKS_MAX => remarks.push("and so on".to_owned()),
            _ => remarks.push(text),
        }
    }

    /// Starts `peer` on a wire of its own and removes both after `inside`.
    ///
    /// # Errors
    /// Those of the peer and of `inside`, which are [`Error::Peer`] unless the
    /// peer is Tipsec; and those of the harness.
    pub(super) fn with_tunnel<T>(
        &self,
        peer: &dyn Peer,
        inside: impl FnOnce(&Pair, &mut dyn Tunnel) -> Result<T>,
    ) -> Result<T> {
        let start = self.starts.get();
        self.starts.set(start + 1);
        let home = self.directory.join(format!("{start}-{}", peer.name()));
        make_directory(&home)?;
        let pair = Pair::create(self.cores, peer.offloads())?;
        let carried = self.carry(peer, &pair, &home, inside);
        drop(pair);
        let removed = fs::remove_dir_all(&home);
        if carried.is_err() {
            // Ctrl-C ends the peer's processes, too, and perhaps they told first.
            interrupt::check()?;
        }
        let result = carried.map_err(|error| blame(peer, error))?;
        removed.map_err(Error::io(format!("remove {}", home.display())))?;
        Ok(result)
    }

    /// All that is the peer's part; nothing of it runs after this.
    fn carry<T>(
        &self,
        peer: &dyn Peer,
        pair: &Pair,
        home: &Path,
        inside: impl FnOnce(&Pair, &mut dyn Tunnel) -> Result<T>,
    ) -> Result<T> {
        let mut tunnel = peer.start(pair, home)?;
        peers::wait_until_it_carries(peer.name(), tunnel.as_mut(), pair)?;
        let result = inside(pair, tunnel.as_mut())?;
        tunnel.check_running()?;
        for name in tunnel.stop() {
            self.remark(format!("did not leave when asked: {name}"));
        }
        Ok(result)
    }
}

/// A contender for [`crate::rounds`].
pub(super) struct Through<'a> {
    peer: &'a dyn Peer,
    load: Load,
    series: Series,
    setting: &'a Setting<'a>,
    /// Where the search found the last round's rate.
    place: usize,
}

impl<'a> Through<'a> {
    /// `series`: its name and labels.
    pub(super) fn new(
        peer: &'a dyn Peer,
        load: Load,
        series: Series,
        setting: &'a Setting<'a>,
    ) -> Self {
        Self {
            peer,
            load,
            series,
            setting,
            place: setting.grid.place_below(FIRST_MBIT_S),
        }
    }
}

impl Contender for Through<'_> {
    fn series(&self) -> Series {
        self.series.clone()
    }

    /// Searches, in many trials.
    fn is_short(&self) -> bool {
        false
    }

    fn sample(&mut self, duration: Duration) -> Result<Sample> {
        let seconds = u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).max(1);
        let (found, sample) = self.setting.with_tunnel(self.peer, |pair, tunnel| {
            tunnel.open_books(pair)?;
            let (found, mut sample) = match self.load {
                Load::Tcp { streams } => (self.place, self.tcp(pair, tunnel, streams, seconds)?),
                Load::Udp => self.udp(pair, tunnel, seconds)?,
            };
            if let Some(balance) = tunnel.close_books(pair)? {
                enter(balance, &mut sample);
            }
            Ok((found, sample))
        })?;
        self.place = found;
        Ok(sample)
    }
}

impl Through<'_> {
    fn tcp(
        &self,
        pair: &Pair,
        tunnel: &mut dyn Tunnel,
        streams: u8,
        seconds: u32,
    ) -> Result<Sample> {
        let plan = Plan {
            streams,
            warm_up_s: WARM_UP_S,
            ..Plan::new(Traffic::Tcp, seconds)
        };
        let mut attempt = 1;
        let measured = loop {
            match load_it(pair, tunnel, plan) {
                Err(error) if attempt < ATTEMPTS && is_of_iperf(&error) => {
                    self.remark("TCP", &error);
                    attempt += 1;
                }
                result => break result?,
            }
        };
        let mut metrics = throughput(&measured);
        let retransmits = measured.outcome.retransmits as f64;
        metrics.push((RETRANSMITS, "segments", retransmits));
        Ok(Sample {
            metrics,
            ..Sample::default()
        })
    }

    /// The place of the highest rate without loss, and what it was like there.
    fn udp(&self, pair: &Pair, tunnel: &mut dyn Tunnel, seconds: u32) -> Result<(usize, Sample)> {
        let grid = self.setting.grid;
        let seconds = seconds.min(TRIAL_S_MAX);
        let found = grid.highest(self.place, |place| {
            let rate_mbit_s = grid.rate_mbit_s(place);
            for _ in 0..ATTEMPTS {
                let plan = self.udp_plan(rate_mbit_s, seconds);
                let trial = load_it(pair, tunnel, plan);
                match trial {
                    Ok(measured) if is_without_loss(&measured.outcome, rate_mbit_s) => {
                        return Ok(Some(measured));
                    }
                    Ok(_) => {}
                    // Its own messages go through the tunnel that it floods.
                    Err(error) if is_of_iperf(&error) => {
                        self.remark(&format!("UDP at {rate_mbit_s} Mbit/s"), &error);
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(None)
        })?;
        let Some((place, measured)) = found else {
            return Err(no_rate_passed(self.peer.name(), grid));
        };
        Ok((place, udp_sample(&measured)))
    }

    fn udp_plan(&self, rate_mbit_s: u32, seconds: u32) -> Plan {
        let traffic = Traffic::Udp {
            datagram_bytes: DATAGRAM_BYTES,
            rate_mbit_s,
        };
        Plan {
            smooth: Some(self.setting.buffer_bytes),
            ..Plan::new(traffic, seconds)
        }
    }

    fn remark(&self, what: &str, error: &Error) {
        let name = self.peer.name();
        self.setting
            .remark(format!("{name}, {what}, tried again: {error}"));
    }
}

/// What ends a series alone, and what ends the run: an interruption, and
/// whatever goes wrong with Tipsec.
pub(super) fn blame(peer: &dyn Peer, error: Error) -> Error {
    match error {
        Error::Interrupted => error,
        _ if peer.is_tipsec() => error,
        _ => Error::Peer {
            name: peer.name().to_owned(),
            source: Box::new(error),
        },
    }
}

/// Whether iperf3 gave up, as opposed to the tunnel or the harness.
fn is_of_iperf(error: &Error) -> bool {
    matches!(error, Error::Unreadable { .. } | Error::Timeout { .. })
}

fn no_rate_passed(name: &str, grid: Grid) -> Error {
    Error::Failed {
        what: format!("find a rate of UDP without loss through {name}"),
        detail: format!("no rate passed, not even {} Mbit/s", grid.rate_mbit_s(0)),
    }
}

/// What became of Tipsec's frames, in all trials.
fn enter(balance: Balance, sample: &mut Sample) {
    sample.drops.extend(balance.lost);
    sample.unaccounted = i64::try_from(balance.unaccounted_frames).unwrap_or(i64::MAX);
}

/// What iperf3 saw, and how many cores were busy.
struct Measured {
    outcome: Outcome,
    busy_cores: f64,
}

fn load_it(pair: &Pair, tunnel: &mut dyn Tunnel, plan: Plan) -> Result<Measured> {
    let [near, far] = &pair.ends;
    let cores = [near.core, far.core];
    let plan = Plan {
        cores: Some(cores),
        ..plan
    };
    let target = tunnel.target().to_string();
    // A process that has ended is the reason for whatever iperf3 says.
    let run = iperf::start_planned(&near.namespace, &far.namespace, &target, plan);
    tunnel.check_running()?;
    let run = run?;
    wait::pass(Duration::from_secs(plan.warm_up_s.into()) + MARGIN)?;
    let before = Reading::take(cores)?;
    let counted = Duration::from_secs(plan.seconds.into());
    wait::pass(counted.saturating_sub(2 * MARGIN))?;
    let busy_cores = Reading::take(cores)?.busy_cores_since(&before);
    let outcome = run.finish();
    tunnel.check_running()?;
    Ok(Measured {
        outcome: outcome?,
        busy_cores,
    })
}

fn is_without_loss(outcome: &Outcome, rate_mbit_s: u32) -> bool {
    let lost = outcome.lost_datagrams as f64;
    outcome.datagrams > 0
        && lost <= outcome.datagrams as f64 * LOSS_MAX
        && outcome.received_mbit_s >= f64::from(rate_mbit_s) * PACE_MIN
}

fn udp_sample(measured: &Measured) -> Sample {
    let mut metrics = throughput(measured);
    let datagrams_s = measured.outcome.received_mbit_s * 1e6 / 8.0 / f64::from(DATAGRAM_BYTES);
    metrics.push((MPPS, "Mpps", datagrams_s / 1e6));
    let cpu_ns = measured.busy_cores / datagrams_s * 1e9;
    metrics.push((CPU_NS, "ns/frame", cpu_ns));
    let lost = measured.outcome.lost_datagrams;
    Sample {
        metrics,
        drops: BTreeMap::from([("datagrams, at the rate reported".to_owned(), lost)]),
        unaccounted: 0,
    }
}

fn throughput(measured: &Measured) -> Vec<(&'static str, &'static str, f64)> {
    let gbit_s = measured.outcome.received_mbit_s / 1e3;
    // A clock of 10 ms may see no work where there was little.
    let busy = measured.busy_cores.max(0.01);
    vec![
        (THROUGHPUT, "Gbit/s", gbit_s),
        (BUSY, "cores", measured.busy_cores),
        (PER_CORE, "Gbit", gbit_s / busy),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(received_mbit_s: f64, lost_datagrams: u64) -> Outcome {
        Outcome {
            received_mbit_s,
            seconds: 1.0,
            datagrams: 10_000,
            lost_datagrams,
            retransmits: 0,
        }
    }

    #[test]
    fn a_rate_passes_with_next_to_no_loss_at_its_pace() {
        assert!(is_without_loss(&outcome(100.0, 10), 100));
        assert!(!is_without_loss(&outcome(100.0, 11), 100), "lost too many");
        assert!(is_without_loss(&outcome(98.0, 0), 100));
        assert!(!is_without_loss(&outcome(97.0, 0), 100), "pace not kept");
        let nothing = Outcome::default();
        assert!(!is_without_loss(&nothing, 0), "nothing was sent");
    }

    #[test]
    fn work_is_set_against_what_arrived() {
        let measured = Measured {
            outcome: outcome(1097.6, 3),
            busy_cores: 1.5,
        };
        let sample = udp_sample(&measured);
        let value = |name: &str| {
            let found = sample.metrics.iter().find(|(key, ..)| *key == name);
            found.map(|(.., value)| *value).unwrap()
        };
        // 1097.6 Mbit/s are 100,000 datagrams of 1372 bytes a second.
        assert!((value(MPPS) - 0.1).abs() < 1e-9);
        assert!((value(CPU_NS) - 15_000.0).abs() < 1e-6);
        assert!((value(PER_CORE) - 1.0976 / 1.5).abs() < 1e-9);
        assert_eq!(sample.drops.values().sum::<u64>(), 3);
    }

    #[test]
    fn a_peer_fails_by_itself_and_tipsec_with_the_run() {
        let failure = || no_rate_passed("somebody", Grid::new(5));
        for name in peers::NAMES {
            let peer = peers::by_name(name).unwrap();
            let text = match blame(peer.as_ref(), failure()) {
                error @ Error::Peer { .. } => error.line(),
                other => panic!("{name}: {other:?}"),
            };
            assert!(
                text.starts_with(name) && text.contains("not even 10 Mbit/s"),
                "{text}"
            );
            let interrupted = blame(peer.as_ref(), Error::Interrupted);
            assert!(matches!(interrupted, Error::Interrupted), "{name}");
        }
        let binaries = crate::cluster::Binaries {
            tipsecd: "/nowhere/tipsecd".into(),
            drill_tipsecd: "/nowhere/drill/tipsecd".into(),
            keyctl: "/nowhere/tipsec-keyctl".into(),
        };
        for tipsec in peers::tipsec(&binaries) {
            let error = blame(tipsec.as_ref(), failure());
            assert!(matches!(error, Error::Failed { .. }), "{error:?}");
        }
    }

    #[test]
    fn unaccounted_frames_reach_the_sample() {
        let mut sample = Sample::default();
        let balance = Balance {
            lost: [("rx_replayed".to_owned(), 4)].into(),
            unaccounted_frames: 2,
            ..Balance::default()
        };
        enter(balance, &mut sample);
        assert_eq!((sample.drops["rx_replayed"], sample.unaccounted), (4, 2));
    }
}
