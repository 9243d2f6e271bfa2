//! The disk with the keyring is full when the next master key is staged: the
//! step fails and says why, the keyring stays whole, traffic does not notice.
//! Imports `lab`, `trial`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::Scene;
use super::lab::Lab;
use super::outcome::Outcome;
use super::stream::Pace;
use super::trial::Trial;
use crate::error::{Error, Result};
use crate::keyctl;
use crate::process;
use crate::wait;

/// Index of the node whose disk it is.
const VICTIM: usize = 1;
/// Size of its disk: some pages.
const DISK: &str = "64k";
/// Datagrams a second, each way.
const LOAD: Pace = Pace::PerSecond(1000);
/// Of traffic after the step was refused.
const AFTER: Duration = Duration::from_millis(500);

/// A small file system, taken away when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Result<Self> {
        let options = format!("size={DISK},mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at);
        process::run(&mut mount)?;
        Ok(Self(at.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Writes until nothing fits any more.
    fn fill(&self) -> Result<()> {
        let path = self.filler();
        let what = || format!("fill {}", path.display());
        let mut file = fs::File::create(&path).map_err(Error::io(what()))?;
        loop {
            match file.write(&[0xa5; 512]) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(Error::io(what())(error)),
            }
        }
    }

    fn free(&self) -> Result<()> {
        let path = self.filler();
        fs::remove_file(&path).map_err(Error::io(format!("remove {}", path.display())))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a daemon may still have it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

pub(super) fn run(scene: &Scene<'_>, outcome: &mut Outcome) -> Result<()> {
    let mut lab = Lab::plug(scene, "disk", 2)?;
    // Dropped before the lab, which removes the directory under it.
    let disk = SmallDisk::mount(&lab.cluster.nodes[VICTIM].state)?;
    lab.start()?;
    let result = drill(&disk, &mut lab, outcome);
    lab.conclude(scene, outcome, result)
}

fn drill(disk: &SmallDisk, lab: &mut Lab, outcome: &mut Outcome) -> Result<()> {
    let before = master(lab)?;
    let next = lab.cluster.directory().join("next.key");
    keyctl::generate_master(&lab.cluster.binaries().keyctl, &next)?;
    let next = next.to_string_lossy().into_owned();
    let trial = Trial::begin(lab, &[(0, VICTIM, LOAD), (VICTIM, 0, LOAD)], &[])?;

    disk.fill()?;
    let filled = Instant::now();
    let stage = ["master", "stage", "--file", &next];
    let refused = lab.cluster.nodes[VICTIM].keyctl.run(&stage);
    let words = match &refused {
        Ok(_) => "it was taken".to_owned(),
        Err(error) => error.line(),
    };
    outcome.check(
        "stage fails and says that the disk is full",
        refused.is_err() && words.contains("No space left on device"),
        words,
    );
    let status = lab.cluster.nodes[VICTIM]
        .keyctl
        .run(&["master", "status"])?;
    outcome.check(
        "nothing is staged",
        !status.contains("staged  ") && master(lab)? == before,
        "the node holds what it held".to_owned(),
    );
    wait::pass(AFTER)?;
    outcome.harm("disk full when a key was staged", filled.elapsed(), 0);
    let ended = trial.end(lab, None)?;
    ended.check(outcome);
    ended.check_keys(outcome);

    // The files on the full disk are what the next life starts from.
    lab.cluster.kill(VICTIM);
    lab.start_again(VICTIM)?;
    let again = master(lab)?;
    outcome.check(
        "a daemon that starts on the full disk has its master key",
        again == before && before.is_some(),
        again.unwrap_or_else(|| "it has none".to_owned()),
    );
    lab.wait_for_links()?;
    disk.free()?;
    let staged = lab.cluster.nodes[VICTIM].keyctl.run(&stage);
    outcome.check(
        "stage works when there is room",
        staged.is_ok(),
        staged.map_or_else(|error| error.line(), |_| "staged".to_owned()),
    );
    lab.check_wire(outcome);
    lab.check_sight(outcome);
    lab.check_health(outcome)
}

fn master(lab: &mut Lab) -> Result<Option<String>> {
    Ok(lab.cluster.admin(VICTIM)?.status()?.master_id)
}
