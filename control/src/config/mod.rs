//! The configuration file of `tipsecd`: TOML in, checked values out. What the
//! machine itself must have (interfaces, cores) is checked by
//! [`Config::load`]. Imports `cluster`, `interval` and names of the data
//! plane.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tipsec_dataplane::aead::Provider;
use tipsec_dataplane::bearer::xdp::{BusyPoll, NapiProfile};
use tipsec_dataplane::ids::NodeId;
use tipsec_dataplane::secret::Suite;
use tipsec_dataplane::worker::Polling;

use crate::address::Network;
use crate::admin::DEFAULT_SOCKET;
use crate::cluster::ClusterName;
use crate::interval::{DEFAULT_INTERVAL_S, parse_interval};
use crate::key_source::check_credential_name;
use crate::keyring::DEFAULT_STATE_DIR;
use crate::message::MAX_LANES;

mod encapsulation;
mod machine;
mod source;
mod values;

use encapsulation::read_encapsulation;
pub use encapsulation::{EncapsulationChoice, MAX_STATIC_PEERS, UdpConfig};
pub use source::ConfigError;
use source::{Field, Source, Table};
pub use values::{ModeChoice, TapAddress};
use values::{absolute_path, device_name, tap_address};

/// Where `tipsecd` looks unless told.
pub const DEFAULT_CONFIG: &str = "/etc/tipsec/tipsec.toml";

/// Link tolerance in milliseconds unless configured.
pub const DEFAULT_TOLERANCE_MS: u32 = 1500;

/// Most packets plus AES blocks that one key may ever seal (docs/protocol.md,
/// "Budgets").
pub const MAX_PACKETS_PER_KEY: u64 = 1 << 32;

/// Most frames of one SA that may ever fail to open (the same): far below the
/// 2^36 at which ChaCha20-Poly1305's bound for forgeries lies, the lowest of
/// the suites' (RFC 9001, 6.6).
pub const MAX_FAILED_OPENS: u64 = 1 << 32;

/// Fewest: more than there are lanes and workers, of which each may fail once
/// after the limit is reached.
const MIN_FAILED_OPENS: u64 = 4096;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the cluster.
    pub cluster: ClusterName,
    /// Own id.
    pub node: NodeId,
    /// Directory of the keyring.
    pub state_dir: PathBuf,
    /// The credential of systemd that the first master key comes from.
    pub master_credential: Option<String>,
    /// How workers wait.
    pub polling: Polling,
    /// The operator's socket.
    pub admin: AdminConfig,
    /// The device for applications.
    pub tap: TapConfig,
    /// NICs, at least one; [`MAX_LANES`] queues in all at most.
    pub bearers: Vec<BearerConfig>,
    /// Rekey interval in seconds; `None`: off.
    pub rekey_interval_s: Option<u32>,
    /// Crate that seals and opens.
    pub provider: Provider,
    /// Allowed suites, best first, at least one.
    pub suites: Vec<Suite>,
    /// A peer that answers no probe for so long is down.
    pub tolerance_ms: u32,
    /// Packets plus AES blocks that one key may seal.
    pub packets_per_key: u64,
    /// Frames of one SA that may fail to open.
    pub failed_opens: u64,
    file: String,
    lines: BTreeMap<String, usize>,
}

/// `[admin]`.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Path of the socket.
    pub socket: PathBuf,
    /// Group whose members may operate the node, besides root.
    pub group: Option<String>,
}

/// `[tap]`.
#[derive(Clone, Debug)]
pub struct TapConfig {
    /// Whether there is one. `tipsecd` needs it; a program that embeds the node
    /// may do without.
    pub enabled: bool,
    /// Name of the device.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<TapAddress>,
}

