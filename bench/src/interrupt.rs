//! Ctrl-C and its kin, as a flag that every wait looks at, so that the guards
//! of namespaces and processes get to run. Imports `error`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{Error, Result};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

fn flag() -> &'static Arc<AtomicBool> {
    INTERRUPTED.get_or_init(Arc::default)
}

/// From now on SIGINT, SIGTERM and SIGHUP set the flag and do nothing else.
///
/// # Errors
/// The kernel's, if a handler cannot be installed.
pub fn install() -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag()))
            .map_err(Error::io(format!("handle signal {signal}")))?;
    }
    Ok(())
}

/// Whether somebody wants this to end.
pub fn requested() -> bool {
    flag().load(Ordering::Relaxed)
}

/// # Errors
/// [`Error::Interrupted`] once a signal has arrived.
pub fn check() -> Result<()> {
    if requested() {
        return Err(Error::Interrupted);
    }
    Ok(())
}
