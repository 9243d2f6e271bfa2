//! From a configuration to a running daemon, or to an error that says which
//! line to change. Whatever was set up before an error is taken down again.

use std::net::IpAddr;
use std::time::Duration;

use tipsec_dataplane::aead::{Aead, Provider};
use tipsec_dataplane::attach::{AttachError, Attachment, HostError, Interface, Mode, check_host};
use tipsec_dataplane::bearer::xdp::{OpenError, XdpBearer, XdpConfig};
use tipsec_dataplane::command::{self, WorkerEnd};
use tipsec_dataplane::frame::TAP_OVERHEAD;
use tipsec_dataplane::ids::Incarnation;
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::Encapsulation;
use tipsec_dataplane::tap::device::{Tap, TapConfig, TapError, TapQueue};
use tipsec_dataplane::worker::{self, Polling, SpawnError, Worker, WorkerConfig, WorkerHandle};

use super::admin_server::{AdminServer, AdminServerError};
use super::clock::{self, OsRandom};
use super::daemon::{Daemon, watch_signals};
use super::hub::{Hub, Link, WorkerPort};
use super::node::{BearerPort, Node};
use super::packet_socket::PacketSocket;
use crate::admin::{BearerReport, TapReport};
use crate::config::{self, Config, ConfigError, ModeChoice};
use crate::keyring::{Keyring, KeyringError};
use crate::machine::{Machine, Settings};
use crate::time::Random;

