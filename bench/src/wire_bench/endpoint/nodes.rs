//! Two embedded nodes at the ends of a wire: their configuration, their keys,
//! and the book of what went from the left one to the right one. Imports
//! `accounting`, `accounts`, `admin`, `link`, `counts`.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tipsec_control::admin::{Counts, StatusReport};
use tipsec_control::config::Config;
use tipsec_control::embed::{Aead, Endpoint, Node, NodeId, SendError};
use tipsec_control::master::MasterKey;
use tipsec_dataplane::counters::{TxDrop, WorkerCounters};
use tipsec_dataplane::secret::Suite;

use crate::accounts::{XDP_LOSSES, XSK_LOSSES};
use crate::admin::AdminClient;
use crate::cluster::{RunDirectory, make_directory};
use crate::counts::{DeviceDrops, device_drops};
use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::wait::{self, Look};
use crate::wire_bench::accounting::Book;
use crate::wire_bench::ends::failed;
use crate::wire_bench::link::{Link, pin_napi};
use crate::wire_bench::measure::{Plan, Received, Sent, pin};
use crate::wire_bench::options::Profile;

/// Who sends.
pub(super) const LEFT: NodeId = match NodeId::new(1) {
    Some(node) => node,
    None => unreachable!(),
};
/// Who receives.
pub(super) const RIGHT: NodeId = match NodeId::new(2) {
    Some(node) => node,
    None => unreachable!(),
};
/// Both can send by then: beacons are heard and an exchange is complete.
const KEYS_WITHIN: Duration = Duration::from_secs(10);
/// Between two polls until then.
const KEYS_INTERVAL: Duration = Duration::from_micros(500);
/// The least depth that a configuration takes.
const DEPTH_MIN: usize = 8;

/// Frames in flight of a node that was asked for so many.
pub(in crate::wire_bench) fn depth(asked: usize) -> usize {
    asked.max(DEPTH_MIN)
}

/// Both nodes but for their endpoints. A node ends with either.
pub(super) struct Nodes<'a> {
    link: &'a Link,
    sides: [Side; 2],
    /// What devices counted before.
    before: [DeviceDrops; 2],
    /// NAPI threads of the receiving device.
    pub(super) napi: Vec<i32>,
}

struct Side {
    admin: RefCell<AdminClient>,
    counters: Arc<WorkerCounters>,
    // In this order: the node leaves before its files do.
    _node: Node,
    _home: RunDirectory,
}

impl<'a> Nodes<'a> {
    /// Starts both, gives them a new master key, and waits until both can
    /// send; the endpoints are those of left and right.
    ///
    /// # Errors
    /// Those of starting a node, [`Error::Timeout`] without keys in time.
    pub(super) fn start<A: Aead>(
        link: &'a Link,
        suite: Suite,
        plan: &Plan,
    ) -> Result<(Self, [Endpoint<A>; 2])> {
        let master = MasterKey::generate().map_err(failed("make a master key"))?;
        let start = |namespace: &Namespace, node, core| {
            Side::start::<A>(
                namespace,
                &link.node,
                &Settings {
                    node,
                    core,
                    suite,
                    profile: link.profile,
                    depth: depth(plan.depth),
                },
                &master,
            )
        };
        let (left, mut near) = start(&link.left, LEFT, plan.send_core)?;
        let (right, mut far) = start(&link.right, RIGHT, plan.receive_core)?;
        let napi = match link.profile {
            Profile::Inline => Vec::new(),
            Profile::Threaded => {
                link.thread_napi(&link.node)?;
                pin_napi(&link.node, plan.receive_core)?
            }
        };
        wait_for_keys(&mut near, &mut far)?;
        let nodes = Self {
            link,
            sides: [left, right],
            before: drops(link)?,
            napi,
        };
        Ok((nodes, [near, far]))
    }

