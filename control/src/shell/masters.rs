//! The operator's steps with master keys: each is stored before it is used, so
//! that a node comes back from a crash with what its peers have seen of it.

use tipsec_dataplane::ids::{MasterId, NodeId};

use super::clock;
use super::node::Node;
use crate::admin::{
    ErrorCode, Failure, MasterIdsReport, MasterPeerReport, MasterReport, MasterStatusReport,
    MasterStepReport, Reply, Response,
};
use crate::derive::MasterRing;
use crate::keyring::{KeyringError, Loaded};
use crate::machine::{Dependent, EventKind, Input, LinkState};
use crate::master::MasterKey;
use crate::masters::{Masters, Role, StepError, Stepped};
use crate::time::Instant;

impl From<KeyringError> for Failure {
    fn from(error: KeyringError) -> Self {
        Self::new(ErrorCode::Internal, error.to_string())
    }
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        Self::new(ErrorCode::Conflict, error.to_string())
    }
}

pub(super) fn no_master_key() -> Failure {
    Failure::new(
        ErrorCode::NoMasterKey,
        "there is no master key yet; set one with 'tipsec-keyctl master set'",
    )
}

pub(super) fn ids_report(ids: &Masters<MasterId>) -> MasterIdsReport {
    MasterIdsReport {
        active: Some(ids.active().to_string()),
        staged: ids.staged().map(ToString::to_string),
        previous: ids.previous().map(ToString::to_string),
    }
}

/// Node ids as they are read: `1002, 1004`.
fn list(nodes: impl Iterator<Item = NodeId>) -> String {
    let texts: Vec<_> = nodes.map(|node| node.to_string()).collect();
    texts.join(", ")
}

/// Who depends on a key that is to go, and what to do about it; `None` if
/// nobody who is up does.
fn refusal(dependents: &[Dependent], master: MasterId, other: MasterId) -> Option<Failure> {
    let up = |holds_other: bool| {
        let up = dependents.iter().filter(|dependent| dependent.is_up);
        list(up.filter(|d| d.holds_other == holds_other).map(|d| d.node))
    };
    let mut reasons = Vec::new();
    let without = up(false);
    if !without.is_empty() {
        reasons.push(format!(
            "node {without} holds no other key of this node: stage {other} there"
        ));
    }
    let with = up(true);
    if !with.is_empty() {
        reasons.push(format!(
            "the present keys with node {with} were made under it: pairs are rekeyed within 60 s \
             after 'master activate' at one end, so try again later"
        ));
    }
    if reasons.is_empty() {
        return None;
    }
    let message = format!(
        "master key {master} is still needed: {}; --force goes on, and takes these links down",
        reasons.join("; ")
    );
    Some(Failure::new(ErrorCode::InUse, message))
}

impl Node {
    /// Uses what the keyring holds, if anything, and says so if it is its older
    /// copy.
    pub fn use_keyring(&mut self, loaded: Loaded) {
        if let Some(why) = loaded.fallback {
            tracing::error!("{why}");
            self.machine
                .note(clock::now(), EventKind::KeyringDamaged, None, why.clone());
            self.keyring_damaged = Some(why);
        }
        self.use_masters(&loaded.masters);
    }

    /// Uses these master keys from now on, and no others.
    fn use_masters(&mut self, masters: &Masters<MasterKey>) {
        let ring = MasterRing::derive(masters, &self.machine.settings().cluster);
        let old = self.machine.masters();
        let is_new = |id| old.is_none_or(|old| old.role_of(id).is_none());
        for attachment in self.hub.attachments_mut() {
            for (_, keys) in ring.iter().filter(|(_, keys)| is_new(keys.id())) {
                // A driver that refuses lets fewer frames through, never more:
                // the HMAC is checked behind it.
                if let Err(error) = attachment.set_master(keys.id(), keys.xdp_gate()) {
                    tracing::error!("{error}");
                }
            }
            let old = old.iter().flat_map(Masters::iter).map(|(_, id)| *id);
            for gone in old.filter(|id| ring.role_of(*id).is_none()) {
                if let Err(error) = attachment.remove_master(gone) {
                    tracing::error!("{error}");
                }
            }
        }
        self.input(Input::SetMasters(ring));
        self.end_evictions_of_retired_keys();
    }

    /// The keys themselves, which only the keyring holds; none are there before
    /// the first `set`.
    fn stored(&self) -> Result<Option<Masters<MasterKey>>, Failure> {
        let stored = self.keyring.load()?.map(|loaded| loaded.masters);
        let cluster = &self.machine.settings().cluster;
        let ids = |masters| MasterRing::derive(masters, cluster).ids();
        if stored.as_ref().map(ids) == self.machine.masters() {
            return Ok(stored);
        }
        let message = format!(
            "{} holds other keys than tipsecd uses: somebody has changed it; restart tipsecd to \
             use it",
            self.keyring.path().display()
        );
        Err(Failure::new(ErrorCode::Internal, message))
    }

