//! What a machine wants done is done: frames leave, workers are told, and what
//! they say comes back.

use std::rc::Rc;

use tipsec_dataplane::command::{Command, CommandSeq, Event, PhaseSpec};
use tipsec_dataplane::ids::{LaneIndex, PeerIndex};

use super::Universe;
use super::invariant::Invariant;
use super::ledger::name_of;
use super::node::is_answer;
use super::queue::{Content, Frame, Happening};
use super::worker::{Label, Outgoing};
use crate::address::{Address, Network};
use crate::machine::{Action, Destination, Input, Token};
use crate::time::Random;

impl Universe {
    pub(super) fn carry_out(&mut self, n: usize) {
        while self.broken.is_none()
            && let Some(node) = &mut self.nodes[n]
            && let Some(action) = node.machine.next_action()
        {
            self.act(n, action);
        }
    }

    fn act(&mut self, n: usize, action: Action) {
        let (life, now) = (self.lives[n], self.now);
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        match action {
            Action::Send { to, frame } => self.send_control(n, to, frame),
            Action::InstallRx { token, lanes } => {
                self.trace
                    .note(now, n, "installs receiving SA", [token.0, 0]);
                for lane in &lanes {
                    for secret in lane.secrets() {
                        let issued = self.keys.issued(name_of(secret), node.id, lane.node);
                        if let Err(wrong) = issued {
                            return self.is_wrong(wrong);
                        }
                    }
                }
                if !node.install_rx(token, lanes, self.mutant) {
                    let text = format!("node {} installs an SPI again", node.id);
                    return self.is_wrong((Invariant::InstalledOnce, text));
                }
                self.wake_workers(n);
            }
            Action::RemoveRx { token, spis } => {
                self.trace
                    .note(now, n, "removes receiving SA", [token.0, 0]);
                if !node.remove_rx(token, &spis) {
                    let text = format!("node {} removes an SPI that is not there", node.id);
                    return self.is_wrong((Invariant::InstalledOnce, text));
                }
                self.wake_workers(n);
            }
            Action::InstallTx { peer, to, lanes } => {
                for lane in &lanes {
                    let epoch = u64::from(lane.epoch.0);
                    let spi = u64::from(lane.spi.value());
                    self.trace.note(now, n, "installs sending SA", [epoch, spi]);
                    for secret in lane.secrets() {
                        let sends = self.keys.sends(&name_of(secret), node.id, lane.node);
                        if let Err(wrong) = sends {
                            return self.is_wrong(wrong);
                        }
                    }
                }
                self.kept.keep(n, peer, &to, &lanes, self.mutant);
                node.set_paths(peer, &to);
                node.install_tx(lanes);
                self.wake_workers(n);
            }
            Action::StageRx { token, phase } => self.stage_rx(n, token, phase),
            Action::StageTx { peer, lane, phase } => self.stage_tx(n, peer, lane, phase),
            Action::AllowPhase {
                peer,
                lane,
                spi,
                phase,
            } => self.tell(n, lane, Command::AllowPhase { peer, spi, phase }),
            Action::RemoveTx { peer } => {
                node.remove_tx(peer);
                self.wake_workers(n);
            }
            Action::AllowData {
                peer,
                lane,
                allowed,
            } => self.tell(n, lane, Command::AllowData { peer, allowed }),
            Action::SendProbe { peer, lane, probe } => {
                self.tell(n, lane, Command::SendProbe { peer, probe });
            }
            Action::ListPeer { .. } | Action::UnlistPeer { .. } => {}
        }
        debug_assert_eq!(life, self.lives[n]);
    }

    /// Every worker takes the key of a receiving lane's next phase, each in its
    /// own time.
    fn stage_rx(&mut self, n: usize, token: Token, phase: PhaseSpec) {
        let (life, now) = (self.lives[n], self.now);
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        let numbers = [token.0, u64::from(phase.phase.0)];
        self.trace.note(now, n, "stages receiving phase", numbers);
        let Some(sender) = node.sender_on(phase.spi) else {
            let text = format!("node {} stages a phase of an SPI that is gone", node.id);
            return self.is_wrong((Invariant::InstalledOnce, text));
        };
        let name = name_of(&phase.secret);
        if let Err(wrong) = self.keys.issued(name, node.id, sender) {
            return self.is_wrong(wrong);
        }
        node.await_stage(token);
        let phase = Rc::new(phase);
        for worker in 0..self.worker_count(n) {
            let wait = self.random.between(super::ms(0), self.delays.staging);
            let what = Happening::Stage {
                life,
                worker,
                token,
                phase: Rc::clone(&phase),
            };
            self.later(wait, n, what);
        }
    }

