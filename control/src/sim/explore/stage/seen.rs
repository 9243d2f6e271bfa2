//! What a step did to the subject, in the words of the state table.

use std::collections::BTreeSet;

use super::{PEER, SUBJECT, Stage};
use crate::frame::MessageType;
use crate::machine::{EventKind, Standing};
use crate::sim::explore::book::{Content, Frame, MessageId, Place};
use crate::sim::explore::node::Effects;
use crate::sim::node_id;

/// What a step did to the subject.
pub(in crate::sim::explore) struct Seen {
    pub(in crate::sim::explore) before: Standing,
    pub(in crate::sim::explore) after: Standing,
    pub(in crate::sim::explore) did: Vec<String>,
}

impl Stage {
    /// What a step does to the subject.
    pub(in crate::sim::explore) fn observe(
        &mut self,
        act: impl FnOnce(&mut Self) -> Effects,
    ) -> Seen {
        let peer = node_id(PEER.into());
        let machine = |stage: &Self| {
            let machine = stage.node(SUBJECT).machine();
            let events: Vec<_> = machine.journal().after(0).map(|event| event.seq).collect();
            (
                machine.standing(peer),
                machine.counts().by_name(),
                events.len(),
            )
        };
        let said: BTreeSet<MessageId> = self.log.iter().copied().collect();
        let (before, counts, events) = machine(self);
        let effects = act(self);
        let (after, new_counts, _) = machine(self);
        let mut did = Vec::new();
        for (_, id) in &effects.messages {
            did.push(self.said_as(*id, said.contains(id)));
        }
        for (is, name) in [
            (effects.installs_rx, "RX"),
            (effects.installs_tx, "TX"),
            (effects.removes_rx, "wipes RX"),
        ] {
            if is {
                did.push(name.to_owned());
            }
        }
        let is_question =
            |(_, frame): &(Place, Frame)| matches!(frame.content, Content::Request(_));
        if effects.frames.iter().any(is_question) {
            did.push("probe".to_owned());
        }
        let journal = self.node(SUBJECT).machine().journal();
        let new = journal.after(0).skip(events).map(|event| event.kind);
        // The way in which an exchange is made due here.
        for kind in new.filter(|kind| *kind != EventKind::BudgetSpent) {
            did.push(format!("event `{}`", kind.name()));
        }
        for (name, value) in new_counts {
            let is_new = value > counts.get(&name).copied().unwrap_or_default();
            match name.as_str() {
                "exchanges_completed" if is_new => did.push("completed".to_owned()),
                _ if is_new && is_told(&name) => did.push(format!("`{name}`")),
                _ => {}
            }
        }
        did.dedup();
        Seen { before, after, did }
    }

    fn said_as(&self, id: MessageId, is_known: bool) -> String {
        let message = self.book.message(id);
        let kind = match message.kind {
            MessageType::Beacon => "beacon",
            MessageType::Hello => "hello",
            MessageType::M1 if message.is_bare => "bare m1",
            MessageType::M1 => "m1",
            MessageType::M2 => "m2",
            MessageType::M3 => "m3",
        };
        match is_known {
            true => format!("same {kind}"),
            false => kind.to_owned(),
        }
    }
}

/// Counts that say why a message had no effect; others say again what is seen.
fn is_told(name: &str) -> bool {
    !matches!(
        name,
        "repeated"
            | "retransmitted"
            | "hellos_sent"
            | "exchanges_started"
            | "exchanges_timed_out"
            | "rekeys_completed"
    )
}
