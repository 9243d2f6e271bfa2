//! From a configuration to a running daemon, or to an error that says which
//! line to change. Whatever was set up before an error is taken down again.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tipsec_dataplane::aead::{Aead, Provider};
use tipsec_dataplane::attach::{AttachError, Attachment, HostError, Interface, Mode, check_host};
use tipsec_dataplane::bearer::xdp::{OpenError, XdpBearer, XdpConfig};
use tipsec_dataplane::command::{self, WorkerEnd};
use tipsec_dataplane::ids::Incarnation;
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::VlanId;
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::tap::device::{Tap, TapConfig, TapError, TapQueue};
use tipsec_dataplane::worker::{self, SpawnError, Worker, WorkerConfig};
use tipsec_xdp::wire::VLAN_TAG_LEN;

use super::admin_server::{AdminServer, AdminServerError};
use super::check::strips_tags;
use super::clock::{self, OsRandom};
use super::control_port::ControlPort;
use super::daemon::{Daemon, watch_signals};
use super::hub::{Hub, Runner, WorkerPort};
use super::link::{Carrier, Link};
use super::network::{carried_mtu, mtu_max, tap_mtu};
use super::nic::{self, Nic, QueuePort};
use super::node::{Node, TapDevice};
use super::packet_socket::PacketSocket;
use super::paths::Paths;
use super::routes::{Routes, RoutesError};
use super::udp_socket::UdpSocket;
use crate::address::{Network, is_sound_host};
use crate::admin::{BearerReport, BearerState, TapReport};
use crate::config::{
    BearerConfig, Config, ConfigError, EncapsulationChoice, ModeChoice, UdpConfig,
};
use crate::key_source::{self, KeySourceError};
use crate::keyring::{Keyring, KeyringError, Loaded};
use crate::machine::{Machine, Settings};
use crate::masters::Masters;
use crate::time::Random;

