//! Two programs that are nodes: one asks, the other answers.
//!
//! ```text
//! echo --config FILE --serve
//! echo --config FILE --to NODE --count N [--size BYTES]
//! ```
//!
//! FILE is a configuration as of `tipsecd`, best with `[tap] enabled = false`;
//! no `tipsecd` may run on the same NIC queues. Give each node the master key by
//! `tipsec-keyctl --socket … master set`, as always. The one that asks sends N
//! numbered messages, sends again what is not answered, and ends when all are.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CpuSet, sched_setaffinity};
use tipsec_control::config::Config;
use tipsec_control::embed::{AwsLc, Endpoint, Node, NodeId, Stopped};

/// Messages for each endpoint that may wait for their answers; a burst.
const WINDOW: u64 = 64;
/// After so long without an answer, those that are missing were lost.
const LOST_AFTER: Duration = Duration::from_millis(200);
/// How often to look whether it is time to end: well below the link tolerance.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The same for who asks.
const ASK_INTERVAL: Duration = Duration::from_millis(5);
/// Bytes of a message's number.
const NUMBER_LEN: usize = 8;

/// Sends messages from node to node, and back.
#[derive(Parser)]
struct Arguments {
    /// The node's configuration, as of tipsecd
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Answer every message with itself, until SIGINT or SIGTERM
    #[arg(long, conflicts_with = "to")]
    serve: bool,

    /// Ask this node
    #[arg(long, value_name = "NODE", required_unless_present = "serve")]
    to: Option<u32>,

    /// So many messages
    #[arg(long, value_name = "N", default_value_t = 1000)]
    count: u64,

    /// Of so many bytes, 8 at least
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    size: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    // The process holds keys: no core dump, no reading by others of our user.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let asked_to_end = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&asked_to_end))?;
    }
    let config = Config::load(&arguments.config)?;
    let (node, mut endpoints) = Node::start::<AwsLc>(&config)?;
    let Some(to) = arguments.to else {
        on_every(&node, &mut endpoints, |_, endpoint| {
            serve(endpoint, &asked_to_end)
        });
        return Ok(node.stop()?);
    };
    let to = NodeId::new(to).ok_or("0 is no node id")?;
    for endpoint in &endpoints {
        let sizes = NUMBER_LEN..=endpoint.max_message();
        if !sizes.contains(&arguments.size) {
            return Err(format!("--size must be in {sizes:?}").into());
        }
    }
    let asking = Asking::new(to, &arguments, endpoints.len());
    on_every(&node, &mut endpoints, |lane, endpoint| {
        asking.run(lane, endpoint, &asked_to_end)
    });
    node.stop()?;
    Ok(asking.outcome()?)
}

/// Runs `work` with every endpoint and its number, each on a thread and, if one
/// is configured, a core of its own, until all have returned.
fn on_every<F>(node: &Node, endpoints: &mut [Endpoint<AwsLc>], work: F)
where
    F: Fn(usize, &mut Endpoint<AwsLc>) -> Result<(), Stopped> + Sync,
{
    let work = &work;
    std::thread::scope(|scope| {
        for (lane, (endpoint, &core)) in endpoints.iter_mut().zip(node.cores()).enumerate() {
            scope.spawn(move || {
                if let Some(core) = core {
                    let mut only = CpuSet::new();
                    only.set(core as usize);
                    if let Err(error) = sched_setaffinity(None, &only) {
                        tracing::warn!("endpoint {lane} is not pinned to core {core}: {error}");
                    }
                }
                if let Err(stopped) = work(lane, endpoint) {
                    tracing::error!("{stopped}");
                }
            });
        }
    });
}

/// Answers every message with itself, in the frame that it came in.
fn serve(endpoint: &mut Endpoint<AwsLc>, asked_to_end: &AtomicBool) -> Result<(), Stopped> {
    while !asked_to_end.load(Ordering::Relaxed) {
        // Also sends what was answered in the last turn.
        endpoint.wait(LOOK_INTERVAL)?;
        endpoint.receive(|mut message| {
            let len = message.payload_mut().len();
            // Without room or key the question is lost, as it could be on the
            // wire; who asked asks again.
            if let Ok(answer) = message.answer() {
                let _ = answer.commit(len);
            }
        });
    }
    Ok(())
}

