//! The story of `tipsec-bench demo`: a cluster comes up from one master key,
//! carries traffic while it rekeys each second, a node joins, a node is
//! killed; and the checks. Imports everything above it in the crate.
//!
//! What each check would catch:
//!
//! | check | catches |
//! |---|---|
//! | the captures can see | a filter or a socket that sees nothing, so that silence would prove nothing |
//! | only Tipsec frames | a frame that left a node in clear, or whatever else speaks on the wire |
//! | marker not seen | a payload in clear inside a frame of ours |
//! | packet numbers unique | a counter reset or an SA installed twice: a nonce used twice |
//! | no loss for key reasons | a sender ahead of its receiver, keys retired too early, a rekey that is not hitless |
//! | every frame accounted for | a loss that nobody counts, a frame counted twice, a forged one |
//! | rekeyed in every phase | a test of rekeying without rekeys |
//! | times | handshakes that need retries, state of a dead process in the way |

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::accounts::Cut;
use crate::books;
use crate::capture::{self, Capture};
use crate::cluster::{Binaries, Cluster};
use crate::error::{Error, Result};
use crate::keyctl;
use crate::load::{Echo, PORT, Prober};
use crate::report::{Progress, Summary};
use crate::wait::{self, Look};

mod checks;
mod kill;
mod traffic;

/// All links have to be up so long after the last node got its key.
const LINKS_WITHIN: Duration = Duration::from_secs(5);
/// A further node's links have to be up so long after its start.
const JOIN_WITHIN: Duration = Duration::from_secs(5);
/// Injected frames have to be seen by then.
const SEEN_WITHIN: Duration = Duration::from_secs(3);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes at the start; one more joins.
    pub nodes: u8,
    /// Seconds of traffic, about.
    pub seconds: u32,
    /// Where `tipsecd` and `tipsec-keyctl` are.
    pub binaries: PathBuf,
}

/// Everything that the parts of the story share.
struct Stage<'a> {
    cluster: Cluster,
    capture: Capture,
    summary: &'a mut Summary,
    progress: &'a Progress,
    /// Nodes at the start; the joining one has this index.
    nodes: usize,
    /// Rekeys fell silent in these phases.
    phases_without_rekey: Vec<String>,
}

/// Tells the story. The summary is filled as far as it got; everything that was
/// made is gone when this returns.
///
/// # Errors
/// What stopped it. A failed check is none: it is in the summary.
pub fn run(options: &Options, summary: &mut Summary, progress: &Progress) -> Result<()> {
    summary.nodes = options.nodes;
    let binaries = Binaries::find(&options.binaries)?;
    progress.say(format!(
        "making {} namespaces joined by a bridge, one of them for a node that joins later",
        options.nodes + 1
    ));
    let cluster = Cluster::create("demo", options.nodes + 1, binaries)?;
    let capture = Capture::start(&cluster.topology)?;
    let mut stage = Stage {
        cluster,
        capture,
        summary,
        progress,
        nodes: usize::from(options.nodes),
        phases_without_rekey: Vec::new(),
    };
    let result = stage.tell(options.seconds);
    let failed = result.is_err() || stage.summary.checks.iter().any(|check| !check.passed);
    if failed && !matches!(result, Err(Error::Interrupted)) {
        stage.tell_what_daemons_say();
    }
    result
}

