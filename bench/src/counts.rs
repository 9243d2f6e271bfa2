//! What the kernel counts between two daemons: devices and queues, as `ip` and
//! `tc` print it. Imports `netns`.

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::netns::Namespace;

/// Frames that one device lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceDrops {
    /// On the way in, `rx dropped`.
    pub rx: u64,
    /// On the way out, `tx dropped`.
    pub tx: u64,
    /// In its queue, before the way out.
    pub qdisc: u64,
}

#[derive(Deserialize)]
struct Link {
    stats64: Stats,
}

#[derive(Deserialize)]
struct Stats {
    rx: Side,
    tx: Side,
}

#[derive(Deserialize)]
struct Side {
    dropped: u64,
}

#[derive(Deserialize)]
struct Qdisc {
    drops: u64,
}

fn unreadable(what: &str) -> impl FnOnce(serde_json::Error) -> Error + use<'_> {
    move |error| Error::Unreadable {
        what: what.to_owned(),
        detail: error.to_string(),
    }
}

/// Reads `ip -s -j link show dev …`: dropped in, dropped out.
///
/// # Errors
/// [`Error::Unreadable`].
pub fn parse_link(json: &str) -> Result<(u64, u64)> {
    let links: Vec<Link> = serde_json::from_str(json).map_err(unreadable("ip -s -j link"))?;
    let link = links.first().ok_or_else(|| Error::Unreadable {
        what: "ip -s -j link".into(),
        detail: "no device in it".into(),
    })?;
    Ok((link.stats64.rx.dropped, link.stats64.tx.dropped))
}

/// Reads `tc -s -j qdisc show dev …`: drops of all its queues.
///
/// # Errors
/// [`Error::Unreadable`].
pub fn parse_qdisc(json: &str) -> Result<u64> {
    let queues: Vec<Qdisc> = serde_json::from_str(json).map_err(unreadable("tc -s -j qdisc"))?;
    Ok(queues.iter().map(|queue| queue.drops).sum())
}

/// Asks for the drops of `device` in `namespace`.
///
/// # Errors
/// [`Error::Command`], [`Error::Unreadable`].
pub fn device_drops(namespace: &Namespace, device: &str) -> Result<DeviceDrops> {
    let (rx, tx) = parse_link(&namespace.ip(&format!("-s -j link show dev {device}"))?)?;
    let qdisc = parse_qdisc(&namespace.exec(&format!("tc -s -j qdisc show dev {device}"))?)?;
    Ok(DeviceDrops { rx, tx, qdisc })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ip_prints() {
        let json = r#"[{"ifindex":2,"ifname":"eth1","stats64":{
            "rx":{"bytes":307,"packets":67320,"errors":0,"dropped":5,"over_errors":0,"multicast":0},
            "tx":{"bytes":356,"packets":54057,"errors":0,"dropped":7,"carrier_errors":0}}}]"#;
        assert_eq!(parse_link(json).unwrap(), (5, 7));
        assert!(parse_link("[]").is_err());
        assert!(parse_link("").is_err());
    }

    #[test]
    fn reads_what_tc_prints() {
        let json = r#"[{"kind":"pfifo","handle":"8001:","root":true,"refcnt":3,
            "options":{"limit":10000},"bytes":3569122,"packets":54057,"drops":11,
            "overlimits":0,"requeues":3,"backlog":0,"qlen":0},{"kind":"x","drops":2}]"#;
        assert_eq!(parse_qdisc(json).unwrap(), 13);
        assert_eq!(parse_qdisc("[]").unwrap(), 0);
        assert!(parse_qdisc(r#"[{"kind":"pfifo"}]"#).is_err());
    }
}
