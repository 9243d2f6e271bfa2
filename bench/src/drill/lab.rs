//! A cluster to do harm to: daemons with keys and links, captures on their
//! ports; and whether all is well with it afterwards. Imports `capture`,
//! `cluster`, `outcome`.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use tipsec_control::admin::BearerState;

use super::Scene;
use super::outcome::{Outcome, millis};
use crate::books;
use crate::capture::Capture;
use crate::cluster::Cluster;
use crate::daemon::TAP;
use crate::error::{Error, Result};
use crate::keyctl;
use crate::wait::{self, Look};

/// All links have to be up so long after the last node got its key, and after
/// the end of harm.
const LINKS_WITHIN: Duration = Duration::from_secs(15);
/// A rekey of every pair has to be complete so long after it was asked for.
const REKEY_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at something.
pub(super) const OFTEN: Duration = Duration::from_millis(5);
/// An event has to be in the journal so long after what it tells of.
const EVENT_WITHIN: Duration = Duration::from_secs(15);

/// A cluster that works.
pub(super) struct Lab {
    pub(super) capture: Capture,
    pub(super) cluster: Cluster,
    /// Of every node's tap, which a new life has again.
    macs: Vec<String>,
}

/// When a daemon was started, and when it answered its operator.
pub(super) struct Life {
    pub(super) started: Instant,
    pub(super) up: Instant,
}

impl Lab {
    /// Starts `nodes` daemons on a bridge, gives them a master key, waits for
    /// their links, and drills.
    ///
    /// # Errors
    /// Whatever does not work; nothing is left.
    pub(super) fn with(
        scene: &Scene<'_>,
        label: &str,
        nodes: u8,
        outcome: &mut Outcome,
        drill: impl FnOnce(&mut Self, &mut Outcome) -> Result<()>,
    ) -> Result<()> {
        let mut lab = Self::plug(scene, label, nodes)?;
        lab.start()?;
        let result = drill(&mut lab, outcome);
        lab.conclude(scene, outcome, result)
    }

    /// A bridge and places for `nodes` daemons, none of which runs yet.
    ///
    /// # Errors
    /// Those of [`Cluster::create`] and [`Capture::start`].
    pub(super) fn plug(scene: &Scene<'_>, label: &str, nodes: u8) -> Result<Self> {
        let cluster = Cluster::create(label, nodes, scene.binaries.clone())?;
        let capture = Capture::start(&cluster.topology)?;
        Ok(Self {
            capture,
            cluster,
            macs: Vec::new(),
        })
    }

    /// Daemons, master key, links.
    ///
    /// # Errors
    /// Those of the daemons; [`Error::Timeout`].
    pub(super) fn start(&mut self) -> Result<()> {
        let file = self.cluster.directory().join("master.key");
        keyctl::generate_master(&self.cluster.binaries().keyctl, &file)?;
        let file = file.to_string_lossy().into_owned();
        for index in 0..self.cluster.nodes.len() {
            self.cluster.start(index)?;
            let keyctl = &self.cluster.nodes[index].keyctl;
            keyctl.run(&["master", "set", "--file", &file])?;
        }
        self.cluster.wait_for_links(LINKS_WITHIN)?;
        self.settle_neighbours()
    }

    /// Every node's address on the tap network, in all the others' kernels.
    fn settle_neighbours(&mut self) -> Result<()> {
        for index in 0..self.cluster.nodes.len() {
            let tap = self.cluster.admin(index)?.status()?.tap;
            self.macs.push(tap.map(|tap| tap.mac).unwrap_or_default());
        }
        (0..self.cluster.nodes.len()).try_for_each(|index| self.introduce(index))
    }

    /// Writes the others' addresses into a node's kernel, whose tap is new. Else it
    /// loses datagrams uncounted while it looks for a neighbour that is away, and
    /// looks but once a second, which is no time of Tipsec's.
    fn introduce(&self, index: usize) -> Result<()> {
        for (of, mac) in self.macs.iter().enumerate() {
            if of != index {
                let address = self.cluster.nodes[of].address;
                self.cluster.namespace(index).ip(&format!(
                    "neigh replace {address} lladdr {mac} dev {TAP} nud permanent"
                ))?;
            }
        }
        Ok(())
    }

