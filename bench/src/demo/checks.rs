//! The conditions of success that follow from what was counted and captured.
//! Imports `accounts`.

use super::Stage;
use crate::accounts::{Balance, KeyLoss};

/// Faults named in a check; more are only counted.
const NAMED: usize = 5;

impl Stage<'_> {
    /// The books of one stretch of time.
    pub(super) fn check_balance(&mut self, when: &str, balance: &Balance) {
        let faults = list(balance.unaccounted.iter().cloned());
        self.summary.check(
            &format!("every frame accounted for, {when}"),
            balance.unaccounted.is_empty() && balance.sealed > 0,
            faults.unwrap_or_else(|| {
                format!(
                    "{} sealed, {} opened, the rest named by counters",
                    balance.sealed, balance.opened
                )
            }),
        );
        let losses = list(balance.key_losses.iter().map(words));
        let expected: u64 = balance
            .key_losses_of_killed
            .iter()
            .map(|loss| loss.frames)
            .sum();
        self.summary.check(
            &format!("no frame lost for a key reason, {when}"),
            balance.key_losses.is_empty(),
            losses.unwrap_or_else(|| match expected {
                0 => "0 frames".to_owned(),
                frames => format!("0 frames; {frames} to or from the killed node, as expected"),
            }),
        );
    }

    /// What the captures found.
    pub(super) fn check_wire(&mut self) {
        let found = self.capture.findings();
        self.summary.captured_frames = found.frames;
        self.summary.searched_frames = found.searched;
        let described = list(found.descriptions.iter().cloned()).unwrap_or_default();
        let frames = found.frames;
        self.summary.check(
            "only Tipsec frames on the wire",
            found.foreign == 0 && found.alarms == 0 && frames > 0,
            match found.alarms {
                0 => format!("every one of {frames} frames"),
                alarms => format!("{alarms} alarms; {described}"),
            },
        );
        self.summary.check(
            "the payload's marker was not seen",
            found.marked == 0 && found.searched > 0,
            match found.marked {
                0 => format!(
                    "every frame looked at in one place, {} searched whole",
                    found.searched
                ),
                marked => format!("in {marked} frames; {described}"),
            },
        );
        self.summary.check(
            "no packet number twice on a lane",
            found.repeated == 0 && found.numbers > 0,
            match found.repeated {
                0 => format!("{} different ones seen", found.numbers),
                repeated => format!("{repeated} repeated; {described}"),
            },
        );
    }

    /// Whether there was rekeying to survive.
    pub(super) fn check_rekeys(&mut self) {
        let without = list(self.phases_without_rekey.iter().cloned());
        self.summary.check(
            "every pair rekeyed in every phase",
            without.is_none() && self.summary.rekeys > 0,
            match without {
                None => format!("{} times in all", self.summary.rekeys),
                Some(names) => format!("some pair did not in: {names}"),
            },
        );
    }
}

fn words(loss: &KeyLoss) -> String {
    let peer = loss
        .peer
        .map_or_else(String::new, |peer| format!(" of peer {peer}"));
    format!("node {}: {} {}{peer}", loss.node, loss.frames, loss.reason)
}

/// The first few and how many more; `None` if there are none.
fn list(items: impl ExactSizeIterator<Item = String>) -> Option<String> {
    let count = items.len();
    if count == 0 {
        return None;
    }
    let mut text = items.take(NAMED).collect::<Vec<_>>().join("; ");
    if count > NAMED {
        text.push_str(&format!("; and {} more", count - NAMED));
    }
    Some(text)
}
