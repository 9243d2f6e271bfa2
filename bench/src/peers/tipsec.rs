//! Tipsec itself: two real `tipsecd` at the ends of the wire, keyed by an
//! operator's commands, and their books. Imports `accounts`, `books`, `daemon`,
//! `keyctl`.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tipsec_control::admin::LinkState;
use tipsec_xdp::config::COUNTER_NAMES;
use tipsec_xdp::{Accept, Reason};

use super::{Peer, Tunnel, Version, WhyNot};
use crate::accounts::{self, Balance, Cut, NodeBook};
use crate::books;
use crate::cluster::{Binaries, make_directory};
use crate::counts::device_drops;
use crate::daemon::{Daemon, Settings, TAP};
use crate::error::{Error, Result};
use crate::keyctl::{self, Keyctl};
use crate::pair::Pair;
use crate::process;
use crate::topology::BEARER;
use crate::wait::{self, Look};

/// With AES-256-GCM, to set against OpenVPN.
pub const NAME: &str = "tipsec";
/// With ChaCha20-Poly1305, to set against WireGuard.
pub const NAME_CHACHA20: &str = "tipsec-chacha20";
/// Both links have to be up so long after the second node got its key.
const LINKS_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct Tipsec {
    name: &'static str,
    cipher: &'static str,
    /// As the config file calls it.
    suite: &'static str,
    binaries: Binaries,
}

impl Tipsec {
    pub(super) fn aes(binaries: Binaries) -> Self {
        Self {
            name: NAME,
            cipher: "AES-256-GCM",
            suite: "aes-256-gcm",
            binaries,
        }
    }

    pub(super) fn chacha20(binaries: Binaries) -> Self {
        Self {
            name: NAME_CHACHA20,
            cipher: "ChaCha20-Poly1305",
            suite: "chacha20-poly1305",
            binaries,
        }
    }

    /// The crate that is faster with large frames (docs/operations.md).
    const PROVIDER: &'static str = "aws-lc-rs";
}

impl Peer for Tipsec {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_tipsec(&self) -> bool {
        true
    }

    fn cipher(&self) -> &'static str {
        self.cipher
    }

    fn is_available(&self) -> std::result::Result<Version, WhyNot> {
        let said = process::run(Command::new(&self.binaries.tipsecd).arg("--version"))
            .map_err(|error| WhyNot(error.to_string()))?;
        Ok(Version(said.trim().to_owned()))
    }

    fn start(&self, pair: &Pair, home: &Path) -> Result<Box<dyn Tunnel>> {
        let master = home.join("master.key");
        keyctl::generate_master(&self.binaries.keyctl, &master)?;
        let mut tunnel = Daemons {
            nodes: Vec::new(),
            target: pair.ends[1].inner,
            notes: Vec::new(),
            opening: Cut::default(),
        };
        for side in [0, 1] {
            let node = self.start_node(pair, side, home)?;
            tunnel.nodes.push(node);
        }
        for side in ["node1", "node2"] {
            let socket = socket_in(&home.join(side));
            let file = master.to_string_lossy();
            Keyctl::new(&self.binaries.keyctl, &socket).run(&["master", "set", "--file", &file])?;
        }
        tunnel.wait_for_links()?;
        tunnel.take_notes()?;
        Ok(Box::new(tunnel))
    }
}

fn socket_in(home: &Path) -> PathBuf {
    home.join("admin.sock")
}

impl Tipsec {
    fn start_node(&self, pair: &Pair, side: usize, home: &Path) -> Result<Daemon> {
        let end = &pair.ends[side];
        let number = NUMBERS[side];
        let home = home.join(format!("node{number}"));
        let state = home.join("state");
        make_directory(&home)?;
        make_directory(&state)?;
        let socket = socket_in(&home);
        let settings = Settings {
            cluster: "bench",
            node: number,
            address: end.inner,
            state: &state,
            socket: &socket,
            core: end.core,
            provider: Some(Self::PROVIDER),
            suite: Some(self.suite),
        };
        let config = home.join("tipsec.toml");
        fs::write(&config, settings.text())
            .map_err(Error::io(format!("write {}", config.display())))?;
        let mut command = end.command(&self.binaries.tipsecd);
        command.arg("--config").arg(&config);
        Daemon::start(number, &command, &socket)
    }
}