/// `[[bearer]]`: one NIC.
#[derive(Clone, Debug)]
pub struct BearerConfig {
    /// Name of the NIC.
    pub interface: String,
    /// Its queues, at least one, each with a worker.
    pub queues: Vec<u32>,
    /// Cores of their workers, in the same order; none: not pinned.
    pub cores: Vec<u32>,
    /// The network that it is on.
    pub network: Network,
    /// Which mode to ask for.
    pub mode: ModeChoice,
    /// What carries frames.
    pub encapsulation: EncapsulationChoice,
    /// Where its NAPI runs.
    pub napi: NapiProfile,
    /// Most frames handed to it and not yet sent: what suits its NAPI, unless
    /// configured.
    pub in_flight_max: usize,
    /// Whether workers poll the NIC themselves.
    pub busy_poll: Option<BusyPoll>,
    /// Whether frame memory is of huge pages where there are any.
    pub huge_pages: bool,
}

impl Config {
    /// A file with every key, commented: for documents and first steps.
    pub const fn example() -> &'static str {
        include_str!("example.toml")
    }

    /// Reads a file and checks that this machine has what it names.
    ///
    /// # Errors
    /// [`ConfigError`] with file, line, key and what was expected.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            file: file.clone(),
            line: None,
            key: String::new(),
            message: format!("cannot read the configuration: {error}"),
        })?;
        let config = Self::parse(&text, &file)?;
        config.check_machine()?;
        Ok(config)
    }

    /// Reads a text; `file` is its name in errors.
    ///
    /// # Errors
    /// [`ConfigError`] with file, line, key and what was expected.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let source = Source { file, text };
        let root = source.parse()?;
        let known = [
            "cluster",
            "node",
            "state_dir",
            "polling",
            "spin_us",
            "admin",
            "master",
            "tap",
            "bearer",
            "rekey",
            "crypto",
            "link",
            "limits",
        ];
        let root = Table::root(&source, &root, &known)?;
        let mut lines = BTreeMap::new();

        let cluster = root
            .required("cluster", "the cluster's name")?
            .parsed("the cluster's name", str::parse::<ClusterName>)?;
        let node = root.required("node", "this node's id, from 1 to 4294967295")?;
        let node_id = NodeId::new(node.integer(1..=u32::MAX)?)
            .ok_or_else(|| node.error("0 is no node id"))?;
        let tap = read_tap(&root, &mut lines)?;
        let bearers = read_bearers(&root, &tap, &mut lines)?;
        let (provider, suites) = read_crypto(&root)?;
        let link = root.table("link", &["tolerance_ms"])?;
        let limits = root.table("limits", &["packets_per_key", "failed_opens"])?;
        Ok(Self {
            cluster,
            node: node_id,
            state_dir: or(root.field("state_dir"), DEFAULT_STATE_DIR.into(), |field| {
                field.parsed("a path", absolute_path)
            })?,
            master_credential: read_master(&root)?,
            polling: read_polling(&root)?,
            admin: read_admin(&root)?,
            tap,
            bearers,
            rekey_interval_s: read_interval(&root)?,
            provider,
            suites,
            tolerance_ms: or(link.field("tolerance_ms"), DEFAULT_TOLERANCE_MS, |field| {
                field.integer(200..=30_000)
            })?,
            packets_per_key: or(
                limits.field("packets_per_key"),
                MAX_PACKETS_PER_KEY,
                |field| field.integer(1024..=MAX_PACKETS_PER_KEY),
            )?,
            failed_opens: or(limits.field("failed_opens"), MAX_FAILED_OPENS, |field| {
                field.integer(MIN_FAILED_OPENS..=MAX_FAILED_OPENS)
            })?,
            file: file.to_owned(),
            lines,
        })
    }

    /// Checks what `tipsecd` needs beyond a program that embeds the node.
    ///
    /// # Errors
    /// [`ConfigError`], if there is to be no tap.
    pub fn check_for_daemon(&self) -> Result<(), ConfigError> {
        if self.tap.enabled {
            return Ok(());
        }
        let message = "tipsecd has nobody to carry frames for without a tap; false is for \
                       programs that embed the node";
        Err(self.error_at("tap.enabled", message))
    }

    /// An error about a key of this configuration that was found only in use,
    /// such as `tap.addresses`; with its line if the file has the key.
    pub fn error_at(&self, key: &str, message: impl Into<String>) -> ConfigError {
        self.error_on_line_of(key, key, message)
    }

    /// The same about a key of the bearer with this number, such as `mode`.
    pub fn bearer_error(&self, at: usize, key: &str, message: impl Into<String>) -> ConfigError {
        // Both have a form for one and a form for several.
        let written = match key {
            "queues" if !self.lines.contains_key(&line_key(at, key)) => "queue",
            "cores" if !self.lines.contains_key(&line_key(at, key)) => "core",
            key => key,
        };
        self.error_on_line_of(
            &line_key(at, written),
            &format!("bearer.{written}"),
            message,
        )
    }

    fn error_on_line_of(
        &self,
        line_key: &str,
        key: &str,
        message: impl Into<String>,
    ) -> ConfigError {
        ConfigError {
            file: self.file.clone(),
            line: self.lines.get(line_key).copied(),
            key: key.to_owned(),
            message: message.into(),
        }
    }
}

