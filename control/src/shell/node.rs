//! The machine among its surroundings: what it asks for is carried out here,
//! and what operators ask for is answered. No waiting: [`super::daemon`] does
//! that.

use std::collections::HashMap;

use tipsec_dataplane::attach::MapUpdateError;
use tipsec_dataplane::command::Event;
use tipsec_dataplane::ids::{LaneIndex, PeerIndex};
use tipsec_xdp::wire::MAX_CONTROL_FRAME_LEN;

use super::clock::{self, OsRandom};
use super::hub::{Hub, Report};
use super::masters::no_master_key;
use super::nic::{self, Nic};
use super::paths::Paths;
use crate::admin::{
    MAX_EVENTS, RekeyIntervalReport, RekeyNowReport, Reply, Request, Response, TapReport,
};
use crate::keyring::Keyring;
use crate::machine::{Action, EventKind, EventRecord, Input, Machine};
use crate::time::Instant;

/// Control frames taken from one socket before everything else gets its turn.
const FRAMES_A_PASS: usize = 64;

/// The tap as the control thread sees it.
pub struct TapDevice {
    /// What is told of it; its MTU follows the NICs'.
    pub report: TapReport,
    /// Its number in this network namespace.
    pub ifindex: u32,
}

/// A node without its loop.
pub struct Node {
    pub(super) machine: Machine,
    pub(super) hub: Hub,
    pub(super) nics: Vec<Nic>,
    pub(super) paths: Paths,
    /// None if the node is to do without.
    pub(super) tap: Option<TapDevice>,
    pub(super) started: Instant,
    pub(super) sends_failed: u64,
    pub(super) frames_received: u64,
    /// Control frames that the kernel had no room for.
    pub(super) socket_dropped: u64,
    /// Frames of ours with another VLAN's tag, or tagged where they should not
    /// be, or not where they should.
    pub(super) other_vlan: u64,
    pub(super) keyring: Keyring,
    /// Why the keys are those of the keyring's older copy, if they are.
    pub(super) keyring_damaged: Option<String>,
    /// Opened frames per peer at the last look.
    opened: HashMap<PeerIndex, u64>,
    next_look: Instant,
}

impl Node {
    /// Joins what [`super::start::start`] has set up.
    pub fn new(
        mut machine: Machine,
        hub: Hub,
        (nics, paths): (Vec<Nic>, Paths),
        tap: Option<TapDevice>,
        keyring: Keyring,
    ) -> Self {
        let now = clock::now();
        let settings = machine.settings();
        let text = format!(
            "node {} of cluster {} is running",
            settings.node, settings.cluster
        );
        machine.note(now, EventKind::Started, None, text);
        Self {
            machine,
            hub,
            nics,
            paths,
            tap,
            started: now,
            sends_failed: 0,
            frames_received: 0,
            socket_dropped: 0,
            other_vlan: 0,
            keyring,
            keyring_damaged: None,
            opened: HashMap::new(),
            next_look: now,
        }
    }

