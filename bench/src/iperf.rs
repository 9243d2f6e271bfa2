//! iperf3 between two namespaces. Imports `netns`, `process`.

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

/// Traffic, and how it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// What.
    pub traffic: Traffic,
    /// Streams at a time, each with the whole traffic.
    pub streams: u8,
    /// Seconds of it before the seconds that count.
    pub warm_up_s: u32,
    /// Seconds that count.
    pub seconds: u32,
    /// Cores of client and server; where the kernel puts them if none.
    pub cores: Option<[usize; 2]>,
    /// UDP: socket buffers of so many bytes at both ends, and bursts each
    /// [`SMOOTH_PACING_US`]. By default iperf3 sends a millisecond's datagrams
    /// at once, to a socket that holds less than that at 2 Gbit/s.
    pub smooth: Option<u32>,
}

/// Interval of a [`Plan::smooth`] sender's bursts, in µs.
pub const SMOOTH_PACING_US: u32 = 100;
/// Largest [`smooth_buffer_bytes`]: some milliseconds at 2 Gbit/s, so that a
/// receiver that shares its core is not without one while it waits for it.
const SMOOTH_BUFFER_MAX: u32 = 2_000_000;

/// Bytes for [`Plan::smooth`]: what this machine lets programs ask for, within
/// reason. iperf3 refuses to run with less than it asked for.
///
/// # Errors
/// [`Error::Io`], [`Error::Unreadable`].
pub fn smooth_buffer_bytes() -> Result<u32> {
    let mut bytes = SMOOTH_BUFFER_MAX;
    for limit in ["rmem_max", "wmem_max"] {
        let path = format!("/proc/sys/net/core/{limit}");
        let text = std::fs::read_to_string(&path).map_err(Error::io(format!("read {path}")))?;
        let limit = text.trim().parse().map_err(|_| Error::Unreadable {
            what: path,
            detail: format!("{text:?} is no number of bytes"),
        })?;
        bytes = bytes.min(limit);
    }
    Ok(bytes)
}

impl Plan {
    /// One stream at once, on any core.
    pub fn new(traffic: Traffic, seconds: u32) -> Self {
        Self {
            traffic,
            streams: 1,
            warm_up_s: 0,
            seconds,
            cores: None,
            smooth: None,
        }
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--time".to_owned(), self.seconds.to_string()];
        let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        if self.warm_up_s > 0 {
            add("--omit", self.warm_up_s.to_string());
        }
        if self.streams > 1 {
            add("--parallel", self.streams.to_string());
        }
        if let Traffic::Udp {
            datagram_bytes,
            rate_mbit_s,
        } = self.traffic
        {
            add("--length", datagram_bytes.to_string());
            add("--bitrate", format!("{rate_mbit_s}M"));
            if let Some(bytes) = self.smooth {
                add("--pacing-timer", SMOOTH_PACING_US.to_string());
                add("--window", bytes.to_string());
            }
            arguments.push("--udp".to_owned());
        }
        arguments
    }
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
    start_planned(from, to, address, Plan::new(traffic, seconds))
}

/// The same by a plan.
///
/// # Errors
/// As [`start`].
pub fn start_planned(from: &Namespace, to: &Namespace, address: &str, plan: Plan) -> Result<Run> {
    let command_at = |namespace: &Namespace, side: usize| match plan.cores {
        Some(cores) => namespace.command_on(cores[side], "iperf3"),
        None => namespace.command("iperf3"),
    };
    let mut server_command = command_at(to, 1);
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
    let mut command = command_at(from, 0);
    command.args(["--client", address]);
    command.args(["--json", "--repeating-payload", "--connect-timeout", "3000"]);
    command.args(plan.arguments());
    Ok(Run {
        client: Process::spawn("iperf3 client", &command)?,
        _server: server,
        seconds: plan.warm_up_s + plan.seconds,
    })
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
    fn a_plan_says_all_of_itself() {
        let plan = Plan {
            streams: 4,
            warm_up_s: 1,
            ..Plan::new(Traffic::Tcp, 5)
        };
        let expected = ["--time", "5", "--omit", "1", "--parallel", "4"];
        assert_eq!(plan.arguments(), expected);
        let traffic = Traffic::Udp {
            datagram_bytes: 1372,
            rate_mbit_s: 250,
        };
        let plain = Plan::new(traffic, 1).arguments().join(" ");
        assert_eq!(plain, "--time 1 --length 1372 --bitrate 250M --udp");
        let smooth = Plan {
            smooth: Some(200_000),
            ..Plan::new(traffic, 1)
        };
        let smooth = smooth.arguments().join(" ");
        assert!(
            smooth.contains("--pacing-timer 100 --window 200000"),
            "{smooth}"
        );
    }

    #[test]
    fn buffers_are_what_the_machine_allows() {
        let bytes = smooth_buffer_bytes().unwrap();
        assert!((1..=SMOOTH_BUFFER_MAX).contains(&bytes), "{bytes}");
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
