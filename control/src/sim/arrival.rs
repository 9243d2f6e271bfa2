//! What happens at a node: frames arrive, workers wake up, answers come.

use tipsec_dataplane::ids::NodeId;

use super::Universe;
use super::invariant::Invariant;
use super::ledger::End;
use super::mutants::Mutant;
use super::node::BACKLOG_MAX;
use super::queue::{Content, Frame, Happening};
use super::worker::{Label, Received};
use crate::address::{Address, Network};
use crate::machine::Input;

impl Universe {
    pub(super) fn happen(&mut self, n: usize, what: Happening) {
        if self.broken.is_some() || what.life().is_some_and(|life| life != self.lives[n]) {
            return;
        }
        let Some(node) = &mut self.nodes[n] else {
            if let Happening::Arrive { frame, .. } = what {
                self.ended(n, frame.content, End::Absent);
            }
            return;
        };
        if let Some(backlog) = &mut node.stopped {
            match what {
                Happening::Arrive { frame, .. } if backlog.len() >= BACKLOG_MAX => {
                    self.trace
                        .note(self.now, n, "has no room for a frame", [0; 2]);
                    self.ended(n, frame.content, End::Absent);
                }
                what => backlog.push_back(what),
            }
            return;
        }
        match what {
            Happening::Arrive {
                frame,
                network,
                source,
            } => self.arrive(n, &frame, network, source),
            Happening::Drain { worker, .. } => self.drain(n, worker),
            Happening::Stage {
                worker,
                token,
                phase,
                ..
            } => self.stage(n, worker, token, &phase),
            Happening::Event { event, .. } => self.on_event(n, event),
            Happening::Installed { token, .. } => {
                self.trace.note(self.now, n, "has installed", [token.0, 0]);
                self.input(n, Input::Installed(token));
            }
            Happening::Removed { token, .. } => self.input(n, Input::Removed(token)),
        }
    }

    fn arrive(&mut self, n: usize, frame: &Frame, network: Network, source: Address) {
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        // Which queue of the network's NICs: not the sender's to say.
        let queues: Vec<usize> = node.living(network).collect();
        if queues.is_empty() {
            return self.ended(n, frame.content, End::Absent);
        }
        let worker = queues[self.random.below(queues.len())];
        if frame.content == Content::Control {
            let bytes = &frame.bytes;
            self.note_m2(n, bytes);
            self.trace
                .note(self.now, n, "hears", [bytes.len() as u64, 0]);
            let input = Input::Frame {
                bytes,
                network,
                source,
            };
            return self.input(n, input);
        }
        if !node.admits(&frame.bytes) {
            const WHY: &str = "SPI not in the driver's map";
            self.trace.note(self.now, n, WHY, [0; 2]);
            return self.ended(n, frame.content, End::Refused(WHY));
        }
        // A worker does what it was told before it looks at frames; but now and
        // then it is told something just after it has looked at its commands.
        if !self.random.chance(50) {
            self.drain(n, worker);
        }
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        let one = &mut node.workers[worker];
        let received = match self.mutant {
            Some(Mutant::WindowFirst) => one.receive_unproven(&frame.bytes),
            _ => one.receive(&frame.bytes),
        };
        match received {
            Received::Refused(why) => {
                self.trace.note(self.now, n, why, [0; 2]);
                self.ended(n, frame.content, End::Refused(why));
            }
            Received::Probe { peer, lane, answer } => {
                *self.opened.entry((n, worker, lane.0)).or_default() += 1;
                if let Some(answer) = answer {
                    self.send_sealed(n, network, answer, Content::Other);
                }
                self.active(n, peer);
            }
            Received::Data {
                from,
                peer,
                lane,
                label,
            } => {
                *self.opened.entry((n, worker, lane.0)).or_default() += 1;
                self.deliver(n, from, label);
                self.ended(n, frame.content, End::Absent);
                self.active(n, peer);
            }
        }
        self.hear(n, worker);
    }

    fn active(&mut self, n: usize, peer: tipsec_dataplane::ids::PeerIndex) {
        if self.activity {
            self.input(n, Input::Activity { peer });
        }
    }

    /// A payload has come out of a worker.
    fn deliver(&mut self, n: usize, from: NodeId, label: Option<Label>) {
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        node.delivered += 1;
        let own = node.id;
        let Some(label) = label else {
            let text = format!("node {own} was given what nobody has written");
            return self.is_wrong((Invariant::TrueSender, text));
        };
        if (label.sender, label.receiver) != (from, own) {
            let text = format!(
                "payload {} of node {} for node {} came to node {own} as node {from}'s",
                label.serial, label.sender, label.receiver
            );
            return self.is_wrong((Invariant::TrueSender, text));
        }
        self.trace
            .note(self.now, n, "is given payload", [label.serial, 0]);
        if let Err((invariant, text)) = self.payloads.delivered(label.serial) {
            self.is_wrong((invariant, format!("{text} at node {own}, from node {from}")));
        }
    }
}
