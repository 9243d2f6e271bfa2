//! iperf3 between two namespaces. Imports `netns`, `process`.

use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::process::Process;
use crate::wait::{self, Look};

/// What to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Traffic {
    /// One TCP stream, as fast as it goes.
    Tcp,
    /// UDP datagrams of a size at a rate.
    Udp {
        /// Payload bytes of a datagram.
        datagram_bytes: u32,
        /// Mbit/s of payload.
        rate_mbit_s: u32,
    },
}

/// What came of it, as iperf3 saw it.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Outcome {
    /// Mbit/s of payload that arrived.
    pub received_mbit_s: f64,
    /// Seconds that it sent.
    pub seconds: f64,
    /// UDP: datagrams sent.
    pub datagrams: u64,
    /// UDP: datagrams that did not arrive, whoever lost them.
    pub lost_datagrams: u64,
    /// TCP: segments sent again.
    pub retransmits: u64,
}

#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    end: Option<End>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Deserialize)]
struct End {
    #[serde(default)]
    sum: Option<Sum>,
    #[serde(default)]
    sum_sent: Option<Sum>,
    #[serde(default)]
    sum_received: Option<Sum>,
}

#[derive(Deserialize)]
struct Sum {
    seconds: f64,
    bits_per_second: f64,
    #[serde(default)]
    retransmits: u64,
    #[serde(default)]
    packets: u64,
    // Duplicates would make it negative.
    #[serde(default)]
    lost_packets: i64,
}

/// Reads the JSON report of a client.
///
/// # Errors
/// [`Error::Unreadable`], with iperf3's own words if it has failed.
pub fn parse(json: &str) -> Result<Outcome> {
    let unreadable = |detail: String| Error::Unreadable {
        what: "iperf3's report".into(),
        detail,
    };
    let report: Report =
        serde_json::from_str(json).map_err(|error| unreadable(error.to_string()))?;
    if let Some(error) = report.error {
        return Err(unreadable(error));
    }
    let end = report.end.ok_or_else(|| unreadable("no end".into()))?;
    let received = end
        .sum_received
        .ok_or_else(|| unreadable("no sum_received".into()))?;
    let datagrams = end.sum.as_ref().unwrap_or(&received);
    Ok(Outcome {
        received_mbit_s: received.bits_per_second / 1e6,
        seconds: received.seconds,
        datagrams: datagrams.packets,
        lost_datagrams: u64::try_from(datagrams.lost_packets).unwrap_or(0),
        retransmits: end.sum_sent.map_or(0, |sent| sent.retransmits),
    })
}

/// A client and its server, both running.
pub struct Run {
    client: Process,
    _server: Process,
    seconds: u32,
}

/// Starts a server in `to` and a client in `from` that sends to `address` for
/// `seconds`. The payload is the marker ([`crate::wire::MARKER`]).
///
/// # Errors
/// [`Error::Command`], [`Error::Timeout`] if the server does not listen.
pub fn start(
    from: &Namespace,
    to: &Namespace,
    address: &str,
    traffic: Traffic,
    seconds: u32,
) -> Result<Run> {
    let mut server_command = to.command("iperf3");
    // Its banner is the sign that it listens.
    server_command.args(["--server", "--one-off", "--forceflush"]);
    let mut server = Process::spawn("iperf3 server", &server_command)?;
    wait::until(
        "iperf3's server to listen",
        Duration::from_secs(5),
        Duration::from_millis(5),
        || {
            server.check_running()?;
            let said = server.last_lines(5);
            Ok(if said.contains("listening") {
                Look::Done(())
            } else {
                Look::NotYet(format!("it said {said:?}"))
            })
        },
    )?;
    let mut command = from.command("iperf3");
    let time = seconds.to_string();
    command.args(["--client", address, "--time", &time]);
    command.args(["--json", "--repeating-payload", "--connect-timeout", "3000"]);
    add_traffic(&mut command, traffic);
    Ok(Run {
        client: Process::spawn("iperf3 client", &command)?,
        _server: server,
        seconds,
    })
}

fn add_traffic(command: &mut Command, traffic: Traffic) {
    if let Traffic::Udp {
        datagram_bytes,
        rate_mbit_s,
    } = traffic
    {
        command.arg("--udp");
        command.args(["--length", &datagram_bytes.to_string()]);
        command.args(["--bitrate", &format!("{rate_mbit_s}M")]);
    }
}

impl Run {
    /// Waits for the end.
    ///
    /// # Errors
    /// [`Error::Timeout`] 15 s after it should have ended, [`Error::Unreadable`]
    /// if it failed, [`Error::Interrupted`].
    pub fn finish(mut self) -> Result<Outcome> {
        let deadline = Duration::from_secs(u64::from(self.seconds) + 15);
        let (_, report) = self.client.finish(deadline)?;
        // iperf3 reports failure inside the JSON, and better than by status.
        parse(&report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_tcp_report() {
        let outcome = parse(include_str!("../tests/data/iperf3-tcp.json")).unwrap();
        assert!((outcome.received_mbit_s - 24_401.0).abs() < 10.0);
        assert_eq!(outcome.retransmits, 195);
        assert_eq!(outcome.datagrams, 0);
    }

    #[test]
    fn reads_a_udp_report() {
        let outcome = parse(include_str!("../tests/data/iperf3-udp.json")).unwrap();
        assert!((outcome.received_mbit_s - 99.9).abs() < 0.1);
        assert_eq!((outcome.datagrams, outcome.lost_datagrams), (9608, 0));
        assert!((outcome.seconds - 1.0).abs() < 0.01);
    }

    #[test]
    fn failure_comes_in_its_own_words() {
        let json = r#"{"start":{},"intervals":[],"end":{},
            "error":"unable to connect to server: Connection timed out"}"#;
        let error = parse(json).unwrap_err().to_string();
        assert!(error.contains("unable to connect"), "{error}");
        assert!(parse(r#"{"end":{}}"#).is_err());
        assert!(parse("iperf3: unrecognized option").is_err());
    }
}