impl Stage<'_> {
    fn tell(&mut self, seconds: u32) -> Result<()> {
        self.prove_sight()?;
        self.raise()?;
        let before = self.take_books()?;
        self.set_rekey_interval("1s")?;
        self.traffic(seconds)?;
        let quiet = self.quiesce("without a kill")?;
        let balance = crate::accounts::balance(&before, &quiet, None);
        self.check_balance("before the kill", &balance);
        self.summary.balance = Some(balance);

        self.set_rekey_interval("1s")?;
        let victim = self.kill_and_restart(seconds)?;
        let end = self.quiesce("with the kill")?;
        let balance = crate::accounts::balance(&quiet, &end, Some(victim));
        self.check_balance("around the kill", &balance);
        self.summary.balance_kill = Some(balance);

        self.check_wire();
        self.check_rekeys();
        self.show_peers()?;
        let stubborn = self.cluster.stop();
        self.summary.check(
            "daemons leave when asked",
            stubborn.is_empty(),
            if stubborn.is_empty() {
                "all of them, with success".to_owned()
            } else {
                stubborn.join("; ")
            },
        );
        Ok(())
    }

    /// Before any daemon runs: a plain frame, and a frame of ours with a plain
    /// payload, have to be seen by every detector on every port.
    fn prove_sight(&mut self) -> Result<()> {
        let ports = self.cluster.topology.ports.len() as u64;
        capture::inject_plain(&self.cluster.topology, 0, 1)?;
        let capture = &mut self.capture;
        let seen = wait::until(
            "the captures to see what was injected",
            SEEN_WITHIN,
            Duration::from_millis(5),
            || {
                let counted = capture.pairs()?.get(&(0, 1)).copied();
                let found = capture.findings();
                // The bridge floods both frames: in at one port, out at the rest.
                let all = found.foreign == ports
                    && found.alarms == 2 * ports
                    && found.marked_by_search == 1
                    && counted == Some(1);
                Ok(if all {
                    Look::Done(())
                } else {
                    Look::NotYet(format!("{found:?}, counted {counted:?}"))
                })
            },
        );
        let (passed, detail) = match seen {
            Ok(()) => (
                true,
                format!("two injected frames raised every alarm on {ports} ports"),
            ),
            Err(Error::Timeout { state, .. }) => (false, state),
            Err(error) => return Err(error),
        };
        let silent = self.cluster.topology.is_silent();
        self.summary.check("the captures can see", passed, detail);
        self.summary.check(
            "devices say nothing by themselves",
            silent,
            "IPv6 is off on bearers, ports and bridge",
        );
        self.capture.reset();
        Ok(())
    }

    /// Daemons, the master key, the links.
    fn raise(&mut self) -> Result<()> {
        self.progress
            .say(format!("starting {} daemons", self.nodes));
        for index in 0..self.nodes {
            self.cluster.start(index)?;
            self.note_mode(index)?;
        }
        self.progress
            .say("master generate, then master set --file on each node");
        let file = self.master_file();
        keyctl::generate_master(self.cluster.binaries().keyctl.as_path(), &file)?;
        for index in 0..self.nodes {
            self.set_master(index)?;
        }
        let set = Instant::now();
        let up = self.cluster.wait_for_links(LINKS_WITHIN);
        let took = millis(set.elapsed());
        self.summary.check(
            "links came up",
            up.is_ok(),
            format!("{took} ms after the last key was set; at most 5000"),
        );
        up?;
        self.summary.links_up_ms = Some(took);
        self.progress.say(format!("all links up after {took} ms"));
        Ok(())
    }

    fn note_mode(&mut self, index: usize) -> Result<()> {
        let id = self.cluster.nodes[index].id;
        for bearer in self.cluster.admin(index)?.status()?.bearers {
            let core = bearer
                .core
                .map_or("no core".into(), |c| format!("core {c}"));
            let mode = format!("node {id}: {}, {core}, {}", bearer.mode, bearer.aead);
            self.summary.modes.push(mode);
        }
        Ok(())
    }

    fn master_file(&self) -> PathBuf {
        self.cluster.directory().join("master.key")
    }

    fn set_master(&mut self, index: usize) -> Result<()> {
        let file = self.master_file();
        let file = file.to_string_lossy();
        self.cluster.nodes[index]
            .keyctl
            .run(&["master", "set", "--file", &file])?;
        Ok(())
    }

    fn set_rekey_interval(&mut self, interval: &str) -> Result<()> {
        for index in self.cluster.running() {
            self.cluster.nodes[index]
                .keyctl
                .run(&["rekey", "interval", interval])?;
        }
        Ok(())
    }

    /// The last node starts while the others are busy.
    fn join(&mut self) -> Result<()> {
        let index = self.nodes;
        self.progress
            .say(format!("node {} joins", self.cluster.nodes[index].id));
        let started = self.cluster.start(index)?;
        self.note_mode(index)?;
        self.set_master(index)?;
        self.cluster.nodes[index]
            .keyctl
            .run(&["rekey", "interval", "1s"])?;
        let up = self.cluster.wait_for_links(JOIN_WITHIN);
        let took = millis(started.elapsed());
        self.summary.check(
            "a further node joined under load",
            up.is_ok(),
            format!("all its links up {took} ms after its process started; at most 5000"),
        );
        up?;
        self.summary.join_ms = Some(took);
        let _echo = Echo::start(self.cluster.namespace(index))?;
        let prober = Prober::start(self.cluster.namespace(0), self.target(index))?;
        let answer = wait::until(
            "an answer through the node that joined",
            JOIN_WITHIN,
            Duration::from_millis(5),
            || match prober.first_answer_after(started) {
                Some(at) => Ok(Look::Done(at)),
                None => Ok(Look::NotYet("none yet".into())),
            },
        )?;
        self.progress.say(format!(
            "all its links up after {took} ms, first traffic through it after {} ms",
            millis(answer - started)
        ));
        Ok(())
    }

    fn target(&self, index: usize) -> SocketAddr {
        SocketAddr::from((self.cluster.nodes[index].address, PORT))
    }

    fn take_books(&mut self) -> Result<Cut> {
        books::take(&mut self.cluster, &mut self.capture)
    }

    /// Ends the rekeying and reads the books once nothing moves.
    fn quiesce(&mut self, what: &str) -> Result<Cut> {
        self.progress
            .say(format!("quiet; balancing the books of the time {what}"));
        self.set_rekey_interval("10m")?;
        self.cluster.wait_for_links(LINKS_WITHIN)?;
        self.take_books()
    }

    /// `tipsec-keyctl peers`, as an operator sees it at the end.
    fn show_peers(&mut self) -> Result<()> {
        let node = &self.cluster.nodes[0];
        let table = node.keyctl.run(&["peers"])?;
        self.progress
            .say(format!("tipsec-keyctl peers on node {}:\n{table}", node.id));
        Ok(())
    }

    fn tell_what_daemons_say(&mut self) {
        self.progress.say(self.cluster.last_words(15));
        for index in self.cluster.running() {
            let id = self.cluster.nodes[index].id;
            let Ok(report) = self.cluster.admin(index).and_then(|admin| admin.events(30)) else {
                continue;
            };
            for event in report.events {
                self.progress.say(format!(
                    "node {id}, {} ms ago: {} {}",
                    event.age_ms, event.kind, event.text
                ));
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
