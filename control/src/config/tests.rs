//! Tests of good and bad configuration files.

use tipsec_dataplane::outer::VlanId;

use super::*;

const SMALL: &str = "cluster = \"c\"\nnode = 7\n[[bearer]]\ninterface = \"eth1\"\n";

fn parse(text: &str) -> Config {
    match Config::parse(text, "tipsec.toml") {
        Ok(config) => config,
        Err(error) => panic!("{error}"),
    }
}

fn error(text: &str) -> String {
    match Config::parse(text, "tipsec.toml") {
        Ok(_) => panic!("taken:\n{text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_example_is_read_and_shows_the_defaults() {
    let config = parse(Config::example());
    assert_eq!(config.cluster.as_str(), "core-7");
    assert_eq!(config.node.value(), 1001);
    assert_eq!(config.tap.addresses[0].to_string(), "10.77.0.1/24");
    let small = parse(SMALL);
    assert_eq!(small.node.value(), 7);
    assert!(small.tap.addresses.is_empty());
    let shown = |config: &Config| {
        let bearer = &config.bearers[0];
        (
            (
                config.state_dir.clone(),
                (config.polling, config.master_credential.clone()),
                config.admin.socket.clone(),
            ),
            (
                (config.tap.enabled, config.tap.name.clone()),
                bearer.queues.clone(),
                bearer.cores.clone(),
                (bearer.mode, bearer.network),
            ),
            (
                bearer.encapsulation.clone(),
                (bearer.napi, bearer.in_flight_max),
                (bearer.busy_poll, bearer.huge_pages),
                config.rekey_interval_s,
            ),
            (config.provider, config.suites.clone(), config.tolerance_ms),
            (config.packets_per_key, config.failed_opens),
        )
    };
    assert_eq!(shown(&config), shown(&small));
}

#[test]
fn every_line_of_the_example_that_is_commented_out_works() {
    let text: String = Config::example()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let config = parse(&text);
    assert_eq!(config.master_credential.as_deref(), Some("tipsec-master"));
    assert_eq!(config.admin.group.as_deref(), Some("tipsec"));
    assert_eq!(config.bearers[0].cores, [1]);
    assert_eq!(config.bearers[1].queues, [0, 1]);
    assert_eq!(config.bearers[1].cores, [2, 3]);
    assert_eq!(config.bearers[1].network.number(), 1);
    let second = &config.bearers[1];
    assert_eq!(
        (second.napi, second.in_flight_max),
        (NapiProfile::Threaded, 128)
    );
    assert_eq!(config.bearers[0].busy_poll, Some(BusyPoll::default()));
    assert_eq!(config.bearers[0].encapsulation.vlan(), VlanId::new(100));
    let udp = UdpConfig {
        address: Some([10, 0, 0, 1].into()),
        port: 6119,
        peers: vec![([10, 0, 1, 2], 6119).into(), ([10, 0, 1, 3], 6119).into()],
        multicast: true,
    };
    assert_eq!(
        config.bearers[1].encapsulation,
        EncapsulationChoice::Udp(udp)
    );
}

#[test]
fn as_many_static_peers_as_a_node_keeps_can_be_listed() {
    let with = |count: usize| {
        let peers = vec!["'10.0.0.2'"; count].join(", ");
        format!(
            "cluster = 'c'\nnode = 7\n[[bearer]]\ninterface = 'eth1'\nencapsulation = 'udp'\n\
             port = 7000\npeers = [{peers}]\n"
        )
    };
    match &parse(&with(MAX_STATIC_PEERS)).bearers[0].encapsulation {
        EncapsulationChoice::Udp(udp) => {
            assert_eq!(udp.peers.len(), MAX_STATIC_PEERS);
            assert_eq!(udp.peers[0].to_string(), "10.0.0.2:7000");
            assert_eq!((udp.address, udp.multicast), (None, true));
        }
        other => panic!("{other:?}"),
    }
    let error = error(&with(MAX_STATIC_PEERS + 1));
    assert!(error.contains("1024 at most"), "{error}");
}

#[test]
fn values_other_than_defaults_are_taken() {
    let text = "cluster = 'c'\nnode = 4294967295\npolling = 'spin'\n\
        rekey = { interval = 'off' }\nlink = { tolerance_ms = 200 }\n\
        limits = { packets_per_key = 1024, failed_opens = 4096 }\n\
        crypto = { provider = 'aws-lc-rs', suites = ['chacha20-poly1305', 'aes-128-gcm'] }\n\
        [tap]\naddresses = ['fd00::1/64', '10.0.0.1/8']\n\
        [[bearer]]\ninterface = 'enp1s0'\nqueue = 3\nmode = 'native-copy'\nethertype = 0x88B6\n\
        vlan = 4094\n";
    let config = parse(text);
    assert_eq!(config.polling, Polling::Spin);
    assert_eq!(config.rekey_interval_s, None);
    assert_eq!((config.tolerance_ms, config.packets_per_key), (200, 1024));
    assert_eq!(config.failed_opens, 4096);
    assert_eq!(config.provider, Provider::AwsLc);
    assert_eq!(config.suites, [Suite::ChaCha20Poly1305, Suite::Aes128Gcm]);
    assert_eq!(config.tap.addresses[0].prefix_len, 64);
    assert_eq!(config.bearers[0].mode, ModeChoice::NativeCopy);
    let ethernet = EncapsulationChoice::Ethernet {
        ethertype: 0x88B6,
        vlan: VlanId::new(4094),
    };
    assert_eq!(config.bearers[0].encapsulation, ethernet);
    assert_eq!(config.bearers[0].queues, [3]);
}

#[test]
fn a_daemon_needs_a_tap_and_a_program_does_not() {
    assert_eq!(parse(SMALL).check_for_daemon(), Ok(()));
    let config = parse(&format!("{SMALL}[tap]\nenabled = false\n"));
    assert!(!config.tap.enabled);
    let error = config.check_for_daemon().unwrap_err();
    assert!(
        error.line.is_some() && error.key == "tap.enabled",
        "{error}"
    );
}

/// Beginning and rest of each expected error.
#[test]
fn errors_name_file_line_key_and_what_was_expected() {
    let top = "cluster = 'c'\nnode = 7\n";
    let bearer = "[[bearer]]\ninterface = 'eth1'\n";
    let cases = [
        (String::new(), "1: cluster: missing", "expected"),
        ("cluster = 'c'\n".into(), "1: node: missing", "4294967295"),
        (top.into(), "1: bearer: missing", "[[bearer]]"),
        (format!("{top}{top}"), "3: ", "duplicate"),
        ("cluster = 'c'\nnode = \n".into(), "2: ", ""),
        (
            format!("cluster = 'a b'\nnode = 7\n{bearer}"),
            "1: cluster:",
            "letters",
        ),
        (
            format!("cluster = 5\nnode = 7\n{bearer}"),
            "1: cluster:",
            "found integer",
        ),
        (
            format!("cluster = 'c'\nnode = 0\n{bearer}"),
            "2: node: 0 ",
            "from 1 to",
        ),
        (
            format!("cluster = 'c'\nnode = -1\n{bearer}"),
            "2: node: -1 ",
            "from 1 to",
        ),
        (
            format!("cluster = 'c'\nnode = 4294967296\n{bearer}"),
            "2: node:",
            "range",
        ),
        (
            format!("cluster = 'c'\nnode = 99999999999999999999\n{bearer}"),
            "2: node:",
            "range",
        ),
        (
            format!("cluster = 'c'\nnode = '7'\n{bearer}"),
            "2: node:",
            "found string",
        ),
        (
            format!("{top}nod = 1\n{bearer}"),
            "3: nod: unknown",
            "`node`",
        ),
        (
            format!("{top}frobnicate = 1\n{bearer}"),
            "3: frobnicate:",
            "cluster, node",
        ),
        (
            format!("{top}state_dir = 'x'\n{bearer}"),
            "3: state_dir:",
            "absolute",
        ),
        (
            format!("{top}polling = 'busy'\n{bearer}"),
            "3: polling:",
            "\"spin\"",
        ),
        (
            format!("{top}master = {{ credential = '../key' }}\n{bearer}"),
            "3: master.credential: \"../key\"",
            "LoadCredential=NAME:FILE",
        ),
        (
            format!("{top}[bearer]\ninterface = 'a'\n"),
            "3: bearer:",
            "two brackets",
        ),
        (
            format!("{top}bearer = []\n"),
            "3: bearer: empty",
            "[[bearer]]",
        ),
        (
            format!("{top}{bearer}{bearer}"),
            "6: bearer.interface: \"eth1\" is there twice",
            "one [[bearer]]",
        ),
        (
            format!("{top}{bearer}queue = 1\nqueues = [1]\n"),
            "5: bearer.queue: \"queues\"",
            "one of the two",
        ),
        (
            format!("{top}{bearer}queues = []\n"),
            "5: bearer.queues: empty",
            "array",
        ),
        (
            format!("{top}{bearer}queues = [0, 1, 0]\n"),
            "5: bearer.queues: queue 0",
            "twice",
        ),
        (
            format!("{top}{bearer}queues = 2\n"),
            "5: bearer.queues:",
            "found integer",
        ),
        (
            format!("{top}{bearer}queues = [0,\n4096]\n"),
            "6: bearer.queues: 4096",
            "0 to 4095",
        ),
        (
            format!("{top}{bearer}queues = {:?}\n", (0..33).collect::<Vec<_>>()),
            "5: bearer.queues: 33 queues",
            "at most 32",
        ),
        (
            format!(
                "{top}{bearer}queues = {:?}\n[[bearer]]\ninterface = 'b'\n",
                (0..32).collect::<Vec<_>>()
            ),
            "6: bearer: 33 queues",
            "at most 32",
        ),
        (
            format!("{top}{bearer}queues = [0, 1]\ncores = [1]\n"),
            "6: bearer.cores: 1 cores for 2",
            "one for each",
        ),
        (
            format!("{top}{bearer}network = 4\n"),
            "5: bearer.network: 4",
            "0 to 3",
        ),
        (
            format!("{top}[[bearer]]\nqueue = 0\n"),
            "3: bearer.interface: missing",
            "NIC",
        ),
        (
            format!("{top}[[bearer]]\ninterfase = 'a'\n"),
            "4: bearer.interfase:",
            "`interface`",
        ),
        (
            format!("{top}[[bearer]]\ninterface = 'a/b'\n"),
            "4: bearer.interface:",
            "15 bytes",
        ),
        (
            format!("{top}[[bearer]]\ninterface = 'tipsec0'\n"),
            "4: bearer.interface:",
            "tap.name",
        ),
        (
            format!("{top}{bearer}queue = -1\n"),
            "5: bearer.queue: -1",
            "0 to 4095",
        ),
        (
            format!("{top}{bearer}queue = 1.5\n"),
            "5: bearer.queue:",
            "found float",
        ),
        (
            format!("{top}{bearer}core = 1024\n"),
            "5: bearer.core:",
            "0 to 1023",
        ),
        (
            format!("{top}{bearer}mode = 'fast'\n"),
            "5: bearer.mode:",
            "\"zero-copy\"",
        ),
        (
            format!("{top}{bearer}encapsulation = 'vxlan'\n"),
            "5: bearer.encapsulation:",
            "\"udp\"",
        ),
        (
            format!("{top}{bearer}port = 6119\n"),
            "5: bearer.port:",
            "\"udp\" alone",
        ),
        (
            format!("{top}{bearer}encapsulation = 'udp'\nethertype = 0x88B5\n"),
            "6: bearer.ethertype:",
            "\"ethernet\" alone",
        ),
        (
            format!("{top}{bearer}encapsulation = 'udp'\nvlan = 100\n"),
            "6: bearer.vlan:",
            "\"ethernet\" alone",
        ),
        (
            format!("{top}{bearer}vlan = 0\n"),
            "5: bearer.vlan: 0",
            "1 to 4094",
        ),
        (
            format!("{top}{bearer}vlan = 4095\n"),
            "5: bearer.vlan: 4095",
            "1 to 4094",
        ),
        (
            format!("{top}{bearer}encapsulation = 'udp'\nport = 0\n"),
            "6: bearer.port:",
            "1 to 65535",
        ),
        (
            format!("{top}{bearer}encapsulation = 'udp'\naddress = 'fe80::1'\n"),
            "6: bearer.address:",
            "link-local",
        ),
        (
            format!("{top}{bearer}encapsulation = 'udp'\naddress = '10.0.0.1:6119'\n"),
            "6: bearer.address:",
            "no IP address",
        ),
        (
            format!("{top}{bearer}encapsulation = 'udp'\npeers = ['10.0.0.2', '239.1.1.1:9']\n"),
            "6: bearer.peers:",
            "multicast",
        ),
        (
            format!(
                "{top}{bearer}encapsulation = 'udp'\naddress = '10.0.0.1'\npeers = ['[fd00::2]:9']\n"
            ),
            "7: bearer.peers:",
            "same family",
        ),
        (
            format!("{top}{bearer}encapsulation = 'udp'\nmulticast = 1\n"),
            "6: bearer.multicast:",
            "true or false",
        ),
        (
            format!("{top}{bearer}encapsulation = 'x'\n"),
            "5: bearer.encapsulation:",
            "\"ethernet\"",
        ),
        (
            format!("{top}{bearer}ethertype = 0x88CA\n"),
            "5: bearer.ethertype: 0x88CA",
            "TIPC",
        ),
        (
            format!("{top}{bearer}ethertype = 5\n"),
            "5: bearer.ethertype: 5",
            "1536",
        ),
        (
            format!("{top}{bearer}tx_depth = 0\n"),
            "5: bearer.tx_depth:",
            "8 to 1024",
        ),
        (
            format!("{top}{bearer}[tap]\nname = ''\n"),
            "6: tap.name:",
            "15 bytes",
        ),
        (
            format!("{top}{bearer}[tap]\nenabled = 'no'\n"),
            "6: tap.enabled:",
            "true or false",
        ),
        (
            format!("{top}{bearer}[tap]\naddresses = '10.0.0.1/8'\n"),
            "6: tap.addresses:",
            "array",
        ),
        (
            format!("{top}{bearer}[tap]\naddresses = ['10.0.0.1']\n"),
            "6: tap.addresses:",
            "no prefix",
        ),
        (
            format!("{top}{bearer}[tap]\naddresses = ['10.0.0.1/33']\n"),
            "6: tap.addresses:",
            "to 32",
        ),
        (
            format!("{top}{bearer}[tap]\naddresses = ['host/8']\n"),
            "6: tap.addresses:",
            "no IP",
        ),
        (
            format!("{top}{bearer}[tap]\naddresses = ['10.0.0.1/8',\n'10.0.0.1/9']\n"),
            "7: tap.addresses:",
            "twice",
        ),
        (
            format!("{top}{bearer}[rekey]\ninterval = '10'\n"),
            "6: rekey.interval:",
            "no unit",
        ),
        (
            format!("{top}{bearer}[rekey]\ninterval = 600\n"),
            "6: rekey.interval:",
            "found integer",
        ),
        (
            format!("{top}{bearer}[crypto]\nprovider = 'openssl'\n"),
            "6: crypto.provider:",
            "ring",
        ),
        (
            format!("{top}{bearer}[crypto]\nsuites = []\n"),
            "6: crypto.suites:",
            "empty",
        ),
        (
            format!("{top}{bearer}[crypto]\nsuites = ['null']\n"),
            "6: crypto.suites:",
            "aes-256-gcm",
        ),
        (
            format!("{top}{bearer}[link]\ntolerance_ms = 10\n"),
            "6: link.tolerance_ms: 10",
            "200",
        ),
        (
            format!("{top}{bearer}[limits]\npackets_per_key = 0\n"),
            "6: limits.",
            "1024",
        ),
        (
            format!("{top}{bearer}[limits]\nfailed_opens = 4294967297\n"),
            "6: limits.failed_opens: 4294967297",
            "4294967296",
        ),
        (
            format!("{top}{bearer}[admin]\ngroup = ''\n"),
            "6: admin.group: empty",
            "group",
        ),
        (
            format!("{top}{bearer}[admin]\nsocket = 's'\n"),
            "6: admin.socket:",
            "absolute",
        ),
        (
            format!("{top}admin = 5\n{bearer}"),
            "3: admin:",
            "table [admin]",
        ),
    ];
    for (text, beginning, rest) in cases {
        let message = error(&text);
        assert!(
            message.starts_with(&format!("tipsec.toml:{beginning}")) && message.contains(rest),
            "{message}\nfor\n{text}"
        );
    }
}

#[test]
fn later_errors_still_know_their_line() {
    let config = parse(&format!("{SMALL}queue = 3\n"));
    assert_eq!(
        config.bearer_error(0, "queues", "too high").to_string(),
        "tipsec.toml:5: bearer.queue: too high"
    );
    assert_eq!(
        config.bearer_error(0, "mode", "none").to_string(),
        "tipsec.toml: bearer.mode: none"
    );
    let second = "[[bearer]]\ninterface = 'eth2'\nqueues = [\n1]\n";
    let config = parse(&format!("{SMALL}queue = 3\n{second}"));
    assert_eq!(
        config.bearer_error(1, "queues", "too high").to_string(),
        "tipsec.toml:8: bearer.queues: too high"
    );
}

#[test]
fn what_the_machine_lacks_is_named() {
    let on = |interface: &str, more: &str| {
        let text =
            format!("cluster = 'c'\nnode = 7\n[[bearer]]\ninterface = '{interface}'\n{more}");
        parse(&text).check_machine()
    };
    assert_eq!(on("lo", ""), Ok(()));
    let message = on("tipsec-none", "").unwrap_err().to_string();
    assert!(
        message.starts_with("tipsec.toml:4: bearer.interface: there is no"),
        "{message}"
    );
    let message = on("lo", "core = 1023\n").unwrap_err().to_string();
    assert!(
        message.starts_with("tipsec.toml:5: bearer.core: core 1023"),
        "{message}"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let message = Config::load(Path::new("/none/tipsec.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("/none/tipsec.toml: cannot read"),
        "{message}"
    );
}