    /// The book of everything that the left node seals for the right one:
    /// messages, and probes, which count as begun and as taken like them, since
    /// a drop counter does not tell one from the other.
    ///
    /// # Errors
    /// Those of a node that does not answer, [`Error::Command`].
    pub(super) fn book(&self, sent: &Sent, received: &Received) -> Result<Book> {
        let [left, right] = &self.sides;
        let mut book = Book {
            submitted: sent.submitted.value() + left.counters.probes_begun.value(),
            delivered: received.frames.value() + right.counters.probes_taken.value(),
            ..Book::default()
        };
        let (sender, receiver) = (left.status()?, right.status()?);
        enter_drops(&mut book, &sender, "tx_");
        enter_drops(&mut book, &receiver, "rx_");
        for reason in &XDP_LOSSES {
            let name = reason.name();
            book.lose(format!("xdp {name}"), count(&receiver.xdp, name));
        }
        let mut socket = Vec::new();
        for name in XSK_LOSSES {
            let entry = format!("xsk {name}");
            book.lose(entry.as_str(), count(&receiver.xsk, name));
            socket.push(entry);
        }
        let [near, far] = drops(self.link)?;
        let [near_before, far_before] = self.before;
        let tx = near.tx.saturating_sub(near_before.tx);
        book.lose_beyond("veth tx dropped", tx, &[TxDrop::LinkLost.name()]);
        book.lose("qdisc", near.qdisc.saturating_sub(near_before.qdisc));
        // The device counts what the socket refused as its own drop as well.
        let rx = far.rx.saturating_sub(far_before.rx);
        let known: Vec<&str> = socket.iter().map(String::as_str).collect();
        book.lose_beyond("veth rx dropped", rx, &known);
        Ok(book)
    }
}

/// Drops of left and right device.
fn drops(link: &Link) -> Result<[DeviceDrops; 2]> {
    Ok([
        device_drops(&link.left, &link.node)?,
        device_drops(&link.right, &link.node)?,
    ])
}

fn count(counts: &Counts, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or(0)
}

/// What a node's worker dropped on its way out (`tx_`) or in (`rx_`).
fn enter_drops(book: &mut Book, status: &StatusReport, way: &str) {
    for worker in &status.workers {
        for (reason, &frames) in &worker.drops {
            if reason.starts_with(way) {
                book.lose(reason.as_str(), frames);
            }
        }
    }
}

/// What differs between nodes.
struct Settings {
    node: NodeId,
    core: usize,
    suite: Suite,
    profile: Profile,
    depth: usize,
}

impl Settings {
    /// The configuration, as in docs/operations.md. Who seals is chosen by the
    /// program.
    fn text(&self, device: &str, home: &Path) -> String {
        let Self {
            node,
            core,
            suite,
            profile,
            depth,
        } = self;
        let napi = profile.name();
        format!(
            r#"cluster = "bench"
node = {}
state_dir = "{}"

[admin]
socket = "{}"

[tap]
enabled = false

[[bearer]]
interface = "{device}"
core = {core}
mode = "native-copy"
encapsulation = "ethernet"
napi = "{napi}"
tx_depth = {depth}

[crypto]
suites = ["{}"]
"#,
            node.value(),
            home.join("state").display(),
            socket_in(home).display(),
            suite.name()
        )
    }
}

fn socket_in(home: &Path) -> PathBuf {
    home.join("admin.sock")
}

impl Side {
    fn start<A: Aead>(
        namespace: &Namespace,
        device: &str,
        settings: &Settings,
        master: &MasterKey,
    ) -> Result<(Self, Endpoint<A>)> {
        let number = settings.node.value();
        let home = RunDirectory::create(&format!("wire{number}"))?;
        make_directory(&home.path().join("state"))?;
        let name = format!("configuration of node {number}");
        let config = Config::parse(&settings.text(device, home.path()), &name)
            .map_err(failed("configure a node"))?;
        let (node, mut endpoints) = namespace.run(|| {
            // Where its worker is, its control thread is.
            pin(settings.core)?;
            Node::start::<A>(&config).map_err(failed("start a node"))
        })?;
        let endpoint = endpoints.pop().ok_or_else(|| Error::Failed {
            what: "start a node".into(),
            detail: "it has no endpoint".into(),
        })?;
        let mut admin = AdminClient::connect(number, &socket_in(home.path()))?;
        admin.set_master(master)?;
        let side = Self {
            admin: RefCell::new(admin),
            counters: endpoint.counters(),
            _node: node,
            _home: home,
        };
        Ok((side, endpoint))
    }

    fn status(&self) -> Result<StatusReport> {
        self.admin.borrow_mut().status()
    }
}

