//! Daemons on a topology, and the directory of a run. Imports `daemon`,
//! `keyctl`, `topology`.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tipsec_control::admin::LinkState;

use crate::admin::AdminClient;
use crate::daemon::{Daemon, Settings};
use crate::error::{Error, Result};
use crate::keyctl::Keyctl;
use crate::netns::Namespace;
use crate::topology::Topology;
use crate::wait::{self, Look};

/// Where directories of runs are; root alone may write here, so nobody can
/// put a link in the way.
const RUN_DIRECTORY: &str = "/run";
const PREFIX: &str = "tsec-";

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The daemon.
    pub tipsecd: PathBuf,
    /// The daemon as built with the feature `drill`, which need not be there.
    pub drill_tipsecd: PathBuf,
    /// The command line.
    pub keyctl: PathBuf,
}

impl Binaries {
    /// Both, from one directory.
    ///
    /// # Errors
    /// [`Error::Io`] if one is missing, with how to build it.
    pub fn find(directory: &Path) -> Result<Self> {
        let find = |name: &str| {
            let path = directory.join(name);
            if path.is_file() {
                return Ok(path);
            }
            Err(Error::io(format!(
                "find {}; build it by `cargo build --release -p tipsec-control -p tipsec-keyctl`, \
                 or say --binaries DIRECTORY",
                path.display()
            ))(std::io::ErrorKind::NotFound.into()))
        };
        Ok(Self {
            tipsecd: find("tipsecd")?,
            drill_tipsecd: directory.join("drill").join("tipsecd"),
            keyctl: find("tipsec-keyctl")?,
        })
    }
}

/// A directory for one run, mode 0700, gone when dropped.
#[derive(Debug)]
pub struct RunDirectory(PathBuf);

