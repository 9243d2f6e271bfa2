//! One `tipsecd` in its namespace: configuration, process, questions to it.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use tipsec_control::admin::{
    EventReport, EventsReport, LinkState, PeerReport, PeersReport, StatusReport, result_from_line,
};

use crate::admin::Admin;
use crate::lab::{Lab, NIC, wait_for};

/// Master keys for tests.
pub(crate) const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddee01";
pub(crate) const OTHER_KEY: &str =
    "a0112233445566778899aabbccddeeff00112233445566778899aabbccddee02";

/// How long a daemon may take for anything that it does at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Node id of node `i`.
pub(crate) fn id(i: usize) -> u32 {
    1000 + u32::try_from(i).unwrap()
}

/// A configuration as a user would write it; rekeying is off.
pub(crate) fn config(lab: &Lab, i: usize) -> String {
    config_with(lab, i, &format!("[[bearer]]\ninterface = \"{NIC}\"\n"))
}

/// The same with these bearers.
pub(crate) fn config_with(lab: &Lab, i: usize, bearers: &str) -> String {
    let dir = lab.dir.display();
    format!(
        "cluster = \"lab\"\n\
         node = {}\n\
         state_dir = \"{dir}/s{i}\"\n\
         \n\
         [admin]\n\
         socket = \"{dir}/{i}.sock\"\n\
         \n\
         [tap]\n\
         addresses = [\"10.77.0.{i}/24\"]\n\
         \n\
         {bearers}\
         \n\
         [rekey]\n\
         interval = \"off\"\n",
        id(i)
    )
}

/// A daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) socket: PathBuf,
    pub(crate) log: PathBuf,
}

impl Daemon {
    /// Starts node `i` with its plain configuration and waits until it serves.
    pub(crate) fn start(lab: &Lab, i: usize) -> Self {
        Self::start_with(lab, i, &config(lab, i))
    }

    /// The same with this configuration.
    pub(crate) fn start_with(lab: &Lab, i: usize, text: &str) -> Self {
        let mut daemon = Self::spawn(lab, i, text, &[]);
        daemon.wait_until_serving();
        daemon
    }

    /// Starts a daemon, by way of `wrapper` if that is a command, and returns
    /// at once.
    pub(crate) fn spawn(lab: &Lab, i: usize, text: &str, wrapper: &[&str]) -> Self {
        let daemon = Path::new(env!("CARGO_BIN_EXE_tipsecd"));
        Self::spawn_by(lab, i, text, wrapper, daemon, &[])
    }

    /// Starts another program that is a node, and returns at once.
    pub(crate) fn spawn_program(
        lab: &Lab,
        i: usize,
        text: &str,
        program: &Path,
        arguments: &[&str],
    ) -> Self {
        Self::spawn_by(lab, i, text, &[], program, arguments)
    }

    fn spawn_by(
        lab: &Lab,
        i: usize,
        text: &str,
        wrapper: &[&str],
        program: &Path,
        arguments: &[&str],
    ) -> Self {
        let file = lab.dir.join(format!("{i}.toml"));
        fs::write(&file, text).unwrap();
        let mut state = fs::DirBuilder::new();
        let _ = state.mode(0o700).create(lab.dir.join(format!("s{i}")));
        let log = lab.dir.join(format!("{i}.log"));
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &lab.node(i)])
            .args(wrapper)
            .arg(program)
            .arg("--config")
            .arg(&file)
            .args(arguments)
            .current_dir(&lab.dir)
            .env_remove("TIPSEC_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self {
            child,
            socket: lab.dir.join(format!("{i}.sock")),
            log,
        }
    }

    pub(crate) fn wait_until_serving(&mut self) {
        wait_for("the daemon serves", PATIENCE, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("tipsecd ended with {status}: {}", self.log_text());
            }
            // It listens before it serves: only an answer counts.
            let mut admin = Admin::connect(&self.socket).ok()?;
            crate::admin::is_ok(&admin.ask("{\"op\":\"status\"}")).then_some(())
        });
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        self.wait()
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.wait_for_end(PATIENCE)
    }

    /// The same with more patience.
    pub(crate) fn wait_for_end(&mut self, patience: Duration) -> ExitStatus {
        wait_for("the node ends", patience, || self.child.try_wait().unwrap())
    }

    /// Asks on a new connection.
    pub(crate) fn ask(&self, request: &str) -> String {
        Admin::connect(&self.socket).unwrap().ask(request)
    }

    fn report<T: DeserializeOwned>(&self, request: &str) -> T {
        let line = self.ask(request);
        result_from_line(line.as_bytes()).unwrap_or_else(|error| panic!("{request}: {error}"))
    }

    pub(crate) fn status(&self) -> StatusReport {
        self.report("{\"op\":\"status\"}")
    }

    pub(crate) fn peers(&self) -> Vec<PeerReport> {
        self.report::<PeersReport>("{\"op\":\"peers\"}").peers
    }

    /// What the node shows of node `i`.
    pub(crate) fn peer(&self, i: usize) -> Option<PeerReport> {
        self.peers().into_iter().find(|peer| peer.node == id(i))
    }

    pub(crate) fn events(&self) -> Vec<EventReport> {
        let request = "{\"op\":\"events\",\"after\":0,\"limit\":1000}";
        self.report::<EventsReport>(request).events
    }

    pub(crate) fn set_master(&self, key: &str) {
        let line = self.ask(&format!("{{\"op\":\"master-set\",\"key\":\"{key}\"}}"));
        assert!(crate::admin::is_ok(&line), "{line}");
    }

    /// Waits for the link to node `i`.
    pub(crate) fn wait_link(&self, i: usize, patience: Duration) {
        wait_for(&format!("link to node {i}"), patience, || {
            self.peer(i).filter(|peer| peer.link == LinkState::Up)
        });
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.unwrap().split_whitespace().next().unwrap();
        number.parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            println!("{}:\n{log}", self.log.display());
        }
    }
}

/// Starts nodes 1 to `count` under one master key, and waits until all links
/// are up.
pub(crate) fn cluster(lab: &Lab, count: usize) -> Vec<Daemon> {
    let configs: Vec<_> = (1..=count).map(|i| config(lab, i)).collect();
    cluster_of(lab, &configs)
}

/// The same with these configurations.
pub(crate) fn cluster_of(lab: &Lab, configs: &[String]) -> Vec<Daemon> {
    let count = configs.len();
    let daemons: Vec<_> = (1..)
        .zip(configs)
        .map(|(i, text)| Daemon::start_with(lab, i, text))
        .collect();
    for daemon in &daemons {
        daemon.set_master(KEY);
    }
    for (i, daemon) in (1..).zip(&daemons) {
        for other in (1..=count).filter(|&other| other != i) {
            daemon.wait_link(other, PATIENCE);
        }
    }
    daemons
}
