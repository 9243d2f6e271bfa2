//! What is set against what, and what is wanted of it. Pure. Imports `results`.

use super::through::{Load, THROUGHPUT, TRAFFIC};
use crate::peers;
use crate::results::{Bound, Comparison, Sample, Series};

/// Tunnels, as opposed to the wire in clear.
const TUNNELS: [&str; 3] = ["boringtun", "wireguard-go", "openvpn"];
/// Tunnels that TCP is to beat by [`TCP_TIMES`].
const WIREGUARD: [&str; 2] = ["boringtun", "wireguard-go"];

/// TCP through Tipsec by TCP through WireGuard in userspace, at least.
const TCP_TIMES: f64 = 6.0;
/// TCP through Tipsec by TCP in clear without offloads, at least.
const TCP_OF_CLEAR: f64 = 0.7;
/// UDP through Tipsec by the best tunnel's, at least.
const UDP_TIMES: f64 = 3.0;

/// All comparisons of those that took part.
pub(super) fn compare(series: &[Series], loads: &[Load]) -> Vec<Comparison> {
    loads
        .iter()
        .flat_map(|load| {
            let of_load = OfLoad::new(series, *load);
            match load {
                Load::Tcp { .. } => of_load.tcp(),
                Load::Udp => of_load.udp(),
            }
        })
        .collect()
}

/// The series of one kind of traffic.
struct OfLoad<'a> {
    series: Vec<&'a Series>,
    name: String,
    load: Load,
}

impl<'a> OfLoad<'a> {
    fn new(series: &'a [Series], load: Load) -> Self {
        let traffic = load.name();
        let is_of_load = |series: &&Series| series.label(TRAFFIC) == traffic;
        let name = match load {
            Load::Tcp { streams: 1 } => "TCP".to_owned(),
            Load::Tcp { streams } => format!("TCP in {streams} streams"),
            Load::Udp => "UDP without loss".to_owned(),
        };
        Self {
            series: series.iter().filter(is_of_load).collect(),
            name,
            load,
        }
    }

