//! An alarm when a pair that is up goes on with old keys: rekeys fail, for
//! whatever reason, and somebody has to look, long before a limit is reached.

use super::peer::Peer;
use super::{Context, EventKind};

/// Keys are old after so many of the pair's rekey intervals.
const INTERVALS: u32 = 3;

impl Peer {
    /// Counts from now: keys are new, or the interval is. Never with rekeying off
    /// at this node: the peer's may be off by now as well, which only its next
    /// offer says.
    pub(super) fn watch_age(&mut self, cx: &Context<'_>) {
        let own = cx.core.settings.rekey_interval;
        let interval = own.and_then(|_| self.pair_interval(cx));
        self.old_at = interval.map(|interval| cx.now + interval * INTERVALS);
    }

    pub(super) fn age_timer(&mut self, cx: &mut Context<'_>) {
        if self.old_at.is_none_or(|at| cx.now < at) {
            return;
        }
        // Once, until there are new keys. Of a peer that is down, that is known
        // already; and when it is back, a rekey is due.
        self.old_at = None;
        let (true, Some(since)) = (self.link.is_up(), self.keys_since) else {
            return self.watch_age(cx);
        };
        let text = format!(
            "keys with node {} are {} s old, more than {INTERVALS} rekey intervals: rekeys with it \
             do not complete; traffic goes on. See the events of both nodes, and whether \
             handshakes arrive ('control' in 'status')",
            self.node,
            cx.now.since(since).as_secs()
        );
        cx.note(EventKind::KeysOld, self.node, text);
    }
}
