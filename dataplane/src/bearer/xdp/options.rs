//! Socket options of a bound AF_XDP socket: each makes it faster, none is
//! needed. What the kernel refuses is reported and the bearer goes on.
//!
//! Imports `sys`, `config` and `report`.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::sockopt;

use super::config::XdpConfig;
use super::report::RefusedOption;
use super::umem::{CHUNK_LEN, Layout};
use crate::burst::BURST;
use crate::sys::sockopt::NumberOption;

/// Which options a socket took.
#[derive(Default)]
pub(super) struct Options {
    /// Descriptors that the kernel takes in one call, if it lets us say.
    pub(super) tx_budget: Option<u32>,
    /// Whether the device is polled by the worker.
    pub(super) busy_poll: bool,
    /// What it did not take.
    pub(super) refused: Vec<RefusedOption>,
}

impl Options {
    /// Sets what `config` wishes for.
    pub(super) fn set(socket: impl AsFd, config: &XdpConfig, layout: Layout) -> Self {
        let mut options = Self::default();
        options.set_send_buffer(&socket, config, layout);
        options.set_budget(&socket, config);
        options.set_busy_poll(&socket, config);
        options
    }

    /// As much as may ever wait. A kernel that does not know the option is
    /// older than Linux 6.17, which is no refusal.
    fn set_budget(&mut self, socket: impl AsFd, config: &XdpConfig) {
        let option = NumberOption::MAX_TX_SKB_BUDGET;
        match option.set(socket, config.tx_ring) {
            Ok(()) => self.tx_budget = Some(config.tx_ring),
            Err(Errno::NOPROTOOPT) => {}
            Err(errno) => self.refuse(option.name, errno),
        }
    }

    /// On only if the kernel took all of it: interrupts that are held back and
    /// a device that nobody polls would be the worst of both.
    fn set_busy_poll(&mut self, socket: impl AsFd, config: &XdpConfig) {
        let Some(busy_poll) = config.busy_poll else {
            return;
        };
        let values = [
            (NumberOption::BUSY_POLL, busy_poll.us),
            (NumberOption::BUSY_POLL_BUDGET, u32::from(busy_poll.budget)),
            (NumberOption::PREFER_BUSY_POLL, 1),
        ];
        for (option, value) in values {
            if let Err(errno) = option.set(&socket, value) {
                return self.refuse(option.name, errno);
            }
        }
        self.busy_poll = true;
    }

    /// In copy mode a frame in flight is charged as a socket buffer of at most
    /// two chunks' size, and a page for each further chunk. Too small is no
    /// error: it shows as EAGAIN.
    fn set_send_buffer(&mut self, socket: impl AsFd, config: &XdpConfig, layout: Layout) {
        let pages_a_frame = 1 + layout.wide_chunks.max(1) as usize;
        let bytes = (config.in_flight_max + BURST) * pages_a_frame * CHUNK_LEN;
        // The system's limit (net.core.wmem_max) is less than what 64 frames of
        // 3,500 bytes take; whoever may open this socket may go beyond it.
        let result = sockopt::set_socket_send_buffer_size_force(&socket, bytes)
            .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, bytes));
        if let Err(errno) = result {
            self.refuse("SO_SNDBUF", errno);
        }
    }

    fn refuse(&mut self, name: &'static str, errno: Errno) {
        self.refused.push(RefusedOption {
            name,
            reason: errno.to_string(),
        });
    }
}