impl RunDirectory {
    /// Makes `/run/tsec-<pid>-<label>`; removes those of dead runs first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(label: &str) -> Result<Self> {
        sweep();
        let path = Path::new(RUN_DIRECTORY).join(format!("{PREFIX}{}-{label}", std::process::id()));
        make_directory(&path)?;
        Ok(Self(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        // What cannot be removed is swept by the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a directory for its owner alone.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(Error::io(format!("make {}", path.display())))
}

/// Removes directories of runs that are dead.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(RUN_DIRECTORY) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let dead = pid.is_some_and(|pid| {
            pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
        });
        if dead {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// One node: its place on the bridge, its files, its daemon if it runs.
pub struct Node {
    /// Node id, from 1; also the last byte of its address.
    pub id: u32,
    /// Index of its port.
    pub port: usize,
    /// Its address on the tap network.
    pub address: Ipv4Addr,
    /// The operator's way in.
    pub keyctl: Keyctl,
    /// Where its daemon keeps the keyring.
    pub state: PathBuf,
    config: PathBuf,
    socket: PathBuf,
    daemon: Option<Daemon>,
}

/// All nodes. The order of fields is the order of the end: daemons, then
/// devices, then files.
pub struct Cluster {
    /// By port.
    pub nodes: Vec<Node>,
    /// Where they are plugged in.
    pub topology: Topology,
    directory: RunDirectory,
    binaries: Binaries,
}

impl Cluster {
    /// Plugs in `nodes` nodes and writes their config files; starts nothing.
    ///
    /// # Errors
    /// Those of [`Topology::create`] and of files.
    pub fn create(label: &str, nodes: u8, binaries: Binaries) -> Result<Self> {
        let directory = RunDirectory::create(label)?;
        let topology = Topology::create(usize::from(nodes))?;
        let mut cluster = Self {
            nodes: Vec::new(),
            topology,
            directory,
            binaries,
        };
        for index in 0..nodes {
            let node = cluster.prepare(index)?;
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    /// A directory of the run, for further files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The programs under test.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    fn prepare(&self, index: u8) -> Result<Node> {
        let number = index + 1;
        let home = self.directory.path().join(format!("node{number}"));
        make_directory(&home)?;
        let state = home.join("state");
        make_directory(&state)?;
        let address = Ipv4Addr::new(10, 77, 0, number);
        let socket = home.join("admin.sock");
        let config = home.join("tipsec.toml");
        // Cores are dealt out in turn.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let settings = Settings {
            cluster: "demo",
            node: u32::from(number),
            address,
            state: &state,
            socket: &socket,
            core: usize::from(index) % cores,
            provider: None,
            suite: None,
        };
        let text = settings.text();
        fs::write(&config, text).map_err(Error::io(format!("write {}", config.display())))?;
        Ok(Node {
            id: u32::from(number),
            port: usize::from(index),
            address,
            keyctl: Keyctl::new(&self.binaries.keyctl, &socket),
            state,
            config,
            socket,
            daemon: None,
        })
    }

    /// The namespace of a node.
    pub fn namespace(&self, index: usize) -> &Namespace {
        &self.topology.ports[self.nodes[index].port].namespace
    }

    /// Starts a daemon and waits until it answers; says when the process was
    /// started.
    ///
    /// # Errors
    /// [`Error::Ended`] with its last words, [`Error::Timeout`].
    pub fn start(&mut self, index: usize) -> Result<Instant> {
        let program = self.binaries.tipsecd.clone();
        self.start_program(index, &[program.into_os_string()])
    }

    /// The same with another program and what stands before it, as `env` does.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_program(&mut self, index: usize, program: &[OsString]) -> Result<Instant> {
        let node = &mut self.nodes[index];
        let port = &self.topology.ports[node.port];
        let (first, rest) = program.split_first().ok_or_else(|| Error::Failed {
            what: "start a daemon".into(),
            detail: "no program was named".into(),
        })?;
        let mut command = port.namespace.command(first);
        command.args(rest);
        command.arg("--config").arg(&node.config);
        // An earlier life ends before the next begins.
        node.daemon = None;
        let daemon = Daemon::start(node.id, &command, &node.socket)?;
        let started = daemon.started;
        node.daemon = Some(daemon);
        Ok(started)
    }

    /// SIGKILL to a node's daemon; gone when this returns.
    pub fn kill(&mut self, index: usize) {
        if let Some(daemon) = self.nodes[index].daemon.take() {
            daemon.kill();
        }
    }

    /// Waits until a node's daemon ends by itself; gives its status and what it
    /// wrote.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it still runs.
    pub fn wait_for_end(
        &mut self,
        index: usize,
        deadline: Duration,
    ) -> Result<(ExitStatus, String)> {
        let node = &mut self.nodes[index];
        match &mut node.daemon {
            Some(daemon) => {
                let ended = daemon.finish(deadline)?;
                node.daemon = None;
                Ok(ended)
            }
            None => Err(Error::Failed {
                what: format!("wait for the end of node {}", node.id),
                detail: "its daemon does not run".into(),
            }),
        }
    }

    /// Process id of a node's daemon, if it was started.
    pub fn pid(&self, index: usize) -> Option<u32> {
        Some(self.nodes[index].daemon.as_ref()?.pid())
    }

    /// Asks a node's daemon to leave.
    ///
    /// # Errors
    /// [`Error::Failed`] if it did not do so by itself and with success.
    pub fn stop_one(&mut self, index: usize) -> Result<()> {
        let Some(daemon) = self.nodes[index].daemon.take() else {
            return Ok(());
        };
        daemon.stop().map_err(|detail| Error::Failed {
            what: "end a daemon in order".into(),
            detail,
        })
    }

    /// Asks every daemon to leave, and gives those a name that did not do so
    /// by themselves and with success.
    pub fn stop(&mut self) -> Vec<String> {
        let mut stubborn = Vec::new();
        for node in &mut self.nodes {
            if let Some(daemon) = node.daemon.take() {
                stubborn.extend(daemon.stop().err());
            }
        }
        stubborn
    }

    /// Nodes whose daemon runs, by index.
    pub fn running(&self) -> Vec<usize> {
        let runs = |index: &usize| self.nodes[*index].daemon.is_some();
        (0..self.nodes.len()).filter(runs).collect()
    }

    /// The admin connection of a running node.
    ///
    /// # Errors
    /// [`Error::Ended`] if its daemon has ended, or was never started.
    pub fn admin(&mut self, index: usize) -> Result<&mut AdminClient> {
        let node = &mut self.nodes[index];
        let id = node.id;
        let daemon = node.daemon.as_mut().ok_or_else(|| Error::Ended {
            process: format!("tipsecd of node {id}"),
            status: "not started".into(),
            log: String::new(),
        })?;
        daemon.admin()
    }

    /// Waits until every running node has a link to every other one.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the links that are missing, [`Error::Ended`].
    pub fn wait_for_links(&mut self, deadline: Duration) -> Result<()> {
        let running = self.running();
        let what = format!("all links of {} nodes to be up", running.len());
        wait::until(&what, deadline, Duration::from_millis(5), || {
            let missing = self.missing_links(&running)?;
            Ok(if missing.is_empty() {
                Look::Done(())
            } else {
                Look::NotYet(missing.join(", "))
            })
        })
    }

    fn missing_links(&mut self, running: &[usize]) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for &from in running {
            let report = self.admin(from)?.peers()?;
            let id = self.nodes[from].id;
            for &to in running.iter().filter(|to| **to != from) {
                let other = self.nodes[to].id;
                let peer = report.peers.iter().find(|peer| peer.node == other);
                let link = peer.map(|peer| peer.link);
                if link != Some(LinkState::Up) {
                    let state = link.map_or("unknown", LinkState::name);
                    missing.push(format!("{id} -> {other} is {state}"));
                }
            }
        }
        Ok(missing)
    }

    /// The last lines of every daemon, for a report of failure.
    pub fn last_words(&self, lines: usize) -> String {
        let mut words = String::new();
        for node in &self.nodes {
            if let Some(daemon) = &node.daemon {
                words.push_str(&format!(
                    "--- tipsecd of node {}:\n{}\n",
                    node.id,
                    daemon.last_lines(lines)
                ));
            }
        }
        words
    }
}