fn read_master(root: &Table<'_>) -> Result<Option<String>, ConfigError> {
    let table = root.table("master", &["credential"])?;
    or(table.field("credential"), None, |field| {
        let expected = "the NAME of a credential, as in LoadCredential=NAME:FILE";
        let name = field.string(expected)?;
        check_credential_name(name).map_err(|error| field.error(error.to_string()))?;
        Ok(Some(name.to_owned()))
    })
}

fn read_polling(root: &Table<'_>) -> Result<Polling, ConfigError> {
    let adaptive = Polling::Adaptive {
        spin: Polling::ADAPTIVE_SPIN,
    };
    let polling = or(root.field("polling"), Polling::Sleep, |field| {
        field.choice(&[
            ("sleep", Polling::Sleep),
            ("spin", Polling::Spin),
            ("adaptive", adaptive),
        ])
    })?;
    let Some(field) = root.field("spin_us") else {
        return Ok(polling);
    };
    if polling != adaptive {
        return Err(field.error("without a meaning unless polling = \"adaptive\""));
    }
    let spin = Duration::from_micros(field.integer(1..=1_000_000_u32)?.into());
    Ok(Polling::Adaptive { spin })
}

/// A field's value, or a default if it is not there.
fn or<'a, T>(
    field: Option<Field<'a>>,
    default: T,
    read: impl FnOnce(Field<'a>) -> Result<T, ConfigError>,
) -> Result<T, ConfigError> {
    field.map_or(Ok(default), read)
}

fn read_admin(root: &Table<'_>) -> Result<AdminConfig, ConfigError> {
    let table = root.table("admin", &["socket", "group"])?;
    Ok(AdminConfig {
        socket: or(table.field("socket"), DEFAULT_SOCKET.into(), |field| {
            field.parsed("a path", absolute_path)
        })?,
        group: or(table.field("group"), None, |field| {
            let name = field.string("the name of a group")?;
            if name.is_empty() {
                return Err(field.error("empty; expected the name of a group"));
            }
            Ok(Some(name.to_owned()))
        })?,
    })
}

fn read_tap(
    root: &Table<'_>,
    lines: &mut BTreeMap<String, usize>,
) -> Result<TapConfig, ConfigError> {
    const EXPECTED: &str = "an array of addresses such as \"10.77.0.1/24\"";
    let table = root.table("tap", &["enabled", "name", "addresses"])?;
    if let Some(field) = table.field("enabled") {
        lines.insert("tap.enabled".to_owned(), field.line());
    }
    let mut addresses: Vec<TapAddress> = Vec::new();
    if let Some(field) = table.field("addresses") {
        for entry in field.array(EXPECTED)? {
            let address = entry.parsed(EXPECTED, tap_address)?;
            let same = |other: &TapAddress| other.address == address.address;
            if addresses.iter().any(same) {
                return Err(entry.error(format!("{} is there twice", address.address)));
            }
            addresses.push(address);
        }
    }
    Ok(TapConfig {
        enabled: or(table.field("enabled"), true, |field| field.boolean())?,
        name: or(table.field("name"), "tipsec0".to_owned(), |field| {
            field.parsed("the device's name", device_name)
        })?,
        addresses,
    })
}