/// Peers that a node keeps: the size of every worker's tables.
const MAX_PEERS: u16 = 1024;
/// Receiving lanes that a node holds: the size of every worker's SA table and
/// of the driver's SPI map.
#[allow(clippy::cast_possible_truncation)] // 65,536
const SPI_SLOTS: u32 = tipsec_xdp::config::SPIS_LEN as u32;

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
    /// The credential with the first one.
    #[error(transparent)]
    KeySource(#[from] KeySourceError),
    /// The XDP program.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The AF_XDP socket.
    #[error(transparent)]
    Bearer(#[from] OpenError),
    /// Routes and interfaces cannot be followed.
    #[error(transparent)]
    Routes(#[from] RoutesError),
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

/// The daemon: each worker has a thread of its own, and signals end it.
///
/// # Errors
/// [`StartError`]; then nothing is left behind.
pub fn start(config: &Config) -> Result<Daemon, StartError> {
    config.check_for_daemon()?;
    // Whoever ends us from here on finds everything taken down again.
    let signals = watch_signals().map_err(refused("watch signals"))?;
    let provider = config.provider;
    build(config, signals, provider.name(), &mut |worker| {
        Ok(Runner::Thread(match provider {
            Provider::Ring => worker.spawn::<tipsec_dataplane::aead::ring::Ring>()?,
            Provider::AwsLc => worker.spawn::<tipsec_dataplane::aead::aws_lc::AwsLc>()?,
        }))
    })
}

/// A worker that somebody is to run.
pub(crate) struct NewWorker {
    /// Its number, which is its lane's.
    pub(crate) number: u8,
    /// The core that is configured for it.
    pub(crate) core: Option<u32>,
    pub(crate) config: WorkerConfig,
    pub(crate) channel: WorkerEnd,
    pub(crate) bearer: XdpBearer,
    pub(crate) tap: Option<TapQueue>,
}

impl NewWorker {
    fn spawn<A: Aead>(self) -> Result<worker::WorkerHandle, SpawnError> {
        // 15 bytes are shown.
        let name = format!("tipsec-worker{}", self.number);
        let core = self.core.map(|core| core as usize);
        let worker: Worker<A, _, _> = Worker::new(self.config, self.channel, self.bearer, self.tap);
        worker::spawn(worker, core, &name)
    }
}

/// Who runs a worker.
pub(crate) type Launch<'a> = &'a mut dyn FnMut(NewWorker) -> Result<Runner, SpawnError>;

/// Sets everything up, but for who runs the workers, which is `launch`'s to
/// say; the daemon ends when `stop` is readable. The order matters: what shows
/// a second daemon comes first, what touches the NIC comes after what only
/// reads.
///
/// # Errors
/// [`StartError`]; then nothing is left behind.
pub(crate) fn build(
    config: &Config,
    stop: UnixStream,
    aead: &str,
    launch: Launch<'_>,
) -> Result<Daemon, StartError> {
    check_host(0)?;
    OsRandom::check().map_err(refused("get random bytes"))?;
    let interfaces = check_interfaces(config)?;
    check_host(umem_bytes(config, &interfaces))?;
    let ifindexes: Vec<u32> = interfaces.iter().map(|interface| interface.index).collect();
    let mut routes = Routes::open(&ifindexes)?;
    let mut links = Vec::new();
    for (at, interface) in interfaces.iter().enumerate() {
        let link = link(config, at, interface, &mut routes)?;
        if link.encapsulation().tag_len() > 0 && strips_tags(&interface.name) {
            let name = &interface.name;
            tracing::warn!(
                "interface {name:?} takes VLAN tags off before XDP sees them: no data will \
                 arrive (`ethtool -K {name} rxvlan off`)"
            );
        }
        links.push(link);
    }
    let admin = AdminServer::bind(&config.admin.socket, config.admin.group.as_deref())?;
    let keyring = Keyring::open(&config.state_dir)?;
    let stored = stored_keys(config, &keyring)?;
    let evictions = keyring.load_evictions()?;

    let mut attachments = Vec::new();
    let mut nics = Vec::new();
    let mut queues = Vec::new();
    let bearers = || config.bearers.iter().zip(&interfaces).zip(&links);
    for ((wanted, interface), link) in bearers() {
        let mode = mode(wanted.mode);
        let encapsulation = link.encapsulation();
        let attachment = Attachment::attach(interface, config.node, encapsulation, mode)?;
        attachments.push(attachment);
    }
    for (((wanted, interface), &link), attachment) in bearers().zip(&mut attachments) {
        let bearer = (wanted, interface, link);
        nics.push(open_nic(config, bearer, attachment, aead, &mut queues)?);
    }
    let Some(addresses) = nic::addresses(&nics) else {
        return Err(config.error_at("bearer", "one [[bearer]] is needed").into());
    };
    let (taps, tap) = open_tap(config, tap_mtu(&nics), queues.len())?;
    let lanes = queues.iter().map(|queue| queue.network).collect();
    let workers = queues.iter().map(|queue| (queue.network, queue.link));
    let paths = Paths::new(routes, workers.collect());
    let mut ports = Vec::new();
    for ((number, queue), tap) in (0..).zip(queues).zip(taps) {
        ports.push(start_worker(config, number, queue, tap, launch)?);
    }
    let hub = Hub::new(ports, attachments);

    let mut random = OsRandom;
    let now = clock::now();
    let settings = Settings {
        node: config.node,
        incarnation: Incarnation(random.next_u64()),
        cluster: config.cluster.clone(),
        addresses,
        lanes,
        suites: config.suites.clone(),
        rekey_interval: config
            .rekey_interval_s
            .map(|s| Duration::from_secs(s.into())),
        link_tolerance: Duration::from_millis(config.tolerance_ms.into()),
        budget: config.packets_per_key,
        phase_bits: PhaseBits::PROTOCOL,
        failed_opens_limit: config.failed_opens,
        max_peers: MAX_PEERS,
        spi_slots: SPI_SLOTS,
    };
    let machine = Machine::new(settings, now, &mut random);
    let mut node = Node::new(machine, hub, (nics, paths), tap, keyring);
    node.use_evictions(evictions);
    if let Some(stored) = stored {
        node.use_keyring(stored);
    }
    Ok(Daemon::new(node, admin, stop))
}

/// What the keyring holds; the first key may come from a credential.
fn stored_keys(config: &Config, keyring: &Keyring) -> Result<Option<Loaded>, StartError> {
    let stored = keyring.load()?;
    let (None, Some(name)) = (&stored, &config.master_credential) else {
        return Ok(stored);
    };
    keyring.store(&Masters::only(key_source::from_credential(name)?))?;
    tracing::info!("the first master key was taken from the credential {name:?}");
    Ok(keyring.load()?)
}

/// What is wrong with an interface is said before anything is touched.
fn check_interfaces(config: &Config) -> Result<Vec<Interface>, ConfigError> {
    let mut interfaces = Vec::new();
    for (at, wanted) in config.bearers.iter().enumerate() {
        let interface = Interface::check(&wanted.interface)
            .map_err(|error| config.bearer_error(at, "interface", error.to_string()))?;
        for &queue in &wanted.queues {
            interface
                .check_queue(queue)
                .map_err(|error| config.bearer_error(at, "queues", error.to_string()))?;
        }
        interfaces.push(interface);
    }
    Ok(interfaces)
}

/// What all queues lock.
fn umem_bytes(config: &Config, interfaces: &[Interface]) -> u64 {
    let bearers = config.bearers.iter().zip(interfaces);
    bearers
        .map(|(wanted, interface)| {
            let tag_len = wanted.encapsulation.vlan().map_or(0, |_| VLAN_TAG_LEN);
            let sizes = XdpConfig {
                tag_len,
                ..XdpConfig::default()
            };
            sizes.umem_bytes_at(interface.mtu) * wanted.queues.len() as u64
        })
        .sum()
}

fn index_of(interface: &str) -> std::io::Result<u32> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    Ok(netdevice::name_to_index(&any, interface)?)
}

/// How frames leave the NIC of the bearer with this number; looks up its IP
/// address where that is needed.
fn link(
    config: &Config,
    at: usize,
    interface: &Interface,
    routes: &mut Routes,
) -> Result<Link, StartError> {
    let carrier = match config.bearers.get(at).map(|wanted| &wanted.encapsulation) {
        Some(EncapsulationChoice::Udp(udp)) => {
            let there = routes.addresses(interface.index)?;
            let address = own_address(udp, &interface.name, &there)
                .map_err(|(key, message)| config.bearer_error(at, key, message))?;
            Carrier::Udp(SocketAddr::new(address, udp.port))
        }
        Some(&EncapsulationChoice::Ethernet { ethertype, vlan }) => {
            Carrier::Ethernet { ethertype, vlan }
        }
        None => return Err(config.error_at("bearer", "there is no such bearer").into()),
    };
    Ok(Link {
        ifindex: interface.index,
        own: interface.mac,
        carrier,
    })
}

/// The address that an interface with these addresses receives at; or the key
/// to change, and why.
fn own_address(
    udp: &UdpConfig,
    interface: &str,
    there: &[IpAddr],
) -> Result<IpAddr, (&'static str, String)> {
    let family = udp.peers.first().map(SocketAddr::is_ipv4);
    let usable: Vec<IpAddr> = there
        .iter()
        .copied()
        .filter(|&address| is_sound_host(address))
        .collect();
    let list = |addresses: &[IpAddr]| {
        let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        texts.join(", ")
    };
    if let Some(address) = udp.address {
        return match usable.contains(&address) {
            true => Ok(address),
            false if usable.is_empty() => Err((
                "address",
                format!(
                    "{address} is no address of {interface:?}, which has none that peers can \
                     reach (`ip address add {address}/… dev {interface}`)"
                ),
            )),
            false => Err((
                "address",
                format!(
                    "{address} is no address of {interface:?}; it has: {}",
                    list(&usable)
                ),
            )),
        };
    }
    let fitting: Vec<IpAddr> = usable
        .into_iter()
        .filter(|address| family.is_none_or(|is_ipv4| address.is_ipv4() == is_ipv4))
        .collect();
    if let Some(peer) = udp.peers.iter().find(|peer| Some(peer.is_ipv4()) != family) {
        let message = format!("{peer} is of another family than those before it");
        return Err(("peers", message));
    }
    match fitting[..] {
        [address] => Ok(address),
        [] => Err((
            "interface",
            format!(
                "{interface:?} has no IP address that peers can reach (`ip address add … dev \
                 {interface}`)"
            ),
        )),
        _ => Err((
            "interface",
            format!(
                "{interface:?} has several addresses; say which with `address`: {}",
                list(&fitting)
            ),
        )),
    }
}

/// What one worker is going to serve.
struct Queue {
    bearer: XdpBearer,
    core: Option<u32>,
    network: Network,
    link: Link,
    mtu: u32,
}

/// Opens a NIC's socket for control frames and the AF_XDP sockets of its
/// queues, which go to the end of `queues`: a queue's place there is its
/// worker's number.
fn open_nic(
    config: &Config,
    (wanted, interface, link): (&BearerConfig, &Interface, Link),
    attachment: &mut Attachment,
    aead: &str,
    queues: &mut Vec<Queue>,
) -> Result<Nic, StartError> {
    let encapsulation = link.encapsulation();
    let sizes = XdpConfig {
        in_flight_max: wanted.in_flight_max,
        busy_poll: wanted.busy_poll,
        huge_pages: wanted.huge_pages,
        filled_elsewhere: wanted.napi.fills_elsewhere(interface.is_veth),
        outer_len: encapsulation.outer_len(),
        tag_len: encapsulation.tag_len(),
        ..XdpConfig::default()
    };
    let mtu_max = mtu_max(interface.mtu, &sizes);
    let mtu = carried_mtu(&link, interface.mtu, mtu_max);
    let mut ports = Vec::new();
    for (at, &queue) in wanted.queues.iter().enumerate() {
        let core = wanted.cores.get(at).copied();
        let sizes = XdpConfig {
            core: core.map(|core| core as usize),
            ..sizes
        };
        let bearer = XdpBearer::open(attachment, queue, &sizes)?;
        for option in &bearer.report().refused {
            tracing::warn!(
                "interface {:?}, queue {queue}: the kernel refused {}: {}; going on without it",
                interface.name,
                option.name,
                option.reason
            );
        }
        let statistics = bearer
            .statistics_fd()
            .map_err(refused("keep the AF_XDP socket's statistics"))?;
        let suite = config.suites.first().map_or("", |suite| suite.name());
        let report = BearerReport {
            interface: interface.name.clone(),
            queue,
            // The configuration allows no more than MAX_LANES.
            worker: u8::try_from(queues.len()).unwrap_or(u8::MAX),
            network: wanted.network.number(),
            state: BearerState::Up,
            core,
            mode: bearer.report().mode.name().to_owned(),
            encapsulation: encapsulation.name().to_owned(),
            vlan: wanted.encapsulation.vlan().map(VlanId::value),
            address: match link.carrier {
                Carrier::Ethernet { .. } => None,
                Carrier::Udp(address) => Some(address.to_string()),
            },
            mtu: interface.mtu,
            mac: interface.mac.to_string(),
            frames_in_flight: u32::try_from(sizes.in_flight_max).unwrap_or(u32::MAX),
            huge_pages: bearer.report().huge_pages,
            cache_demotion: bearer.report().demotes,
            multi_buffer: bearer.report().multi_buffer,
            busy_poll: bearer.report().busy_poll,
            tx_budget: bearer.report().tx_budget,
            aead: aead.to_owned(),
            suite: suite.to_owned(),
        };
        ports.push(QueuePort { statistics, report });
        queues.push(Queue {
            bearer,
            core,
            network: wanted.network,
            link,
            mtu,
        });
    }
    let (port, static_peers) = open_port(wanted, link)?;
    Ok(Nic {
        network: wanted.network,
        link,
        mtu,
        mtu_max,
        port,
        static_peers,
        queues: ports,
    })
}

/// The socket for control frames, and whom beacons are sent to one by one.
fn open_port(
    wanted: &BearerConfig,
    link: Link,
) -> Result<(ControlPort, Vec<SocketAddr>), StartError> {
    match (link.carrier, &wanted.encapsulation) {
        (Carrier::Udp(own), EncapsulationChoice::Udp(udp)) => {
            let socket = UdpSocket::open(link.ifindex, own, udp.multicast)
                .map_err(refused("open the UDP socket for control frames"))?;
            // Everybody may have the same list: nobody is its own peer.
            let others = udp.peers.iter().filter(|&&peer| peer != own);
            Ok((ControlPort::Udp(socket), others.copied().collect()))
        }
        (Carrier::Udp(_), EncapsulationChoice::Ethernet { .. })
        | (Carrier::Ethernet { .. }, EncapsulationChoice::Udp(_)) => {
            Err(refused("match the encapsulation")(
                std::io::ErrorKind::InvalidInput.into(),
            ))
        }
        (Carrier::Ethernet { ethertype, vlan }, EncapsulationChoice::Ethernet { .. }) => {
            let socket = PacketSocket::open(link.ifindex, ethertype, vlan, link.own)
                .map_err(refused("open the packet socket for control frames"))?;
            Ok((ControlPort::Packet(socket), Vec::new()))
        }
    }
}

fn start_worker(
    config: &Config,
    number: u8,
    queue: Queue,
    tap: Option<TapQueue>,
    launch: Launch<'_>,
) -> Result<WorkerPort, StartError> {
    let worker_config = WorkerConfig {
        node: config.node,
        encapsulation: queue.link.encapsulation(),
        mtu: queue.mtu as usize,
        peers: usize::from(MAX_PEERS),
        spis: SPI_SLOTS as usize,
        polling: config.polling,
    };
    let (control_end, worker_end) =
        command::channel().map_err(refused("make an eventfd for the worker"))?;
    let runner = launch(NewWorker {
        number,
        core: queue.core,
        config: worker_config,
        channel: worker_end,
        bearer: queue.bearer,
        tap,
    })?;
    Ok(WorkerPort::new(control_end, runner, queue.core))
}

fn mode(choice: ModeChoice) -> Mode {
    match choice {
        ModeChoice::Auto => Mode::Auto,
        ModeChoice::ZeroCopy => Mode::ZeroCopy,
        ModeChoice::NativeCopy => Mode::NativeCopy,
        ModeChoice::Generic => Mode::Generic,
    }
}

/// Makes the tap, if there is to be one: as many queues, and what it is.
fn open_tap(
    config: &Config,
    mtu: u32,
    queues: usize,
) -> Result<(Vec<Option<TapQueue>>, Option<TapDevice>), StartError> {
    if !config.tap.enabled {
        return Ok((std::iter::repeat_with(|| None).take(queues).collect(), None));
    }
    let tap_config = tap_config(config, mtu)?;
    let tap = Tap::create(&tap_config, queues)?;
    let report = TapReport {
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
    let ifindex = index_of(tap.name()).map_err(refused("find the tap device"))?;
    Ok((
        tap.into_queues().into_iter().map(Some).collect(),
        Some(TapDevice { report, ifindex }),
    ))
}

fn tap_config(config: &Config, mtu: u32) -> Result<TapConfig, ConfigError> {
    let mut tap = TapConfig {
        name: config.tap.name.clone(),
        node: config.node,
        // At most a NIC's, which fits a chunk of frame memory.
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
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
