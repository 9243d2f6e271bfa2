//! Every state of a single node that was ever reached, and what follows from each
//! thing that can happen in it. A machine is a function of what has happened at
//! its node alone; so all ways of the cluster that do the same to one node share
//! the work. A machine cannot be copied, since its handshakes cannot; it is brought
//! to a state again by the same steps.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::book::{Book, Place};
use super::node::{Effects, Node, Stimulus, Summary};
use super::state::State;
use crate::machine::Digest;
use crate::sim::mutants::Mutant;
use crate::sim::node_id;

/// Names a state of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct LocalId(u32);

pub(super) struct Local {
    /// The first way to it that was found.
    from: From,
    pub(super) digest: Digest,
    pub(super) summary: Summary,
}

#[derive(Clone, Copy)]
enum From {
    Birth(Place, u8),
    Step(LocalId, Duration, Stimulus),
}

/// What a stimulus leads to.
pub(super) struct Step {
    pub(super) to: LocalId,
    pub(super) effects: Effects,
}

/// All of them.
pub(super) struct Locals {
    pub(super) book: Book,
    all: Vec<Local>,
    births: HashMap<(Place, u8), LocalId>,
    by_digest: HashMap<Digest, LocalId>,
    steps: HashMap<(LocalId, Duration, Stimulus), Rc<Step>>,
    /// The node that was stepped last: often the next one, too.
    last: Option<(LocalId, Node)>,
    /// Whether states with the same name are one.
    merges: bool,
    mutant: Option<Mutant>,
}

impl Locals {
    pub(super) fn new(mutant: Option<Mutant>, merges: bool) -> Self {
        Self {
            book: Book::default(),
            all: Vec::new(),
            births: HashMap::new(),
            by_digest: HashMap::new(),
            steps: HashMap::new(),
            last: None,
            merges,
            mutant,
        }
    }

    pub(super) fn get(&self, id: LocalId) -> &Local {
        &self.all[id.0 as usize]
    }

    /// A node's slots with each other node, to read.
    pub(super) fn slots(&mut self, state: &State, place: Place) -> String {
        let node = self.revive(state.at(place).local);
        let others = state.places().filter(|&of| of != place);
        let slots = others.map(|of| {
            let standing = node.machine().standing(node_id(of.into()));
            format!(
                "{place}→{of}: {}, {}",
                standing.initiator, standing.responder
            )
        });
        slots.collect::<Vec<_>>().join(" ")
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// A process that has just started.
    pub(super) fn birth(&mut self, place: Place, life: u8) -> LocalId {
        if let Some(&known) = self.births.get(&(place, life)) {
            return known;
        }
        let node = Node::born(place, life, self.mutant);
        let id = self.enter(From::Birth(place, life), node);
        self.births.insert((place, life), id);
        id
    }

    /// Something happens in a state, so long after what happened last.
    pub(super) fn step(&mut self, id: LocalId, wait: Duration, what: Stimulus) -> Rc<Step> {
        let name = (id, wait, what);
        if let Some(known) = self.steps.get(&name) {
            return Rc::clone(known);
        }
        let mut node = self.revive(id);
        let effects = node.step(&mut self.book, wait, &what);
        let to = self.enter(From::Step(id, wait, what), node);
        let step = Rc::new(Step { to, effects });
        self.steps.insert(name, Rc::clone(&step));
        step
    }

    fn enter(&mut self, from: From, node: Node) -> LocalId {
        let digest = node.digest();
        if self.merges
            && let Some(&known) = self.by_digest.get(&digest)
        {
            return known;
        }
        let id = LocalId(u32::try_from(self.all.len()).expect("fewer states"));
        if self.merges {
            self.by_digest.insert(digest.clone(), id);
        }
        let summary = node.summary(&self.book);
        self.all.push(Local {
            from,
            digest,
            summary,
        });
        self.last = Some((id, node));
        id
    }

    /// A node in this state.
    pub(super) fn revive(&mut self, id: LocalId) -> Node {
        let mut steps = Vec::new();
        let mut at = id;
        let mut node = loop {
            if let Some((_, node)) = self.last.take_if(|(last, _)| *last == at) {
                break node;
            }
            match self.get(at).from {
                From::Birth(place, life) => break Node::born(place, life, self.mutant),
                From::Step(former, wait, what) => {
                    steps.push((wait, what));
                    at = former;
                }
            }
        };
        for (wait, what) in steps.iter().rev() {
            node.step(&mut self.book, *wait, what);
        }
        node
    }
}