fn read_bearers(
    root: &Table<'_>,
    tap: &TapConfig,
    lines: &mut BTreeMap<String, usize>,
) -> Result<Vec<BearerConfig>, ConfigError> {
    const EXPECTED: &str = "a table [[bearer]] with an interface";
    let field = root.required("bearer", EXPECTED)?;
    let entries = field.array(&format!("{EXPECTED} (two brackets)"))?;
    if entries.is_empty() {
        return Err(field.error(format!("empty; expected {EXPECTED}")));
    }
    let mut bearers: Vec<BearerConfig> = Vec::new();
    for entry in &entries {
        let bearer = read_bearer(entry, tap, &bearers, lines)?;
        bearers.push(bearer);
    }
    Ok(bearers)
}

/// Where the line of a key of the bearer with this number is kept.
fn line_key(at: usize, key: &str) -> String {
    format!("bearer.{at}.{key}")
}

/// Reads one bearer; `earlier` are those before it.
fn read_bearer(
    entry: &Field<'_>,
    tap: &TapConfig,
    earlier: &[BearerConfig],
    lines: &mut BTreeMap<String, usize>,
) -> Result<BearerConfig, ConfigError> {
    let known = [
        "interface",
        "queue",
        "queues",
        "core",
        "cores",
        "network",
        "mode",
        "encapsulation",
        "napi",
        "tx_depth",
        "busy_poll_us",
        "huge_pages",
    ];
    let known = [&known[..], &encapsulation::KEYS].concat();
    let table = entry.table(&known)?;
    for key in known {
        if let Some(field) = table.field(key) {
            lines.insert(line_key(earlier.len(), key), field.line());
        }
    }
    let interface = table.required("interface", "the name of a NIC")?;
    let name = interface.parsed("the name of a NIC", device_name)?;
    if name == tap.name {
        return Err(interface.error(format!("{name:?} is also tap.name; expected a NIC")));
    }
    if earlier.iter().any(|bearer| bearer.interface == name) {
        return Err(interface.error(format!(
            "{name:?} is there twice; give all its queues in one [[bearer]]"
        )));
    }
    let queues = read_queues(&table, earlier)?;
    let cores = read_cores(&table, queues.len())?;
    let (napi, in_flight_max) = read_napi(&table)?;
    Ok(BearerConfig {
        interface: name,
        queues,
        cores,
        network: or(table.field("network"), Network::DEFAULT, |field| {
            let number = field.integer(0..=Network::LAST.number())?;
            Network::new(number).ok_or_else(|| field.error("there is no such network"))
        })?,
        mode: or(table.field("mode"), ModeChoice::Auto, |field| {
            field.choice(&ModeChoice::NAMES)
        })?,
        encapsulation: read_encapsulation(&table)?,
        napi,
        in_flight_max,
        busy_poll: or(table.field("busy_poll_us"), None, |field| {
            let us = field.integer(1..=10_000)?;
            let budget = BusyPoll::default().budget;
            Ok(Some(BusyPoll { us, budget }))
        })?,
        huge_pages: or(table.field("huge_pages"), true, |field| field.boolean())?,
    })
}

/// Where NAPI runs, and how many frames in flight there may be.
fn read_napi(table: &Table<'_>) -> Result<(NapiProfile, usize), ConfigError> {
    let napi = or(table.field("napi"), NapiProfile::default(), |field| {
        field.choice(&[
            ("inline", NapiProfile::Inline),
            ("threaded", NapiProfile::Threaded),
        ])
    })?;
    // As many as the TX ring has entries.
    let depth = or(table.field("tx_depth"), napi.in_flight_max(), |field| {
        field.integer(8..=1024)
    })?;
    Ok((napi, depth))
}

