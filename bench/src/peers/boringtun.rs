//! boringtun-cli, Cloudflare's WireGuard in Rust. Debian does not have it;
//! `ci/peers` builds it into a folder of tools. Imports `wireguard`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Peer, Tunnel, Version, WhyNot, find_program, wireguard};
use crate::error::Result;
use crate::pair::Pair;
use crate::process;

pub(super) const NAME: &str = "boringtun";
const PROGRAM: &str = "boringtun-cli";
/// What it takes by default. On one core it is faster so than with one or two.
const THREADS: &str = "4";

pub(super) struct Boringtun;

/// Where `ci/peers` puts it.
fn tools() -> Vec<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let folder = cache
        .or_else(home)
        .map(|cache| cache.join("tipsec/tools/bin"));
    folder.into_iter().collect()
}

fn program() -> std::result::Result<PathBuf, WhyNot> {
    find_program(PROGRAM, &tools())
        .ok_or_else(|| WhyNot("not installed: ci/peers, or cargo install boringtun-cli".into()))
}

impl Peer for Boringtun {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cipher(&self) -> &'static str {
        wireguard::CIPHER
    }

    fn is_available(&self) -> std::result::Result<Version, WhyNot> {
        let said = process::run(Command::new(program()?).arg("--version"))
            .map_err(|error| WhyNot(error.to_string()))?;
        Ok(Version(said.trim().to_owned()))
    }

    fn start(&self, pair: &Pair, home: &Path) -> Result<Box<dyn Tunnel>> {
        let program = program().map_err(|why| why.into_error(NAME))?;
        // It would look for the user who has logged in, and fail without one.
        let arguments = [
            "--foreground",
            "--disable-drop-privileges",
            "--threads",
            THREADS,
        ];
        let notes = vec![format!("{THREADS} threads at each end, on its one core")];
        wireguard::start(&program, &arguments, pair, home, notes)
    }
}