    /// When [`Self::pass`] is due although nothing happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        let machine = self.machine.next_deadline();
        machine.map(|at| at.min(self.next_look))
    }

    /// Takes everything that waits, and does what is due.
    pub fn pass(&mut self) {
        self.take_worker_reports();
        self.follow_network();
        self.take_frames();
        self.look_for_activity();
        if self
            .machine
            .next_deadline()
            .is_some_and(|at| at <= clock::now())
        {
            self.input(Input::Timer);
        }
    }

    /// Events after the one numbered `after`.
    pub fn events_after(&self, after: u64) -> impl Iterator<Item = &EventRecord> {
        self.machine.journal().after(after)
    }

    /// Stops the workers and takes the XDP program off.
    pub fn stop(self) {
        self.hub.stop();
    }

    pub(super) fn input(&mut self, input: Input<'_>) {
        self.machine.handle(clock::now(), &mut OsRandom, input);
        while let Some(action) = self.machine.next_action() {
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Send { to, frame } => {
                if let Err(error) = nic::send(&self.nics, to, &frame) {
                    self.sends_failed += 1;
                    tracing::debug!("control frame to {to:?} not sent: {error}");
                }
            }
            Action::InstallRx { token, lanes } => self.hub.install_rx(token, lanes),
            Action::StageRx { token, phase } => self.hub.stage_rx(token, &phase),
            Action::StageTx { peer, lane, phase } => self.hub.stage_tx(peer, lane, phase),
            Action::AllowPhase {
                peer,
                lane,
                spi,
                phase,
            } => self.hub.allow_phase(peer, lane, spi, phase),
            Action::RemoveRx { token, spis } => {
                let removed = self.hub.remove_rx(token, &spis);
                self.note_map_error(removed);
            }
            Action::InstallTx { peer, to, lanes } => {
                let paths = self.paths.set_peer(peer, &to);
                self.set_paths(paths);
                self.hub.install_tx(lanes);
            }
            Action::RemoveTx { peer } => {
                self.hub.remove_tx(peer);
                self.paths.remove_peer(peer);
            }
            Action::AllowData {
                peer,
                lane,
                allowed,
            } => self.hub.allow_data(peer, lane, allowed),
            Action::SendProbe { peer, lane, probe } => self.hub.send_probe(peer, lane, probe),
            Action::UnlistPeer { node } => {
                for attachment in self.hub.attachments_mut() {
                    // An entry too many costs a few bytes.
                    if let Err(error) = attachment.unlist_peer(node) {
                        tracing::debug!("{error}");
                    }
                }
            }
            Action::ListPeer { node } => {
                for attachment in self.hub.attachments_mut() {
                    // The shared bucket serves a peer that has none of its own.
                    if let Err(error) = attachment.list_peer(node) {
                        tracing::debug!("{error}");
                    }
                }
            }
        }
    }

    fn note_map_error(&mut self, result: Result<(), MapUpdateError>) {
        if let Err(error) = result {
            let text = format!("{error}; is the interface still there?");
            self.machine
                .note(clock::now(), EventKind::BearerLost, None, text);
        }
    }

    fn take_worker_reports(&mut self) {
        loop {
            match self.hub.next_report() {
                Ok(None) => return,
                Ok(Some(report)) => self.on_report(report),
                Err(error) => self.note_map_error(Err(error)),
            }
        }
    }

    fn on_report(&mut self, report: Report) {
        let input = match report {
            Report::Installed(token) => Input::Installed(token),
            Report::Removed(token) => Input::Removed(token),
            Report::Worker(worker, event) => match event {
                Event::Done { .. } | Event::Refused { .. } => return,
                Event::FirstOpen { peer, spi } => Input::FirstOpen { peer, spi },
                Event::ProbeReply { peer, probe, .. } => Input::ProbeReply { peer, probe },
                Event::BudgetLow {
                    peer, next_ready, ..
                } => Input::BudgetLow { peer, next_ready },
                Event::PhaseEntered { peer, spi, phase } => {
                    Input::PhaseEntered { peer, spi, phase }
                }
                Event::PhaseOpened { peer, spi, phase } => Input::PhaseOpened { peer, spi, phase },
                Event::BudgetSpent { peer, .. } => Input::BudgetSpent { peer },
                Event::OpenLimit { peer, spi } => Input::OpenLimit { peer, spi },
                Event::BearerLost => return self.on_bearer_lost(worker),
            },
        };
        self.input(input);
    }

    /// The queue of a worker is gone. Its lanes stay, so that no number is used
    /// again; the other workers carry on, and peers learn where this node still
    /// receives.
    fn on_bearer_lost(&mut self, worker: usize) {
        let Some(what) = nic::lose(&mut self.nics, worker) else {
            return;
        };
        let left = nic::addresses(&self.nics);
        let rest = match left {
            Some(_) => "the others carry on",
            None => "nothing carries frames any more",
        };
        let text = format!(
            "{what} is gone; its keys are kept, its frames are dropped, {rest}; restart tipsecd \
             when it is back"
        );
        self.machine
            .note(clock::now(), EventKind::BearerLost, None, text);
        if let Ok(lane) = u8::try_from(worker) {
            self.input(Input::LaneLost(LaneIndex(lane)));
        }
        if let Some(addresses) = left {
            self.input(Input::SetAddresses(addresses));
        }
    }

    fn take_frames(&mut self) {
        let mut buffer = [0; MAX_CONTROL_FRAME_LEN];
        for at in 0..self.nics.len() {
            for _ in 0..FRAMES_A_PASS {
                let Some((source, bytes)) = self.nics[at].port.receive(&mut buffer) else {
                    break;
                };
                self.frames_received += 1;
                self.input(Input::Frame {
                    bytes,
                    network: self.nics[at].network,
                    source,
                });
            }
        }
    }

    /// Tells the machine which peers' frames have opened lately: a peer whose
    /// data arrives lives, even if its probes drown in a flood.
    fn look_for_activity(&mut self) {
        let now = clock::now();
        if self.machine.master().is_none() || now < self.next_look {
            return;
        }
        self.next_look = now + self.machine.settings().link_tolerance / 4;
        self.watch_programs();
        for nic in &self.nics {
            self.socket_dropped += nic.port.take_dropped();
            self.other_vlan += nic.port.take_other_vlan();
        }
        let indexes = self
            .machine
            .peers(now)
            .into_iter()
            .filter_map(|view| view.index);
        for peer in indexes.collect::<Vec<_>>() {
            let workers = self.hub.workers().iter();
            let opened = workers
                .map(|w| w.counters.peer(peer).opened_frames.value())
                .sum();
            // Of a peer that is looked at for the first time, what has opened is new.
            let before = self.opened.insert(peer, opened).unwrap_or(0);
            if before != opened {
                self.input(Input::Activity { peer });
            }
        }
    }

    /// Answers an operator.
    pub fn answer(&mut self, request: Request) -> Response {
        let now = clock::now();
        match request {
            Request::Status {} => Ok(Reply::Status(Box::new(self.status_report(now)))),
            Request::Peers {} => Ok(Reply::Peers(self.peers_report(now))),
            Request::Events { after, limit } => {
                let limit = limit.min(MAX_EVENTS) as usize;
                Ok(Reply::Events(self.events_report(now, after, limit)))
            }
            Request::MasterSet { key, force } => self.set_master(key, force),
            Request::MasterStage { key, replace } => self.stage_master(key, replace),
            Request::MasterActivate {} => self.activate_master(),
            Request::MasterRetire { force } => self.retire_master(force),
            Request::MasterStatus {} => Ok(Reply::MasterStatus(self.master_status(now))),
            Request::Evict { node } => self.evict(node),
            Request::Readmit { node } => self.readmit(node),
            Request::RekeyInterval { interval_s } => {
                let interval = interval_s.map(|s| std::time::Duration::from_secs(s.into()));
                self.input(Input::SetRekeyInterval(interval));
                Ok(Reply::RekeyInterval(RekeyIntervalReport { interval_s }))
            }
            Request::RekeyNow {} => {
                if self.machine.master().is_none() {
                    return Err(no_master_key());
                }
                let peers = self.machine.peers(now);
                let keyed = peers.iter().filter(|peer| peer.tx_epoch.is_some()).count();
                self.input(Input::RekeyNow);
                let started = u32::try_from(keyed).unwrap_or(u32::MAX);
                Ok(Reply::RekeyNow(RekeyNowReport { started }))
            }
        }
    }
}