/// Lets both nodes work until each can send to the other.
fn wait_for_keys<A: Aead>(near: &mut Endpoint<A>, far: &mut Endpoint<A>) -> Result<()> {
    wait::until(
        "both nodes to have keys",
        KEYS_WITHIN,
        KEYS_INTERVAL,
        || {
            let mut refusals: Vec<SendError> = Vec::new();
            for (endpoint, other) in [(&mut *near, RIGHT), (&mut *far, LEFT)] {
                endpoint.poll().map_err(failed("poll an endpoint"))?;
                // Given back at once.
                refusals.extend(endpoint.reserve(other).err());
            }
            Ok(match refusals.first() {
                None => Look::Done(()),
                Some(refusal) => Look::NotYet(refusal.to_string()),
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tipsec_control::admin::WorkerReport;
    use tipsec_control::embed::Ring;
    use tipsec_dataplane::bearer::xdp::NapiProfile;

    use super::*;
    use crate::machine;
    use crate::wire_bench::ends::MTU;

    #[test]
    fn a_node_takes_its_configuration() {
        let settings = Settings {
            node: RIGHT,
            core: 3,
            suite: Suite::ChaCha20Poly1305,
            profile: Profile::Threaded,
            depth: depth(1),
        };
        let text = settings.text("eth7", Path::new("/run/here"));
        let config = Config::parse(&text, "here").unwrap();
        assert_eq!((config.node, config.tap.enabled), (RIGHT, false));
        assert_eq!(config.suites, [Suite::ChaCha20Poly1305]);
        let [bearer] = &config.bearers[..] else {
            panic!("one bearer");
        };
        assert_eq!(
            (bearer.interface.as_str(), &bearer.cores[..]),
            ("eth7", &[3][..])
        );
        assert_eq!(
            (bearer.napi, bearer.in_flight_max),
            (NapiProfile::Threaded, DEPTH_MIN)
        );
        assert_eq!(depth(1024), 1024);
    }

    #[test]
    fn drops_of_the_other_way_are_not_entered() {
        let drops = [("tx_no_key", 1), ("rx_replayed", 2), ("events_lost", 4)];
        let status = StatusReport {
            workers: vec![WorkerReport {
                drops: drops.map(|(name, n)| (name.to_owned(), n)).into(),
                ..WorkerReport::default()
            }],
            ..StatusReport::default()
        };
        for (way, lost) in [("tx_", 1), ("rx_", 2)] {
            let mut book = Book::default();
            enter_drops(&mut book, &status, way);
            assert_eq!(book.losses.values().sum::<u64>(), lost);
        }
    }

    /// Messages of the test: twice what the receiver's RX ring holds.
    const MESSAGES: u64 = 4096;
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn what_the_receiver_has_no_room_for_is_accounted_for() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED (needs root): what_the_receiver_has_no_room_for_is_accounted_for");
            return;
        }
        let core = machine::cores().unwrap()[0];
        let link = Link::create(Profile::Inline, MTU).unwrap();
        let plan = Plan {
            send_core: core,
            receive_core: core,
            window: Duration::ZERO,
            depth: 64,
        };
        let (nodes, [mut left, mut right]) =
            Nodes::start::<Ring>(&link, Suite::Aes256Gcm, &plan).unwrap();
        let (sent, received) = (Sent::default(), Received::default());
        let deadline = Instant::now() + PATIENCE;
        // Nobody receives meanwhile.
        while sent.submitted.value() < MESSAGES {
            assert!(Instant::now() < deadline, "no room, or no key");
            if let Ok(frame) = left.reserve(RIGHT) {
                frame.commit(100).unwrap();
                sent.submitted.add(1);
                continue;
            }
            left.poll().unwrap();
        }
        let interval = Duration::from_millis(2);
        let book = wait::until("the book to balance", PATIENCE, interval, || {
            left.poll().map_err(failed("poll"))?;
            right.poll().map_err(failed("poll"))?;
            received.frames.add(right.receive(|_| ()) as u64);
            let book = nodes.book(&sent, &received)?;
            Ok(match book.unaccounted() {
                0 => Look::Done(book),
                _ => Look::NotYet(format!("{book:?}")),
            })
        });
        let book = book.unwrap();
        let lost = MESSAGES - received.frames.value();
        assert!(lost > 0, "{book:?}");
        // Probes may be among them.
        assert!(book.losses["xsk rx_ring_full"] >= lost, "{book:?}");
    }
}