    /// Takes a step of the keys that are stored.
    fn step(
        &mut self,
        take: impl FnOnce(Masters<MasterKey>) -> Result<Stepped, StepError>,
    ) -> Result<bool, Failure> {
        let stored = self.stored()?.ok_or_else(no_master_key)?;
        let (masters, changed) = take(stored)?;
        if changed {
            self.keep(&masters)?;
        }
        Ok(changed)
    }

    fn keep(&mut self, masters: &Masters<MasterKey>) -> Result<(), Failure> {
        self.keyring.store(masters)?;
        self.keyring_damaged = None;
        self.use_masters(masters);
        Ok(())
    }

    fn step_report(&self, changed: bool, left_behind: Vec<u32>) -> Response {
        let ids = self.machine.masters();
        Ok(Reply::MasterStep(MasterStepReport {
            changed,
            masters: ids.as_ref().map(ids_report).unwrap_or_default(),
            left_behind,
            evicted: self.evicted_reports(),
        }))
    }

    /// Sets the first key, or one in place of all others, which takes every
    /// link down.
    pub(super) fn set_master(&mut self, key: MasterKey, force: bool) -> Response {
        let role = self.stored()?.and_then(|stored| stored.role_of_key(&key));
        match role {
            Some(Role::Staged) if !force => return Err(StepError::IsStaged.into()),
            Some(Role::Previous) if !force => return Err(StepError::IsPrevious.into()),
            _ => {}
        }
        let changed = role != Some(Role::Active);
        if changed {
            let views = self.machine.peers(clock::now());
            let up = views.iter().filter(|view| view.link == LinkState::Up);
            let up = list(up.map(|view| view.node));
            if !up.is_empty() && !force {
                let message = format!(
                    "this node has another master key, and links to node {up}: change the key \
                     without loss by 'master stage', 'master activate' and 'master retire'; or say \
                     --force, and every link is down until the others have the new key"
                );
                return Err(Failure::new(ErrorCode::InUse, message));
            }
            self.keep(&Masters::only(key))?;
        }
        let master_id = self.machine.master().map(|id| id.to_string());
        Ok(Reply::MasterSet(MasterReport {
            master_id: master_id.unwrap_or_default(),
            changed,
        }))
    }

    pub(super) fn stage_master(&mut self, key: MasterKey, replace: bool) -> Response {
        let staged = self.machine.masters().and_then(|ids| ids.staged().copied());
        if let Some(staged) = staged.filter(|_| replace) {
            let is_other =
                |stored: &Masters<MasterKey>| stored.role_of_key(&key) != Some(Role::Staged);
            let ahead = self.machine.dependents(staged);
            let ahead = list(ahead.iter().filter(|peer| peer.is_up).map(|peer| peer.node));
            if self.stored()?.is_some_and(|stored| is_other(&stored)) && !ahead.is_empty() {
                let message = format!(
                    "the staged key {staged} cannot be replaced: node {ahead} has activated it, and \
                     the present keys with it were made under it; 'master activate' it, and then \
                     stage the next one"
                );
                return Err(Failure::new(ErrorCode::InUse, message));
            }
        }
        let changed = self.step(|masters| masters.stage(key, replace))?;
        self.step_report(changed, Vec::new())
    }

    pub(super) fn activate_master(&mut self) -> Response {
        let changed = self.step(Masters::activate)?;
        self.step_report(changed, Vec::new())
    }

    pub(super) fn retire_master(&mut self, force: bool) -> Response {
        let ids = self.machine.masters().ok_or_else(no_master_key)?;
        let dependents = ids.previous().map(|&previous| {
            let dependents = self.machine.dependents(previous);
            let refusal = refusal(&dependents, previous, *ids.active());
            (dependents, refusal)
        });
        let (dependents, refusal) = dependents.unwrap_or_default();
        if let Some(failure) = refusal.filter(|_| !force) {
            return Err(failure);
        }
        let changed = self.step(|masters| Ok(masters.retire()))?;
        let alone = dependents.iter().filter(|dependent| !dependent.holds_other);
        let left_behind = alone.map(|dependent| dependent.node.value()).collect();
        self.step_report(changed, left_behind)
    }

    pub(super) fn master_status(&self, now: Instant) -> MasterStatusReport {
        let ids = self.machine.masters();
        let views = self.machine.peers(now);
        let peer = |view: &crate::machine::PeerView| MasterPeerReport {
            node: view.node.value(),
            link: view.link.into(),
            sa_master_id: view.master.map(|id| id.to_string()),
            masters: view.holdings.as_ref().map(ids_report),
            claimed_master_id: view.claimed_master.map(|id| id.to_string()),
            evicted: view.evicted,
        };
        MasterStatusReport {
            node: self.machine.settings().node.value(),
            masters: ids.as_ref().map(ids_report).unwrap_or_default(),
            keyring_damaged: self.keyring_damaged.clone(),
            evicted: self.evicted_reports(),
            peers: views.iter().map(peer).collect(),
        }
    }
}
