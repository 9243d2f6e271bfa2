//! Gives a worker its thread and its core.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};

use super::Worker;
use crate::aead::Aead;
use crate::bearer::{Bearer, BearerError};
use crate::counters::WorkerCounters;
use crate::tap::TapPort;

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The core does not exist or is not ours to use.
    #[error("core {core} is not available to this process; available are {available:?}")]
    NoSuchCore {
        /// The core that was asked for.
        core: usize,
        /// Those that there are.
        available: Vec<usize>,
    },
    /// No thread is to be had.
    #[error("cannot start a worker thread")]
    Thread(#[from] io::Error),
}

/// A running worker.
pub struct WorkerHandle {
    thread: JoinHandle<()>,
    counters: Arc<WorkerCounters>,
    fault: Arc<OnceLock<BearerError>>,
    panic: Arc<OnceLock<String>>,
}

/// A worker panicked: a bug. Its keys are wiped, its frames lost.
#[derive(Debug, thiserror::Error)]
#[error("worker thread panicked: {0}")]
pub struct WorkerPanic(String);

/// Starts a worker on a thread of this name (15 bytes are shown), pinned to
/// `core` if one is given.
///
/// # Errors
/// [`SpawnError`]; then the worker is gone and its bearer closed.
pub fn spawn<A, B, T>(
    mut worker: Worker<A, B, T>,
    core: Option<usize>,
    name: &str,
) -> Result<WorkerHandle, SpawnError>
where
    A: Aead,
    B: Bearer + Send + 'static,
    B::Frame: Send,
    T: TapPort + Send + 'static,
{
    let available = cores();
    if let Some(core) = core
        && !available.contains(&core)
    {
        return Err(SpawnError::NoSuchCore { core, available });
    }
    let counters = worker.counters();
    let fault = Arc::clone(&worker.fault);
    let panic = Arc::new(OnceLock::new());
    let panic_slot = Arc::clone(&panic);
    let (started, pinned) = sync_channel(1);
    let thread = Builder::new().name(name.to_owned()).spawn(move || {
        let on_core =
            core.is_none_or(|id| core_affinity::set_for_current(core_affinity::CoreId { id }));
        let heard = started.send(on_core);
        if !on_core || heard.is_err() {
            return;
        }
        let result = catch_unwind(AssertUnwindSafe(|| worker.run()));
        if let Err(payload) = result {
            let _ = panic_slot.set(text_of(payload.as_ref()));
        }
        // The control thread looks at us now, and sees the reason if there is one.
        worker.channel.wake_control();
    })?;
    if pinned.recv().unwrap_or(false) {
        return Ok(WorkerHandle {
            thread,
            counters,
            fault,
            panic,
        });
    }
    let _ = thread.join();
    Err(SpawnError::NoSuchCore {
        core: core.unwrap_or(0),
        available,
    })
}

/// Cores that the calling thread may run on.
fn cores() -> Vec<usize> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    ids.into_iter().map(|core| core.id).collect()
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

impl WorkerHandle {
    /// Its counters, which outlive it.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }

    /// Why it gave its bearer up, once [`crate::command::Event::BearerLost`]
    /// has been sent; the worker itself goes on.
    pub fn bearer_fault(&self) -> Option<&BearerError> {
        self.fault.get()
    }

    /// Why it ended, if it panicked; the control thread is woken when it does.
    pub fn panicked(&self) -> Option<&str> {
        self.panic.get().map(String::as_str)
    }

    /// Waits for its end; it ends by [`crate::command::Command::Stop`].
    ///
    /// # Errors
    /// [`WorkerPanic`] if it ended otherwise.
    pub fn join(self) -> Result<(), WorkerPanic> {
        let joined = self.thread.join();
        match (self.panic.get(), joined) {
            (Some(text), _) => Err(WorkerPanic(text.clone())),
            (None, Err(payload)) => Err(WorkerPanic(text_of(payload.as_ref()))),
            (None, Ok(())) => Ok(()),
        }
    }
}
