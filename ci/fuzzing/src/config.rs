//! Target `config`: the configuration file. Imports nothing of the crate.

use std::collections::BTreeSet;

use tipsec_control::config::{Config, MAX_FAILED_OPENS, MAX_PACKETS_PER_KEY};
use tipsec_control::interval::{MAX_INTERVAL_S, MIN_INTERVAL_S};
use tipsec_control::message::MAX_LANES;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "config",
    run,
    seeds,
};

fn run(data: &[u8]) {
    // The daemon reads text or says that it is none.
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Config::parse(text, "fuzz.toml") {
        Ok(config) => {
            check(&config);
            let again = Config::parse(text, "fuzz.toml").expect("the same text");
            assert_eq!(format!("{again:?}"), format!("{config:?}"));
        }
        Err(error) => {
            assert!(!error.message.is_empty());
            let lines = 1 + text.bytes().filter(|&byte| byte == b'\n').count();
            assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)));
            assert!(error.to_string().starts_with("fuzz.toml"));
        }
    }
}

/// The limits of docs/operations.md.
fn check(config: &Config) {
    assert!((1..=63).contains(&config.cluster.as_str().len()));
    assert_ne!(config.node.value(), 0);
    assert!(config.state_dir.is_absolute() && config.admin.socket.is_absolute());
    assert!((200..=30_000).contains(&config.tolerance_ms));
    assert!((1024..=MAX_PACKETS_PER_KEY).contains(&config.packets_per_key));
    assert!((1..=MAX_FAILED_OPENS).contains(&config.failed_opens));
    let range = MIN_INTERVAL_S..=MAX_INTERVAL_S;
    assert!(config.rekey_interval_s.is_none_or(|s| range.contains(&s)));
    let suites: BTreeSet<u16> = config.suites.iter().map(|s| s.code()).collect();
    assert_eq!(suites.len(), config.suites.len());
    assert!(!suites.is_empty());

    let queues = config.bearers.iter().map(|b| b.queues.len()).sum::<usize>();
    assert!((1..=MAX_LANES).contains(&queues), "{queues} workers");
    let mut taken = BTreeSet::new();
    for bearer in &config.bearers {
        assert!(!bearer.queues.is_empty());
        assert!(bearer.cores.is_empty() || bearer.cores.len() == bearer.queues.len());
        assert!((1..=15).contains(&bearer.interface.len()), "IFNAMSIZ");
        assert!(!config.tap.enabled || bearer.interface != config.tap.name);
        for queue in &bearer.queues {
            let fresh = taken.insert((bearer.interface.clone(), *queue));
            assert!(fresh, "two sockets at one queue");
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let least = "cluster = \"c\"\nnode = 1\n[[bearer]]\ninterface = \"e\"\n";
    let with = |more: &str| format!("{least}{more}").into_bytes();
    let first = |more: &str| format!("{more}\n{least}").into_bytes();
    vec![
        Config::example().as_bytes().to_vec(),
        least.as_bytes().to_vec(),
        with("queues = [0, 1]\ncores = [2, 3]\nmode = \"native-copy\"\n"),
        with("queue = 4294967296\n"),
        with("encapsulation = \"udp\"\nport = 6119\naddress = \"10.0.0.1\"\n"),
        with("encapsulation = \"udp\"\naddress = \"fd00::1\"\npeers = [\"fd00::2\"]\n"),
        with("vlan = 4095\n"),
        with("[[bearer]]\ninterface = \"e\"\n"),
        with("[rekey]\ninterval = \"10m\"\n[link]\ntolerance_ms = 200\n"),
        with("[crypto]\nsuites = [\"aes-128-gcm\"]\nprovider = \"ring\"\n"),
        with("[limits]\npackets_per_key = 1024\nfailed_opens = 1\n"),
        with("[tap]\nenabled = false\naddresses = [\"10.0.0.1/33\"]\n"),
        first("polling = \"adaptive\"\nspin_us = 100"),
        first("nod = 1"),
        b"cluster = \"\xc3\xa9".to_vec(),
    ]
}