/// One value, or an array of them under the plural of its name.
fn one_or_several(
    table: &Table<'_>,
    [one, several]: [&str; 2],
    range: std::ops::RangeInclusive<u32>,
) -> Result<Vec<u32>, ConfigError> {
    let Some(field) = table.field(several) else {
        let only = table.field(one).map(|field| field.integer(range));
        return only.into_iter().collect();
    };
    if let Some(field) = table.field(one) {
        return Err(field.error(format!("{several:?} is there too; give one of the two")));
    }
    let values = field.array("an array of whole numbers")?;
    if values.is_empty() {
        return Err(field.error("empty; expected an array of whole numbers"));
    }
    values
        .iter()
        .map(|value| value.integer(range.clone()))
        .collect()
}

fn read_queues(table: &Table<'_>, earlier: &[BearerConfig]) -> Result<Vec<u32>, ConfigError> {
    let mut queues = one_or_several(table, ["queue", "queues"], 0..=4095)?;
    let field = table.field("queues");
    let error = |message: String| match &field {
        Some(field) => field.error(message),
        None => table.error(message),
    };
    for (at, queue) in queues.iter().enumerate() {
        if queues[..at].contains(queue) {
            return Err(error(format!("queue {queue} is there twice")));
        }
    }
    if queues.is_empty() {
        queues.push(0);
    }
    let before: usize = earlier.iter().map(|bearer| bearer.queues.len()).sum();
    let all = before + queues.len();
    if all > MAX_LANES {
        return Err(error(format!(
            "{all} queues in all; a node has at most {MAX_LANES}"
        )));
    }
    Ok(queues)
}

fn read_cores(table: &Table<'_>, queues: usize) -> Result<Vec<u32>, ConfigError> {
    let cores = one_or_several(table, ["core", "cores"], 0..=1023)?;
    if cores.is_empty() || cores.len() == queues {
        return Ok(cores);
    }
    let message = format!(
        "{} cores for {queues} queues; expected one for each",
        cores.len()
    );
    let field = table.field("cores").or_else(|| table.field("core"));
    Err(match field {
        Some(field) => field.error(message),
        None => table.error(message),
    })
}

fn read_interval(root: &Table<'_>) -> Result<Option<u32>, ConfigError> {
    let table = root.table("rekey", &["interval"])?;
    or(table.field("interval"), Some(DEFAULT_INTERVAL_S), |field| {
        field.parsed("an interval such as \"10m\", or \"off\"", parse_interval)
    })
}

fn read_crypto(root: &Table<'_>) -> Result<(Provider, Vec<Suite>), ConfigError> {
    let table = root.table("crypto", &["provider", "suites"])?;
    let fallback = if Provider::Ring.is_built_in() {
        Provider::Ring
    } else {
        Provider::AwsLc
    };
    let provider = or(table.field("provider"), fallback, |field| {
        let providers = [Provider::Ring, Provider::AwsLc].map(|p| (p.name(), p));
        let provider = field.choice(&providers)?;
        if provider.is_built_in() {
            return Ok(provider);
        }
        Err(field.error(format!("{:?} is not in this build", provider.name())))
    })?;
    let Some(field) = table.field("suites") else {
        return Ok((provider, vec![Suite::Aes256Gcm]));
    };
    let mut suites = Vec::new();
    for entry in field.array("an array of suites")? {
        let suite = entry.choice(&Suite::ALL.map(|suite| (suite.name(), suite)))?;
        if suites.contains(&suite) {
            return Err(entry.error(format!("{:?} is there twice", suite.name())));
        }
        suites.push(suite);
    }
    if suites.is_empty() {
        return Err(field.error("empty; nothing could be sealed"));
    }
    Ok((provider, suites))
}

#[cfg(test)]
mod tests;
