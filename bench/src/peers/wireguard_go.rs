//! wireguard-go, the WireGuard project's own userspace implementation, as the
//! distribution packages it. Imports `wireguard`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Peer, Tunnel, Version, WhyNot, find_program, wireguard};
use crate::error::Result;
use crate::pair::Pair;
use crate::process;

pub(super) const NAME: &str = "wireguard-go";

pub(super) struct WireguardGo;

fn program() -> std::result::Result<PathBuf, WhyNot> {
    find_program(NAME, &[])
        .ok_or_else(|| WhyNot("not installed: ci/peers, or apt install wireguard-go".into()))
}

impl Peer for WireguardGo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cipher(&self) -> &'static str {
        wireguard::CIPHER
    }

    fn is_available(&self) -> std::result::Result<Version, WhyNot> {
        let said = process::run(Command::new(program()?).arg("--version"))
            .map_err(|error| WhyNot(error.to_string()))?;
        // A licence follows.
        let first = said.lines().next().unwrap_or_default();
        Ok(Version(first.trim().to_owned()))
    }

    fn start(&self, pair: &Pair, home: &Path) -> Result<Box<dyn Tunnel>> {
        let program = program().map_err(|why| why.into_error(NAME))?;
        // Go makes as many threads as the process may use cores when it starts.
        let notes = vec!["as many workers as cores: 1 at each end, pinned".to_owned()];
        wireguard::start(&program, &["--foreground"], pair, home, notes)
    }
}
