//! SIGKILL under load, and a new life. Imports `load`.

use std::time::{Duration, Instant};

use super::{Stage, millis};
use crate::error::Result;
use crate::load::{Blaster, Echo, Prober};
use crate::wait::{self, Look};

/// Index of the node that is killed: it has had traffic before.
const VICTIM: usize = 1;
/// Dead for so long: its peers go on sending meanwhile.
const DEAD_FOR: Duration = Duration::from_millis(300);
/// Traffic has to flow again so long after the process is started.
const RECOVER_WITHIN: Duration = Duration::from_secs(2);
/// When to give up waiting for it.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);
/// Datagrams of the load: payload bytes, and how many a second.
const LOAD_BYTES: usize = 1200;
const LOAD_PER_SECOND: u32 = 5000;

impl Stage<'_> {
    /// Load to, from and beside the victim, probes every 10 ms; kill; start;
    /// the first answer. Gives back the victim's node id.
    pub(super) fn kill_and_restart(&mut self, seconds: u32) -> Result<u32> {
        let victim = self.cluster.nodes[VICTIM].id;
        let (first, last) = (0, self.cluster.nodes.len() - 1);
        let _echo_victim = Echo::start(self.cluster.namespace(VICTIM))?;
        let echo_first = Echo::start(self.cluster.namespace(first))?;
        let prober = Prober::start(self.cluster.namespace(first), self.target(VICTIM))?;
        let load = [(first, VICTIM), (VICTIM, first), (last, first)]
            .map(|(from, to)| self.blast(from, to))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let begin = Instant::now();
        answer_after(&prober, begin, GIVE_UP_AFTER)?;
        wait::pass(Duration::from_secs(u64::from((seconds / 20).max(1))))?;

        self.progress
            .say(format!("SIGKILL to node {victim} under load"));
        let mac = self.cluster.topology.ports[VICTIM].mac;
        let arrived = echo_first.received();
        self.capture.set_between_lives(Some(mac));
        let killed = Instant::now();
        self.cluster.kill(VICTIM);
        wait::pass(DEAD_FOR)?;
        let started = self.cluster.start(VICTIM)?;
        let answer = answer_after(&prober, started, GIVE_UP_AFTER)?;
        let recovery = answer - started;
        self.progress.say(format!(
            "traffic again {} ms after its start, {} ms after the kill",
            millis(recovery),
            millis(answer - killed)
        ));
        self.summary.recovery_ms = Some(millis(recovery));
        self.summary.outage_ms = Some(millis(answer - killed));
        self.summary.check(
            "recovery after SIGKILL under load",
            recovery <= RECOVER_WITHIN,
            format!(
                "traffic again {} ms after the restart; at most 2000",
                millis(recovery)
            ),
        );
        self.cluster.wait_for_links(GIVE_UP_AFTER)?;
        self.capture.set_between_lives(None);
        self.cluster.nodes[VICTIM]
            .keyctl
            .run(&["rekey", "interval", "1s"])?;
        // New keys, and their rekeys, under load.
        wait::pass(Duration::from_secs(u64::from((seconds / 15).max(2))))?;
        let sent: u64 = load.iter().map(Blaster::sent).sum();
        let arrived = echo_first.received() - arrived;
        self.progress.say(format!(
            "load around the kill: {sent} datagrams sent, {arrived} arrived at node 1 since"
        ));
        Ok(victim)
    }

    fn blast(&self, from: usize, to: usize) -> Result<Blaster> {
        Blaster::start(
            self.cluster.namespace(from),
            self.target(to),
            LOAD_BYTES,
            LOAD_PER_SECOND,
        )
    }
}

fn answer_after(prober: &Prober, moment: Instant, deadline: Duration) -> Result<Instant> {
    wait::until(
        "an answer to a probe",
        deadline,
        Duration::from_millis(5),
        || match prober.first_answer_after(moment) {
            Some(at) => Ok(Look::Done(at)),
            None => Ok(Look::NotYet("none".into())),
        },
    )
}