    /// A worker is given the key. If the lane was removed meanwhile it has
    /// nothing to do, and says that it is done.
    pub(super) fn stage(&mut self, n: usize, worker: usize, token: Token, phase: &PhaseSpec) {
        let seq = CommandSeq(token.0);
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        match node.stage_rx(worker, seq, phase) {
            true => self.wake_workers(n),
            false => self.on_event(n, Event::Done { seq }),
        }
    }

    fn stage_tx(&mut self, n: usize, peer: PeerIndex, lane: LaneIndex, phase: PhaseSpec) {
        let local = self.local(n);
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        let numbers = [u64::from(phase.phase.0), u64::from(phase.spi.value())];
        self.trace
            .note(self.now, n, "stages sending phase", numbers);
        let views = node.machine.peers(local).into_iter();
        let mut receivers = views.filter(|view| view.index == Some(peer));
        let Some(receiver) = receivers.next().map(|view| view.node) else {
            let text = format!("node {} stages a phase for nobody", node.id);
            return self.is_wrong((Invariant::BothNames, text));
        };
        let name = name_of(&phase.secret);
        if let Err(wrong) = self.keys.sends_later(name, node.id, receiver) {
            return self.is_wrong(wrong);
        }
        node.stage_tx(peer, lane, phase);
        self.wake_workers(n);
    }

    fn send_control(&mut self, n: usize, to: Destination, bytes: Vec<u8>) {
        if let Some(meter) = self.meter.as_mut().filter(|meter| meter.is_of(n))
            && !super::is_group(to)
        {
            meter.frames += 1;
            meter.bytes += bytes.len() as u64;
        }
        if let Err(wrong) = self.messages.sent(n, self.lives[n], &bytes) {
            return self.is_wrong(wrong);
        }
        if self.capture {
            self.captured.push((to, bytes.clone()));
        }
        let (network, to) = place(to);
        if self.nodes[n]
            .as_ref()
            .is_some_and(|node| node.serves(network))
        {
            let frame = Frame {
                content: Content::Control,
                bytes: bytes.into(),
            };
            self.transmit(n, network, to, &frame);
        }
    }

    /// Puts a captured control frame on the wire again.
    pub fn replay(&mut self, to: Destination, frame: Vec<u8>, from: usize) {
        let (network, to) = place(to);
        let frame = Frame {
            content: Content::Control,
            bytes: frame.into(),
        };
        self.transmit(from, network, to, &frame);
    }

    fn tell(&mut self, n: usize, lane: LaneIndex, command: Command) {
        if let Some(node) = &mut self.nodes[n]
            && let Some(worker) = node.workers.get_mut(usize::from(lane.0))
        {
            worker.commands.push_back(command);
            self.wake_workers(n);
        }
    }

    /// Workers that have something to do wake up in a while, each for itself.
    fn wake_workers(&mut self, n: usize) {
        let life = self.lives[n];
        for worker in 0..self.worker_count(n) {
            let Some(node) = &mut self.nodes[n] else {
                return;
            };
            let one = &mut node.workers[worker];
            if !one.commands.is_empty() && !one.woken {
                one.woken = true;
                let wait = self.random.between(super::ms(0), self.delays.commands);
                self.later(wait, n, Happening::Drain { life, worker });
            }
        }
    }

    /// A worker does what it was told.
    pub(super) fn drain(&mut self, n: usize, worker: usize) {
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        let one = &mut node.workers[worker];
        one.woken = false;
        let network = one.network;
        for outgoing in one.drain() {
            self.send_sealed(n, network, outgoing, Content::Other);
        }
        self.hear(n, worker);
    }

