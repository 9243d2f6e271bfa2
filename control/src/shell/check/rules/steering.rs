//! Whether the cluster's frames reach the queue that is configured.

use super::Area;
use crate::shell::check::drivers;
use crate::shell::check::facts::{Bearer, Link, Nic};

pub(super) fn queue(area: &mut Area<'_>, bearer: &Bearer, nic: &Nic) {
    let (name, queue) = (&bearer.interface, bearer.queue);
    let Some(queues) = nic.queues.filter(|queues| queues.rx > 0) else {
        area.unknown(
            "queue",
            "the driver does not tell how many it has",
            "a start finds out",
        );
        return;
    };
    if queue >= queues.rx {
        let count = queue + 1;
        let grow = if queues.rx_max > queue && queues.combined > 0 {
            format!("ethtool -L {name} combined {count}, or ")
        } else if queues.rx_max > queue {
            format!("ethtool -L {name} rx {count}, or ")
        } else {
            String::new()
        };
        area.stop(
            "queue",
            format!(
                "there is no queue {queue}: the device has {}, numbered from 0",
                queues.rx
            ),
            format!("{grow}set {} below {}", bearer.at.queue, queues.rx),
        );
        return;
    }
    area.ok(
        "queue",
        format!("{queue} of {}, at most {}", queues.rx, queues.rx_max),
    );
    if queues.rx > 1 {
        steering(area, bearer, nic);
    }
}

/// A NIC spreads IP flows alone: an EtherType of one's own arrives in one queue,
/// mostly the first.
fn steering(area: &mut Area<'_>, bearer: &Bearer, nic: &Nic) {
    let (name, queue) = (&bearer.interface, bearer.queue);
    let rules = nic.flow_rules.unwrap_or(0);
    if bearer.udp {
        area.unknown(
            "steering",
            "UDP flows spread over all queues; whether by ports is not read",
            format!(
                "ethtool -n {name} rx-flow-hash udp4 (or udp6), and all queues configured in one \
                 [[bearer]]"
            ),
        );
        return;
    }
    if queue == 0 {
        area.ok(
            "steering",
            format!(
                "{rules} flow rules; without one, frames with an EtherType of their own mostly \
                 arrive in queue 0"
            ),
        );
        return;
    }
    if rules > 0 {
        area.unknown(
            "steering",
            format!("{rules} flow rules; whether one leads to queue {queue} is not read"),
            format!("ethtool -n {name}"),
        );
        return;
    }
    let mac = match &bearer.link {
        Link::Usable { mac, .. } => mac.as_str(),
        _ => "MAC",
    };
    let steers_ip_alone = nic
        .driver
        .as_ref()
        .is_some_and(|driver| drivers::steers_ip_alone(&driver.name));
    let ntuple = nic
        .features
        .get("rx-ntuple-filter")
        .filter(|_| !steers_ip_alone);
    let rule = format!("ethtool -N {name} flow-type ether dst {mac} action {queue}");
    let advice = match ntuple {
        Some(ntuple) if ntuple.on => rule,
        Some(ntuple) if ntuple.changeable => format!("ethtool -K {name} ntuple on && {rule}"),
        _ => format!(
            "this driver has no rules for that: set {} to 0, or leave the NIC one queue (`ethtool -L`)",
            bearer.at.queue
        ),
    };
    area.change(
        "steering",
        format!("no flow rules, and frames with an EtherType of their own mostly arrive in queue 0, not {queue}"),
        advice,
    );
}
