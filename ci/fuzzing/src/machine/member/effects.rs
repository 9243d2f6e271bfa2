//! What a member makes the victim do: kept for the member's next step, and held
//! to what must never happen. Imports the parent.

use std::collections::BTreeSet;

use tipsec_control::frame::{ControlFrame, MessageType};
use tipsec_control::machine::Action;
use tipsec_control::message::{Hello, MAX_LANES, Offer, Start};
use tipsec_dataplane::ids::{NodeId, Spi};

use super::super::{RX_SAS_MAX, SPI_SLOTS, sent};
use super::{Asked, Attack, Begun, Given, LANES, NAMES, NO_COOKIE};

impl Attack {
    /// What the shell and the workers would do, and what must hold of it.
    pub(super) fn on_actions(&mut self, actions: Vec<Action>) {
        self.keep_cookies(&actions);
        for m2 in sent(&actions, MessageType::M2) {
            let read = ControlFrame::decode(m2).unwrap();
            let exchange = read.header().exchange;
            let asked = self.asked.iter().position(|m1| m1.exchange == exchange);
            // Sent again, or to somebody else's m1.
            let Some(at) = asked else { continue };
            let Asked { name, noise, .. } = self.asked.swap_remove(at);
            let Ok((session, offer)) = noise.finish(read.body()) else {
                panic!("the victim's m2 does not fit the m1");
            };
            Offer::decode(&offer).expect("the victim's offer can be read");
            self.begun.push(Begun {
                name,
                exchange,
                session,
            });
        }
        self.victims_m1
            .extend(sent(&actions, MessageType::M1).map(<[u8]>::to_vec));
        while self.victims_m1.len() > NAMES.len() {
            self.victims_m1.pop_front();
        }
        for action in actions {
            self.on_action(action);
        }
        self.check_lanes();
    }

    fn keep_cookies(&mut self, actions: &[Action]) {
        for hello in sent(actions, MessageType::Hello) {
            let read = ControlFrame::decode(hello).unwrap();
            let hello = Hello::decode(read.body()).expect("the victim's hello can be read");
            let of = |m1: &&Asked| m1.exchange == read.header().exchange;
            if let Some(m1) = self.asked.iter().find(of)
                && let Some(start) = &m1.start
                && hello.cookie != NO_COOKIE
            {
                let given = Given {
                    cookie: hello.cookie,
                    addresses: start.addresses,
                };
                self.cookies.insert((m1.name, start.initiator), given);
            }
        }
    }

    /// Who has not shown that it receives where it says costs no room.
    pub(super) fn check_cookie(&self, name: NodeId, start: Option<&Start>, actions: &[Action]) {
        if !actions
            .iter()
            .any(|a| matches!(a, Action::InstallRx { .. }))
        {
            return;
        }
        let start = start.expect("an m1 that cannot be read makes an SA");
        let given = self.cookies.get(&(name, start.initiator));
        let given = given.expect("an SA without a cookie");
        assert_eq!(start.cookie, given.cookie, "a cookie that was not given");
        assert_eq!(start.addresses, given.addresses, "for other addresses");
    }

    fn on_action(&mut self, action: Action) {
        match action {
            Action::InstallRx { token, lanes } => {
                assert!((1..=MAX_LANES).contains(&lanes.len()));
                for lane in lanes {
                    assert!(lane.spi.index() < SPI_SLOTS as usize);
                    let parts = [lane.secret.key(), lane.secret.iv()];
                    self.receiving.see("a key to receive with", &parts);
                    let same_place = |spi: &&Spi| spi.index() == lane.spi.index();
                    assert!(self.lanes.keys().find(same_place).is_none(), "{}", lane.spi);
                    self.lanes.insert(lane.spi, (lane.peer, lane.epoch));
                }
                self.installs.push_back(token);
            }
            Action::StageRx { token, phase } => {
                assert!(self.lanes.contains_key(&phase.spi));
                let parts = [phase.secret.key(), phase.secret.iv()];
                // The second phase's came with the lane.
                self.receiving.see("a phase to receive", &parts);
                self.installs.push_back(token);
            }
            Action::RemoveRx { token, spis } => {
                for spi in spis {
                    assert!(self.lanes.remove(&spi).is_some(), "{spi} is not there");
                }
                self.removals.push_back(token);
            }
            Action::InstallTx { lanes, .. } => {
                assert!(lanes.len() <= LANES, "more than there are workers");
                for lane in lanes {
                    assert!(usize::from(lane.lane.0) < LANES);
                    assert!(lane.budget.soft <= lane.budget.hard);
                    let parts = [lane.secret.key(), lane.secret.iv()];
                    self.sending.see("a key to send with", &parts);
                }
            }
            Action::SendProbe { peer, probe, .. } => {
                self.probes.push_back((peer, probe));
                if self.probes.len() > 8 {
                    self.probes.pop_front();
                }
            }
            _ => {}
        }
    }

    fn check_lanes(&self) {
        let sas: BTreeSet<_> = self
            .lanes
            .values()
            .map(|&(peer, epoch)| (peer.0, epoch))
            .collect();
        for peer in sas.iter().map(|(peer, _)| peer) {
            let of_pair = sas.iter().filter(|(of, _)| of == peer).count();
            assert!(of_pair <= RX_SAS_MAX, "{of_pair} receiving SAs of a pair");
        }
    }
}