    /// The control thread hears what a worker has to say.
    pub(super) fn hear(&mut self, n: usize, worker: usize) {
        let life = self.lives[n];
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        for event in node.workers[worker].take_events() {
            if self.delays.events.is_zero() {
                self.on_event(n, event);
            } else {
                // Answers and others of one worker may overtake one another
                // here; none of them depends on another.
                let wait = self.random.between(super::ms(0), self.delays.events);
                self.later(wait, n, Happening::Event { life, event });
            }
        }
    }

    pub(super) fn on_event(&mut self, n: usize, event: Event) {
        let life = self.lives[n];
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        debug_assert!(is_answer(&event) || node.stopped.is_none());
        match event {
            Event::Done { seq } => match node.answered(seq, self.mutant) {
                Some((token, true)) => {
                    self.later(super::ms(0), n, Happening::Installed { life, token });
                }
                Some((token, false)) => {
                    self.later(super::ms(0), n, Happening::Removed { life, token });
                }
                None => {}
            },
            Event::Refused { .. } => {
                let text = format!("a worker of node {} refused a command", node.id);
                self.is_wrong((Invariant::InstalledOnce, text));
            }
            Event::FirstOpen { peer, spi } => self.input(n, Input::FirstOpen { peer, spi }),
            Event::ProbeReply { .. } if self.lose_replies => {}
            Event::ProbeReply { peer, probe, .. } => {
                self.input(n, Input::ProbeReply { peer, probe });
            }
            Event::BudgetLow {
                peer, next_ready, ..
            } => self.input(n, Input::BudgetLow { peer, next_ready }),
            Event::PhaseEntered { peer, spi, phase } => {
                self.input(n, Input::PhaseEntered { peer, spi, phase });
            }
            Event::PhaseOpened { peer, spi, phase } => {
                self.highest_phase = self.highest_phase.max(phase);
                self.input(n, Input::PhaseOpened { peer, spi, phase });
            }
            Event::BudgetSpent { peer, .. } => self.input(n, Input::BudgetSpent { peer }),
            Event::OpenLimit { peer, spi } => self.input(n, Input::OpenLimit { peer, spi }),
            Event::BearerLost => {}
        }
    }

    /// One data frame from each worker of `n` that has a NIC to every other
    /// node: the tap's queues of the others are detached.
    pub fn send_data(&mut self, n: usize) {
        let Some(node) = self.nodes[n].as_ref().filter(|node| node.stopped.is_none()) else {
            return;
        };
        let receivers: Vec<_> = node.known.iter().copied().collect();
        for worker in 0..self.worker_count(n) {
            // A worker does what it was told before it seals.
            self.drain(n, worker);
            for &receiver in &receivers {
                let serial = self.payloads.next();
                let Some(node) = &mut self.nodes[n] else {
                    return;
                };
                let label = Label {
                    sender: node.id,
                    receiver,
                    serial,
                };
                let one = &mut node.workers[worker];
                if !one.alive {
                    continue;
                }
                let network = one.network;
                let Some(peer) = one.tx.peer_of(receiver) else {
                    node.nobody_there += 1;
                    continue;
                };
                if let Some(outgoing) = one.send(peer, label) {
                    let to = super::network::place_of(&outgoing.bytes).unwrap_or(n);
                    let to_life = self.lives.get(to).copied().unwrap_or(0);
                    let lives = (self.lives[n], to_life);
                    self.payloads.sealed(self.now, (n, to), lives);
                    self.send_sealed(n, network, outgoing, Content::Data(serial));
                }
                self.hear(n, worker);
            }
        }
    }

    pub(super) fn send_sealed(
        &mut self,
        n: usize,
        network: Network,
        outgoing: Outgoing,
        content: Content,
    ) {
        let Outgoing { bytes, key, number } = outgoing;
        self.trace.note(self.now, n, "seals number", [number, 0]);
        if let Err(wrong) = self.keys.sealed(&key, number) {
            return self.is_wrong(wrong);
        }
        let to = super::network::destination(&bytes);
        let frame = Frame {
            content,
            bytes: bytes.into(),
        };
        self.transmit(n, network, to, &frame);
    }
}

/// The network of a destination, and the address there; none for the group.
fn place(to: Destination) -> (Network, Option<Address>) {
    match to {
        Destination::Group(network) => (network, None),
        Destination::Node(network, address) => (network, Some(address)),
    }
}
