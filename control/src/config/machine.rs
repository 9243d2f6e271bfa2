//! Whether this machine has what the configuration names. Imports nothing
//! from this crate but its parent.

use rustix::net::{AddressFamily, SocketType};

use super::{Config, ConfigError};

impl Config {
    pub(super) fn check_machine(&self) -> Result<(), ConfigError> {
        for (at, bearer) in self.bearers.iter().enumerate() {
            self.check_interface(at, &bearer.interface)?;
            for &core in &bearer.cores {
                self.check_core(at, core)?;
            }
        }
        Ok(())
    }

    fn check_interface(&self, at: usize, name: &str) -> Result<(), ConfigError> {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None)
            .map_err(|error| self.bearer_error(at, "interface", format!("socket: {error}")))?;
        match rustix::net::netdevice::name_to_index(&socket, name) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.bearer_error(
                at,
                "interface",
                format!("there is no interface {name:?} here; `ip link` lists them"),
            )),
        }
    }

    fn check_core(&self, at: usize, core: u32) -> Result<(), ConfigError> {
        // By this process's mask, which also knows of containers and taskset.
        let usable = rustix::thread::sched_getaffinity(None)
            .map_err(|error| self.bearer_error(at, "cores", format!("affinity: {error}")))?;
        if usable.is_set(core as usize) {
            return Ok(());
        }
        let cores: Vec<_> = (0..1024)
            .filter(|&core| usable.is_set(core))
            .map(|core| core.to_string())
            .collect();
        Err(self.bearer_error(
            at,
            "cores",
            format!(
                "core {core} is not usable here; there are: {}",
                cores.join(", ")
            ),
        ))
    }
}
