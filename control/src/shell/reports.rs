//! What the operator is shown, put together from the machine, the counters of
//! the workers, the maps of the XDP programs and the sockets.

use std::time::{Duration, SystemTime};

use tipsec_dataplane::bearer::xdp::XdpStatistics;
use tipsec_dataplane::counters::{PeerCounters, RxDrop, TxDrop};
use tipsec_dataplane::ids::PeerIndex;

use super::node::Node;
use crate::address::Addresses;
use crate::admin::{
    AddressReport, Counts, EventReport, EventsReport, LinkState, PeerReport, PeersReport,
    StatusReport, WorkerReport, rfc3339,
};
use crate::machine::{self, Count, PeerView};
use crate::time::Instant;

fn add(counts: &mut Counts, name: &str, value: u64) {
    if value > 0 {
        *counts.entry(name.to_owned()).or_default() += value;
    }
}

fn add_drops(counts: &mut Counts, of: &PeerCounters) {
    for &reason in RxDrop::ALL {
        add(counts, reason.name(), of.rx_drops(reason));
    }
    for &reason in TxDrop::ALL {
        add(counts, reason.name(), of.tx_drops(reason));
    }
}

fn address_reports(addresses: &Addresses) -> impl Iterator<Item = AddressReport> {
    addresses.iter().map(|(network, address)| AddressReport {
        network: network.number(),
        address: address.to_string(),
    })
}

impl From<machine::LinkState> for LinkState {
    fn from(state: machine::LinkState) -> Self {
        match state {
            machine::LinkState::Up => Self::Up,
            machine::LinkState::Down => Self::Down,
            machine::LinkState::Connecting => Self::Connecting,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Node {
    pub(super) fn status_report(&self, now: Instant) -> StatusReport {
        let settings = self.machine.settings();
        let mut xdp = Counts::new();
        for attachment in self.hub.attachments() {
            // A map that cannot be read shows as counts that are missing.
            for (name, count) in attachment.counters().unwrap_or_default() {
                *xdp.entry(name.to_owned()).or_default() += count;
            }
        }
        let mut xsk = Counts::new();
        for queue in self.nics.iter().flat_map(|nic| &nic.queues) {
            let Ok(counts) = XdpStatistics::read(&queue.statistics) else {
                continue;
            };
            for (name, count) in [
                ("rx_dropped", counts.rx_dropped),
                ("rx_ring_full", counts.rx_ring_full),
                ("rx_fill_ring_empty", counts.rx_fill_ring_empty),
                ("rx_invalid_descriptors", counts.rx_invalid_descriptors),
                ("tx_invalid_descriptors", counts.tx_invalid_descriptors),
            ] {
                *xsk.entry(name.to_owned()).or_default() += count;
            }
        }
        let mut control = self.machine.counts().by_name();
        control.insert("send_failed".to_owned(), self.sends_failed);
        control.insert("frames_received".to_owned(), self.frames_received);
        control.insert("socket_dropped".to_owned(), self.socket_dropped);
        control.insert("other_vlan".to_owned(), self.other_vlan);
        StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: settings.cluster.to_string(),
            node: settings.node.value(),
            incarnation: settings.incarnation.to_string(),
            uptime_ms: millis(now.since(self.started)),
            master_id: self.machine.master().map(|id| id.to_string()),
            rekey_interval_s: settings
                .rekey_interval
                .map(|interval| u32::try_from(interval.as_secs()).unwrap_or(u32::MAX)),
            rekeys_completed: self.machine.counts().value(Count::Rekeyed),
            bearers: self
                .nics
                .iter()
                .flat_map(|nic| &nic.queues)
                .map(|queue| queue.report.clone())
                .collect(),
            tap: self.tap.as_ref().map(|tap| tap.report.clone()),
            workers: self.worker_reports(),
            xdp,
            xsk,
            control,
        }
    }

    fn worker_reports(&self) -> Vec<WorkerReport> {
        let report = |worker: &super::hub::WorkerPort| {
            let counters = &worker.counters;
            let mut drops = Counts::new();
            add_drops(&mut drops, &counters.nobody);
            for peer in self.peer_indexes() {
                add_drops(&mut drops, counters.peer(peer));
            }
            add(&mut drops, "events_lost", counters.events_lost.value());
            WorkerReport {
                core: worker.core,
                received_frames: counters.received_frames.value(),
                transmitted_frames: counters.transmitted_frames.value(),
                passes: counters.passes.value(),
                sleeps: counters.sleeps.value(),
                drops,
            }
        };
        self.hub.workers().iter().map(report).collect()
    }

    fn peer_indexes(&self) -> impl Iterator<Item = PeerIndex> {
        (0..self.machine.settings().max_peers).map(PeerIndex)
    }

    pub(super) fn peers_report(&self, now: Instant) -> PeersReport {
        let views = self.machine.peers(now);
        PeersReport {
            master_id: self.machine.master().map(|id| id.to_string()),
            peers: views.iter().map(|view| self.peer_report(view)).collect(),
        }
    }

    fn peer_report(&self, view: &PeerView) -> PeerReport {
        let mut report = PeerReport {
            node: view.node.value(),
            link: view.link.into(),
            since_ms: millis(view.since),
            incarnation: view.incarnation.map(|id| id.to_string()),
            master_id: view.master.map(|id| id.to_string()),
            claimed_master_id: view.claimed_master.map(|id| id.to_string()),
            evicted: view.evicted,
            addresses: view.addresses.iter().flat_map(address_reports).collect(),
            tx_epoch: view.tx_epoch.map(|epoch| epoch.0),
            rx_epoch: view.rx_epoch.map(|epoch| epoch.0),
            tx_phase: view.tx_phase.map(|phase| phase.0),
            rx_phase: view.rx_phase.map(|phase| phase.0),
            key_age_ms: view.key_age.map(millis),
            rekeys: view.rekeys,
            ..PeerReport::default()
        };
        let Some(index) = view.index else {
            return report;
        };
        for worker in self.hub.workers() {
            let counters = worker.counters.peer(index);
            report.sealed_frames += counters.sealed_frames.value();
            report.sealed_bytes += counters.sealed_bytes.value();
            report.opened_frames += counters.opened_frames.value();
            report.opened_bytes += counters.opened_bytes.value();
            add_drops(&mut report.drops, counters);
        }
        report
    }

    pub(super) fn events_report(
        &self,
        now: Instant,
        after: Option<u64>,
        limit: usize,
    ) -> EventsReport {
        let wall = SystemTime::now();
        let events: Vec<_> = self.machine.journal().after(after.unwrap_or(0)).collect();
        // Who follows wants what comes next; who just asks wants the latest.
        let skipped = if after.is_some() {
            0
        } else {
            events.len().saturating_sub(limit)
        };
        let report = |event: &&machine::EventRecord| {
            let age = now.since(event.at);
            EventReport {
                seq: event.seq,
                age_ms: millis(age),
                time: rfc3339(wall.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)),
                kind: event.kind.name().to_owned(),
                node: event.node.map(|node| node.value()),
                text: event.text.clone(),
            }
        };
        EventsReport {
            events: events
                .iter()
                .skip(skipped)
                .take(limit)
                .map(report)
                .collect(),
        }
    }
}