    /// Starts the daemon of a node that had one before.
    ///
    /// # Errors
    /// Those of [`Cluster::start`].
    pub(super) fn start_again(&mut self, index: usize) -> Result<Life> {
        let program = self.cluster.binaries().tipsecd.clone();
        self.start_program(index, &[program.into_os_string()])
    }

    /// The same with another program and what stands before it.
    ///
    /// # Errors
    /// Those of [`Cluster::start_program`].
    pub(super) fn start_program(&mut self, index: usize, program: &[OsString]) -> Result<Life> {
        let started = self.cluster.start_program(index, program)?;
        let up = Instant::now();
        self.introduce(index)?;
        Ok(Life { started, up })
    }

    /// Node id of an index.
    pub(super) fn id(&self, index: usize) -> u32 {
        self.cluster.nodes[index].id
    }

    /// The port of a node at the bridge.
    pub(super) fn port(&self, index: usize) -> &str {
        &self.cluster.topology.ports[self.cluster.nodes[index].port].device
    }

    /// Data frames so far from all others to a node, as they entered the bridge.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn wire_to(&mut self, index: usize) -> Result<u64> {
        self.wire(|(_, to)| to == index)
    }

    /// Data frames so far from a node, as they entered the bridge.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn wire_from(&mut self, index: usize) -> Result<u64> {
        self.wire(|(from, _)| from == index)
    }

    fn wire(&mut self, counts: impl Fn((usize, usize)) -> bool) -> Result<u64> {
        let pairs = self.capture.pairs()?.into_iter();
        Ok(pairs
            .filter(|(pair, _)| counts(*pair))
            .map(|(_, n)| n)
            .sum())
    }

    /// The highest number of an event of a node so far.
    ///
    /// # Errors
    /// Those of a daemon that does not answer.
    pub(super) fn last_event(&mut self, index: usize) -> Result<u64> {
        let events = self.cluster.admin(index)?.events(1)?.events;
        Ok(events.last().map_or(0, |event| event.seq))
    }

    /// Whether a node's links have stayed up since the event with this number.
    ///
    /// # Errors
    /// Those of a daemon that does not answer.
    pub(super) fn check_links_stayed(
        &mut self,
        index: usize,
        since: u64,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let events = self.cluster.admin(index)?.events(200)?.events;
        let down: Vec<String> = events
            .iter()
            .filter(|event| event.seq > since && event.kind == "link-down")
            .map(|event| event.text.clone())
            .collect();
        outcome.check(
            &format!("no link of node {} went down", self.id(index)),
            down.is_empty(),
            match down.is_empty() {
                true => "by its own events".to_owned(),
                false => down.join("; "),
            },
        );
        Ok(())
    }

    /// Waits for an event of this kind after the one with a number, in whose
    /// text are these words; gives the text.
    ///
    /// # Errors
    /// [`Error::Timeout`] with what there was instead.
    pub(super) fn wait_for_event(
        &mut self,
        index: usize,
        after: u64,
        kind: &str,
        words: &str,
    ) -> Result<String> {
        let what = format!("node {} to say {kind} ({words:?})", self.id(index));
        wait::until(&what, EVENT_WITHIN, OFTEN * 4, || {
            let events = self.cluster.admin(index)?.events(200)?.events;
            let mut new = events.iter().filter(|event| event.seq > after);
            let found = new.find(|event| event.kind == kind && event.text.contains(words));
            Ok(match found {
                Some(event) => Look::Done(event.text.clone()),
                None => Look::NotYet(
                    events
                        .iter()
                        .filter(|event| event.seq > after)
                        .map(|event| format!("{}: {}", event.kind, event.text))
                        .collect::<Vec<_>>()
                        .join("; "),
                ),
            })
        })
    }

    /// Waits until every link of the running nodes is up.
    ///
    /// # Errors
    /// [`Error::Timeout`] with those that are not.
    pub(super) fn wait_for_links(&mut self) -> Result<()> {
        self.cluster.wait_for_links(LINKS_WITHIN)
    }

    /// Whether all is well: links are up, and a rekey of every pair completes.
    /// What is not is a failed check.
    ///
    /// # Errors
    /// Those of a daemon that does not answer.
    pub(super) fn check_health(&mut self, outcome: &mut Outcome) -> Result<()> {
        let links = self.wait_for_links();
        let up = tell("links are up", "all of them", links, outcome)?;
        if !up {
            return Ok(());
        }
        let begun = Instant::now();
        let rekeyed = self.rekey_all();
        let took = format!("every pair, within {} ms", millis(begun.elapsed()));
        tell("a rekey works afterwards", &took, rekeyed, outcome)?;
        Ok(())
    }

    fn rekey_all(&mut self) -> Result<()> {
        let before = books::rekeys(&mut self.cluster)?;
        for index in self.cluster.running() {
            self.cluster.admin(index)?.rekey_now()?;
        }
        wait::until("a rekey of every pair", REKEY_WITHIN, OFTEN, || {
            let now = books::rekeys(&mut self.cluster)?;
            let late: Vec<_> = before
                .iter()
                .filter(|(pair, was)| now.get(pair).is_none_or(|count| count <= was))
                .map(|((node, peer), was)| format!("node {node} with {peer}: still {was}"))
                .collect();
            Ok(if late.is_empty() {
                Look::Done(())
            } else {
                Look::NotYet(late.join(", "))
            })
        })
    }

    /// What the captures have seen: no packet number twice on a lane, through
    /// all lives of all daemons, and nothing that is not Tipsec's or in clear.
    ///
    /// An SPI of a new life is not one of an earlier life (its generation and
    /// first index are random), so lanes of different lives do not meet here.
    pub(super) fn check_wire(&self, outcome: &mut Outcome) {
        let found = self.capture.findings();
        outcome.check(
            "no (key, packet number) twice on the wire",
            found.repeated == 0 && found.numbers > 0,
            match found.repeated {
                0 => format!(
                    "{} different ones seen, in {} of {} frames looked at",
                    found.numbers, found.searched, found.frames
                ),
                repeated => format!("{repeated} repeated; {}", found.descriptions.join("; ")),
            },
        );
        outcome.check(
            "nothing in clear on the wire",
            found.alarms == 0 && found.marked == 0,
            match found.alarms {
                0 => format!("{} frames, all sealed", found.frames),
                alarms => format!("{alarms} alarms; {}", found.descriptions.join("; ")),
            },
        );
    }

    /// The captures have to have looked at every frame, else their silence says
    /// less than it seems to; not for saturating traffic.
    pub(super) fn check_sight(&self, outcome: &mut Outcome) {
        let found = self.capture.findings();
        let all = found.searched == found.frames;
        outcome.check(
            "every frame was looked at",
            all,
            format!("{} of {}", found.searched, found.frames),
        );
    }

    /// The end of a drill: of one that failed, what the daemons have to say.
    pub(super) fn conclude(
        &mut self,
        scene: &Scene<'_>,
        outcome: &Outcome,
        result: Result<()>,
    ) -> Result<()> {
        let failed = result.is_err() || outcome.checks.iter().any(|check| !check.passed);
        if failed && !matches!(result, Err(Error::Interrupted)) {
            scene.progress.say(self.last_words());
        }
        result
    }

    fn last_words(&mut self) -> String {
        let mut text = self.cluster.last_words(8);
        for index in self.cluster.running() {
            let id = self.id(index);
            let Ok(report) = self.cluster.admin(index).and_then(|admin| admin.events(12)) else {
                continue;
            };
            for event in report.events {
                let (age, kind) = (event.age_ms, event.kind);
                text.push_str(&format!("node {id}, {age} ms ago: {kind} {}\n", event.text));
            }
        }
        text
    }

    /// Notes as a check whether a node's status shows all its bearers in this
    /// state.
    ///
    /// # Errors
    /// Those of a daemon that does not answer.
    pub(super) fn check_bearers(
        &mut self,
        index: usize,
        wanted: BearerState,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let bearers = self.cluster.admin(index)?.status()?.bearers;
        let states: Vec<_> = bearers.iter().map(|bearer| bearer.state.name()).collect();
        let passed = bearers.iter().all(|bearer| bearer.state == wanted);
        outcome.check("its status says so too", passed, states.join(", "));
        Ok(())
    }
}

/// Notes as a check whether something came true in time; true if it did.
///
/// # Errors
/// Everything else that went wrong.
pub(super) fn tell<T>(
    name: &str,
    detail: &str,
    result: Result<T>,
    outcome: &mut Outcome,
) -> Result<bool> {
    match result {
        Ok(_) => outcome.check(name, true, detail),
        Err(error @ Error::Timeout { .. }) => outcome.check(name, false, error.to_string()),
        Err(error) => return Err(error),
    }
    Ok(outcome.checks.last().is_some_and(|check| check.passed))
}