/// Peers that a node keeps: the size of every worker's tables.
const MAX_PEERS: u16 = 1024;
/// Receiving lanes that a node holds: the size of every worker's SA table and
/// of the driver's SPI map.
#[allow(clippy::cast_possible_truncation)] // 65,536
const SPI_SLOTS: u32 = tipsec_xdp::config::SPIS_LEN as u32;
/// Failed opens after which a lane stops: far below the 2^36 forgeries at
/// which AES-GCM's bound for frames of this size matters (RFC 9001, B.1).
const FAILED_OPENS_LIMIT: u64 = 1 << 36;

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value of the configuration that shows to be wrong in use.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Kernel, capabilities, limits.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The admin socket.
    #[error(transparent)]
    Admin(#[from] AdminServerError),
    /// The stored master key.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The XDP program.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The AF_XDP socket.
    #[error(transparent)]
    Bearer(#[from] OpenError),
    /// The tap device.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The worker thread.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Anything else that the kernel refused.
    #[error("cannot {what}: {source}")]
    Kernel {
        /// What was tried, as a verb.
        what: &'static str,
        /// The kernel's reason.
        source: std::io::Error,
    },
}

fn refused(what: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::Kernel { what, source }
}

/// Sets everything up. The order matters: what shows a second daemon comes
/// first, what touches the NIC comes after what only reads.
///
/// # Errors
/// [`StartError`]; then nothing is left behind.
pub fn start(config: &Config) -> Result<Daemon, StartError> {
    let Some(wanted) = config.bearers.first() else {
        return Err(config.error_at("bearer", "one [[bearer]] is needed").into());
    };
    let sizes = XdpConfig {
        in_flight_max: wanted
            .tx_depth
            .map_or(XdpConfig::default().in_flight_max, |depth| depth as usize),
        ..XdpConfig::default()
    };
    check_host(sizes.umem_bytes())?;
    OsRandom::check().map_err(refused("get random bytes"))?;
    let interface = Interface::check(&wanted.interface)
        .map_err(|error| config.error_at("bearer.interface", error.to_string()))?;
    interface
        .check_queue(wanted.queue)
        .map_err(|error| config.error_at("bearer.queue", error.to_string()))?;
    // Whoever ends us from here on finds everything taken down again.
    let signals = watch_signals().map_err(refused("watch signals"))?;
    let admin = AdminServer::bind(&config.admin.socket, config.admin.group.as_deref())?;
    let keyring = Keyring::open(&config.state_dir)?;
    let master = keyring.load()?;

    let mode = mode(wanted.mode);
    let mut attachment = Attachment::attach(&interface, config.node, wanted.ethertype, mode)?;
    let bearer = XdpBearer::open(&mut attachment, wanted.queue, &sizes)?;
    let report = bearer.report().clone();
    let statistics = bearer
        .statistics_fd()
        .map_err(refused("keep the AF_XDP socket's statistics"))?;
    let tap_config = tap_config(config, interface.mtu)?;
    let tap = Tap::create(&tap_config, 1)?;
    let tap_report = TapReport {
        name: tap.name().to_owned(),
        mtu: tap_config.mtu.into(),
        mac: MacAddr::of_tap(config.node).to_string(),
        addresses: config
            .tap
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect(),
    };
    let socket = PacketSocket::open(interface.index, wanted.ethertype, interface.mac)
        .map_err(refused("open the packet socket for control frames"))?;

    let worker_config = WorkerConfig {
        node: config.node,
        encapsulation: Encapsulation::ethernet(interface.mac, wanted.ethertype, None),
        mtu: interface.mtu as usize,
        peers: usize::from(MAX_PEERS),
        spis: SPI_SLOTS as usize,
        polling: match config.polling {
            config::Polling::Sleep => Polling::Sleep,
            config::Polling::Spin => Polling::Spin,
        },
    };
    let (control_end, worker_end) =
        command::channel().map_err(refused("make an eventfd for the worker"))?;
    let link = Link {
        own: interface.mac,
        ethertype: wanted.ethertype,
    };
    let core = wanted.core.map(|core| core as usize);
    let handle = spawn(
        config.provider,
        worker_config,
        worker_end,
        bearer,
        // As many as were asked for, which is one.
        tap.into_queues().swap_remove(0),
        core,
    )?;
    let hub = Hub::new(
        vec![WorkerPort::new(control_end, handle, wanted.core, link)],
        vec![attachment],
    );

    let mut random = OsRandom;
    let now = clock::now();
    let settings = Settings {
        node: config.node,
        incarnation: Incarnation(random.next_u64()),
        cluster: config.cluster.clone(),
        address: interface.mac,
        lanes: 1,
        suites: config.suites.clone(),
        rekey_interval: config
            .rekey_interval_s
            .map(|s| Duration::from_secs(s.into())),
        link_tolerance: Duration::from_millis(config.tolerance_ms.into()),
        budget: config.packets_per_key,
        failed_opens_limit: FAILED_OPENS_LIMIT,
        max_peers: MAX_PEERS,
        spi_slots: SPI_SLOTS,
    };
    let port = BearerPort {
        socket,
        statistics,
        report: BearerReport {
            interface: report.interface,
            queue: report.queue,
            core: wanted.core,
            mode: report.mode.name().to_owned(),
            encapsulation: "ethernet".to_owned(),
            mtu: interface.mtu,
            mac: interface.mac.to_string(),
            aead: config.provider.name().to_owned(),
            suite: config
                .suites
                .first()
                .map_or("", |suite| suite.name())
                .to_owned(),
        },
    };
    let machine = Machine::new(settings, now, &mut random);
    let mut node = Node::new(machine, hub, vec![port], tap_report, keyring);
    if let Some(master) = master {
        node.use_master(&master);
    }
    Ok(Daemon::new(node, admin, signals))
}

fn mode(choice: ModeChoice) -> Mode {
    match choice {
        ModeChoice::Auto => Mode::Auto,
        ModeChoice::ZeroCopy => Mode::ZeroCopy,
        ModeChoice::NativeCopy => Mode::NativeCopy,
        ModeChoice::Generic => Mode::Generic,
    }
}

fn tap_config(config: &Config, bearer_mtu: u32) -> Result<TapConfig, ConfigError> {
    let mut tap = TapConfig {
        name: config.tap.name.clone(),
        node: config.node,
        // Interface::check keeps the MTU between some 100 and 3506 bytes.
        mtu: u16::try_from(bearer_mtu as usize - TAP_OVERHEAD).unwrap_or(u16::MAX),
        ipv4: None,
        ipv6: None,
    };
    for address in &config.tap.addresses {
        let taken = match address.address {
            IpAddr::V4(v4) => tap.ipv4.replace((v4, address.prefix_len)).is_some(),
            IpAddr::V6(v6) => tap.ipv6.replace((v6, address.prefix_len)).is_some(),
        };
        if taken {
            let message = "one IPv4 and one IPv6 address at most; add others with `ip address add`";
            return Err(config.error_at("tap.addresses", message));
        }
    }
    Ok(tap)
}

fn spawn(
    provider: Provider,
    config: WorkerConfig,
    channel: WorkerEnd,
    bearer: XdpBearer,
    tap: TapQueue,
    core: Option<usize>,
) -> Result<WorkerHandle, SpawnError> {
    fn with<A: Aead>(
        config: WorkerConfig,
        channel: WorkerEnd,
        bearer: XdpBearer,
        tap: TapQueue,
        core: Option<usize>,
    ) -> Result<WorkerHandle, SpawnError> {
        let worker: Worker<A, XdpBearer, TapQueue> = Worker::new(config, channel, bearer, tap);
        worker::spawn(worker, core, "tipsec-worker0")
    }
    match provider {
        Provider::Ring => {
            with::<tipsec_dataplane::aead::ring::Ring>(config, channel, bearer, tap, core)
        }
        Provider::AwsLc => {
            with::<tipsec_dataplane::aead::aws_lc::AwsLc>(config, channel, bearer, tap, core)
        }
    }
}