/// Node ids by side.
const NUMBERS: [u32; 2] = [1, 2];

struct Daemons {
    nodes: Vec<Daemon>,
    target: Ipv4Addr,
    notes: Vec<String>,
    opening: Cut,
}

impl Daemons {
    fn wait_for_links(&mut self) -> Result<()> {
        let interval = Duration::from_millis(5);
        wait::until("both links to be up", LINKS_WITHIN, interval, || {
            let mut states = Vec::new();
            for node in &mut self.nodes {
                let peers = node.admin()?.peers()?.peers;
                states.push(peers.first().map(|peer| peer.link));
            }
            Ok(
                if states.iter().all(|state| *state == Some(LinkState::Up)) {
                    Look::Done(())
                } else {
                    Look::NotYet(format!("{states:?}"))
                },
            )
        })
    }

    /// How its sockets are attached, and who seals: of the first node, since
    /// both are configured alike.
    fn take_notes(&mut self) -> Result<()> {
        let status = self.nodes[0].admin()?.status()?;
        self.notes = vec!["1 worker at each end, pinned, on the core of its daemon".to_owned()];
        for bearer in &status.bearers {
            self.notes.push(format!(
                "AF_XDP {}, {}, {} by {}",
                bearer.mode, bearer.encapsulation, bearer.suite, bearer.aead
            ));
        }
        Ok(())
    }

    /// All counters at a moment when none moved.
    fn read_books(&mut self, pair: &Pair) -> Result<Cut> {
        let mut cut = books::steady(|| {
            let mut cut = Cut::default();
            for (node, number) in self.nodes.iter_mut().zip(NUMBERS) {
                cut.nodes.insert(number, books::read_node(node.admin()?)?);
            }
            for (from, to) in [(1, 2), (2, 1)] {
                let arrived = cut.nodes.get(&to).map_or(0, data_arrived);
                cut.wire.insert((from, to), arrived);
            }
            Ok(cut)
        })?;
        // These only name losses, so it does not matter that they are read later.
        for (end, number) in pair.ends.iter().zip(NUMBERS) {
            let book = cut.nodes.entry(number).or_default();
            book.bearer = device_drops(&end.namespace, BEARER)?;
            book.tap = device_drops(&end.namespace, TAP)?;
        }
        Ok(cut)
    }
}

/// Data frames that the XDP program of a node has seen: on a cable without a
/// bridge that is what was on the wire. The device may lose frames before its
/// program sees them, and says so on the sender's side: a veth counts what it
/// could not hand over as `tx dropped`.
fn data_arrived(node: &NodeBook) -> u64 {
    let count = |name: &str| node.xdp.get(name).copied().unwrap_or(0);
    let dropped = accounts::XDP_LOSSES
        .iter()
        .map(|reason: &Reason| count(reason.name()));
    count(COUNTER_NAMES[Accept::Data as usize]) + dropped.sum::<u64>()
}

impl Tunnel for Daemons {
    fn device(&self) -> &str {
        TAP
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn target(&self) -> Ipv4Addr {
        self.target
    }

    fn check_running(&mut self) -> Result<()> {
        self.nodes
            .iter_mut()
            .try_for_each(|node| node.admin().map(|_| ()))
    }

    fn open_books(&mut self, pair: &Pair) -> Result<()> {
        self.opening = self.read_books(pair)?;
        Ok(())
    }

    fn close_books(&mut self, pair: &Pair) -> Result<Option<Balance>> {
        let closing = self.read_books(pair)?;
        Ok(Some(accounts::balance(&self.opening, &closing, None)))
    }

    fn stop(self: Box<Self>) -> Vec<String> {
        let daemons = self.nodes.into_iter();
        daemons.filter_map(|daemon| daemon.stop().err()).collect()
    }
}