/// What the threads that ask have in common: an answer may come to any of them.
struct Asking {
    to: NodeId,
    size: usize,
    answered: Vec<AtomicBool>,
    /// How many of them are answered, of those that each lane asks: lane `i` of
    /// `n` asks `i`, `i + n`, `i + 2n` …
    of_lane: Vec<AtomicU64>,
    sent: AtomicU64,
}

impl Asking {
    fn new(to: NodeId, arguments: &Arguments, lanes: usize) -> Self {
        let unanswered = || AtomicBool::new(false);
        Self {
            to,
            size: arguments.size,
            answered: (0..arguments.count).map(|_| unanswered()).collect(),
            of_lane: (0..lanes).map(|_| AtomicU64::new(0)).collect(),
            sent: AtomicU64::new(0),
        }
    }

    /// Asks, and takes answers, until all of them are there.
    fn run(
        &self,
        lane: usize,
        endpoint: &mut Endpoint<AwsLc>,
        asked_to_end: &AtomicBool,
    ) -> Result<(), Stopped> {
        // How many of this lane's messages were asked.
        let mut asked = 0;
        let mut seen = (0, Instant::now());
        while self.left() > 0 && !asked_to_end.load(Ordering::Relaxed) {
            let answered = self.of_lane[lane].load(Ordering::Relaxed);
            if seen.0 != answered {
                seen = (answered, Instant::now());
            } else if seen.1.elapsed() >= LOST_AFTER {
                // What is not answered by now is asked once more.
                asked = 0;
                seen.1 = Instant::now();
            }
            self.ask(lane, endpoint, &mut asked);
            // Sends it, and works until there is an answer; but that may come
            // to another endpoint.
            endpoint.wait(ASK_INTERVAL)?;
            self.take_answers(endpoint);
        }
        Ok(())
    }

    /// How many answers are missing.
    fn left(&self) -> u64 {
        let answered = self.of_lane.iter().map(|lane| lane.load(Ordering::Relaxed));
        self.answered.len() as u64 - answered.sum::<u64>()
    }

    /// The next number of this lane without an answer, if one more may wait.
    fn next(&self, lane: usize, asked: &mut usize) -> Option<usize> {
        let answered = self.of_lane[lane].load(Ordering::Relaxed);
        while (*asked as u64) < answered + WINDOW {
            let number = lane + *asked * self.of_lane.len();
            let is_answered = self.answered.get(number)?.load(Ordering::Relaxed);
            *asked += 1;
            if !is_answered {
                return Some(number);
            }
        }
        None
    }

    /// Commits what may be asked and has room.
    fn ask(&self, lane: usize, endpoint: &mut Endpoint<AwsLc>, asked: &mut usize) {
        // No room, or no key yet: another time.
        while let Ok(mut frame) = endpoint.reserve(self.to) {
            let Some(number) = self.next(lane, asked) else {
                // The frame is free again.
                break;
            };
            // It holds what an earlier frame left there.
            let message = &mut frame.payload_mut()[..self.size];
            message.fill(0);
            message[..NUMBER_LEN].copy_from_slice(&(number as u64).to_be_bytes());
            if frame.commit(self.size).is_ok() {
                self.sent.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn take_answers(&self, endpoint: &mut Endpoint<AwsLc>) {
        while let Some(mut message) = endpoint.next_message() {
            let from = message.from();
            let payload = message.payload_mut();
            let is_answer = from == self.to && payload.len() == self.size;
            let Some(number) = payload.first_chunk().filter(|_| is_answer) else {
                continue;
            };
            let Ok(number) = usize::try_from(u64::from_be_bytes(*number)) else {
                continue;
            };
            let place = self.answered.get(number);
            // An answer may come twice, to a message that was sent twice.
            if place.is_some_and(|answered| !answered.swap(true, Ordering::Relaxed)) {
                let lane = number % self.of_lane.len();
                self.of_lane[lane].fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn outcome(&self) -> Result<(), String> {
        let left = self.left();
        let answered = self.answered.len() as u64 - left;
        let sent = self.sent.load(Ordering::Relaxed);
        println!("{answered} messages answered, {sent} sent");
        match left {
            0 => Ok(()),
            left => Err(format!("{left} messages were not answered")),
        }
    }
}