    fn find(&self, contender: &str) -> Option<&'a Series> {
        let mut series = self.series.iter().copied();
        series.find(|series| series.contender == contender)
    }

    fn ratio(&self, a: &str, b: &str, wanted: Option<f64>) -> Option<Comparison> {
        self.ratio_to(a, self.find(b)?, wanted)
    }

    fn ratio_to(&self, a: &str, b: &Series, wanted: Option<f64>) -> Option<Comparison> {
        let what = format!("{}: {a} / {}", self.name, b.contender);
        let wanted = wanted.map(Bound::AtLeast);
        Comparison::ratio(what, self.find(a)?, b, THROUGHPUT, wanted)
    }

    /// Tipsec with its default cipher against all; with WireGuard's only cipher
    /// against WireGuard.
    fn tcp(&self) -> Vec<Comparison> {
        // What is wanted is wanted of one stream.
        let of_one = |bound| (self.load == Load::Tcp { streams: 1 }).then_some(bound);
        let mut found = Vec::new();
        for peer in WIREGUARD {
            for own in [peers::TIPSEC, peers::TIPSEC_CHACHA20] {
                found.push(self.ratio(own, peer, of_one(TCP_TIMES)));
            }
        }
        found.push(self.ratio(peers::TIPSEC, "openvpn", None));
        let clear = of_one(TCP_OF_CLEAR);
        found.push(self.ratio(peers::TIPSEC, peers::VETH_OFF, clear));
        found.push(self.ratio(peers::TIPSEC, peers::VETH_ON, None));
        found.into_iter().flatten().collect()
    }

    fn udp(&self) -> Vec<Comparison> {
        let mut found = Vec::new();
        if let Some(best) = self.best_tunnel() {
            found.push(self.ratio_to(peers::TIPSEC, &best, Some(UDP_TIMES)));
            found.push(self.ratio_to(peers::TIPSEC_CHACHA20, &best, None));
        }
        for peer in TUNNELS.into_iter().chain([peers::VETH_OFF]) {
            found.push(self.ratio(peers::TIPSEC, peer, None));
        }
        found.into_iter().flatten().collect()
    }

    /// A series of whoever was best in each round; none if nobody took part.
    fn best_tunnel(&self) -> Option<Series> {
        let tunnels = TUNNELS.iter().filter_map(|name| self.find(name));
        let of_tunnels: Vec<&[f64]> = tunnels
            .map(|series| series.samples(THROUGHPUT))
            .filter(|samples| !samples.is_empty())
            .collect();
        let rounds = of_tunnels.iter().map(|samples| samples.len()).min()?;
        let mut best = Series::new("", "best tunnel", &[(TRAFFIC, &self.load.name())]);
        for round in 0..rounds {
            let of_round = of_tunnels.iter().map(|samples| samples[round]);
            best.add(Sample {
                metrics: vec![(THROUGHPUT, "Gbit/s", of_round.fold(0.0, f64::max))],
                ..Sample::default()
            });
        }
        Some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(contender: &str, load: Load, samples: &[f64]) -> Series {
        let mut series = Series::new("tap", contender, &[(TRAFFIC, &load.name())]);
        for &value in samples {
            series.add(Sample {
                metrics: vec![(THROUGHPUT, "Gbit/s", value)],
                ..Sample::default()
            });
        }
        series
    }

    fn outcome<'a>(comparisons: &'a [Comparison], a: &str, b: &str) -> &'a Comparison {
        let found = comparisons.iter().find(|c| c.a == a && c.b == b);
        found.unwrap_or_else(|| panic!("no {a} / {b} in {comparisons:?}"))
    }

    #[test]
    fn tcp_is_set_against_wireguard_with_either_cipher_and_against_the_wire() {
        let one = Load::Tcp { streams: 1 };
        let all = [
            series("tipsec", one, &[6.0, 6.0]),
            series("tipsec-chacha20", one, &[3.0, 3.0]),
            series("boringtun", one, &[1.0, 0.5]),
            series("openvpn", one, &[]).skipped("not installed"),
            series("veth-offloads-off", one, &[8.0, 8.0]),
            series("veth-offloads-on", one, &[60.0, 60.0]),
            // Of another kind, and no business of TCP's.
            series("tipsec", Load::Udp, &[1.0, 1.0]),
        ];
        let found = compare(&all, &[one]);
        assert_eq!(found.len(), 4, "{found:?}");
        let boringtun = outcome(&found, "tipsec", "boringtun");
        assert_eq!(boringtun.samples, [6.0, 12.0]);
        assert_eq!(boringtun.met, Some(true));
        let chacha20 = outcome(&found, "tipsec-chacha20", "boringtun");
        assert_eq!(chacha20.met, Some(false), "3 and 6, wanted 6");
        let clear = outcome(&found, "tipsec", "veth-offloads-off");
        assert_eq!((clear.samples[0], clear.met), (0.75, Some(true)));
        assert_eq!(outcome(&found, "tipsec", "veth-offloads-on").wanted, None);
    }

    #[test]
    fn several_streams_are_shown_and_not_judged() {
        let four = Load::Tcp { streams: 4 };
        let all = [
            series("tipsec", four, &[1.0]),
            series("boringtun", four, &[1.0]),
            series("veth-offloads-off", four, &[1.0]),
        ];
        let found = compare(&all, &[Load::Tcp { streams: 1 }, four]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|comparison| comparison.met.is_none()));
        assert!(found[0].what.contains("4 streams"));
    }

    #[test]
    fn udp_is_set_against_the_best_of_each_round() {
        let all = [
            series("tipsec", Load::Udp, &[3.0, 3.0, 3.0]),
            series("boringtun", Load::Udp, &[1.0, 0.1, 0.5]),
            series("openvpn", Load::Udp, &[0.5, 1.5, 1.0]),
            series("veth-offloads-on", Load::Udp, &[9.0, 9.0, 9.0]),
        ];
        let found = compare(&all, &[Load::Udp]);
        let best = outcome(&found, "tipsec", "best tunnel");
        assert_eq!(best.samples, [3.0, 2.0, 3.0]);
        assert_eq!(best.met, Some(true));
        assert_eq!(outcome(&found, "tipsec", "openvpn").wanted, None);
    }

    #[test]
    fn without_tunnels_there_is_no_best_one() {
        let all = [
            series("tipsec", Load::Udp, &[3.0]),
            series("openvpn", Load::Udp, &[]).skipped("not installed"),
        ];
        assert_eq!(compare(&all, &[Load::Udp]), []);
    }

    #[test]
    fn every_name_here_is_a_peer() {
        assert!(TUNNELS.iter().all(|name| peers::NAMES.contains(name)));
        assert!(WIREGUARD.iter().all(|name| TUNNELS.contains(name)));
    }
}
