//! The phases of traffic, rekeying each second, with a node that joins.
//! Imports `iperf`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Stage;
use crate::books;
use crate::error::Result;
use crate::iperf::{self, Run, Traffic};
use crate::report::Phase;
use crate::wait;

/// Payload of a datagram in bytes: with headers it fits the tap's MTU.
const DATAGRAM_BYTES: u32 = 1300;
/// Mbit/s of the paced phase: well below what one core seals.
const PACED_MBIT_S: u32 = 300;
/// Phases shorter than this may end before anybody's rekey is due.
const REKEY_SURELY_S: u32 = 3;

impl Stage<'_> {
    /// TCP, paced UDP with a join in its midst, saturating UDP: of `seconds`,
    /// a quarter, two fifths, a fifth; the rest is the kill's.
    pub(super) fn traffic(&mut self, seconds: u32) -> Result<()> {
        let tcp = (seconds / 4).max(2);
        let paced = (seconds * 2 / 5).max(4);
        let saturating = (seconds / 5).max(2);

        self.phase("TCP, node 1 to node 2", Traffic::Tcp, tcp, true, |_| Ok(()))?;
        self.phase(
            "UDP, paced",
            udp(PACED_MBIT_S),
            paced,
            false,
            |stage: &mut Self| {
                wait::pass(Duration::from_secs(u64::from(paced)) / 4)?;
                stage.join()
            },
        )?;
        self.phase("UDP, saturating", udp(0), saturating, true, |_| Ok(()))
    }

    /// One run of iperf3, with something else meanwhile.
    fn phase(
        &mut self,
        name: &str,
        traffic: Traffic,
        seconds: u32,
        bounded: bool,
        meanwhile: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.progress
            .say(format!("{name}, {seconds} s, rekeying each second"));
        self.capture.bound_effort(bounded);
        let before = books::rekeys(&mut self.cluster)?;
        let run = self.start_iperf(traffic, seconds)?;
        meanwhile(self)?;
        let outcome = run.finish()?;
        self.capture.bound_effort(false);
        let after = books::rekeys(&mut self.cluster)?;
        let rekeys = grown(&before, &after);
        if seconds >= REKEY_SURELY_S && before.keys().any(|pair| !grew(pair, &before, &after)) {
            self.phases_without_rekey.push(name.to_owned());
        }
        self.progress.say(format!(
            "{name}: {:.0} Mbit/s, {rekeys} rekeys",
            outcome.received_mbit_s
        ));
        let arrived = outcome.received_mbit_s > 0.0;
        self.summary.check(
            &format!("traffic arrives ({name})"),
            arrived,
            format!("{:.0} Mbit/s", outcome.received_mbit_s),
        );
        self.summary.rekeys += rekeys;
        self.summary.phases.push(Phase {
            name: name.to_owned(),
            outcome,
            rekeys,
        });
        Ok(())
    }

    fn start_iperf(&self, traffic: Traffic, seconds: u32) -> Result<Run> {
        let target = self.cluster.nodes[1].address.to_string();
        iperf::start(
            self.cluster.namespace(0),
            self.cluster.namespace(1),
            &target,
            traffic,
            seconds,
        )
    }
}

fn udp(rate_mbit_s: u32) -> Traffic {
    Traffic::Udp {
        datagram_bytes: DATAGRAM_BYTES,
        rate_mbit_s,
    }
}

type Rekeys = BTreeMap<(u32, u32), u64>;

fn grew(pair: &(u32, u32), before: &Rekeys, after: &Rekeys) -> bool {
    let count = |counts: &Rekeys| counts.get(pair).copied().unwrap_or(0);
    count(after) > count(before)
}

/// Rekeys between two readings, over all directions of all pairs.
fn grown(before: &Rekeys, after: &Rekeys) -> u64 {
    let count = |pair| before.get(pair).copied().unwrap_or(0);
    after
        .iter()
        .map(|(pair, now)| now.saturating_sub(count(pair)))
        .sum()
}
