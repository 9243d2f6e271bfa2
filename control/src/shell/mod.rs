//! What the daemon needs around the key machine: sockets, clock, files.
//!
//! [`start`] builds a [`daemon::Daemon`] from a configuration: a loop around a
//! [`node::Node`], which turns what sockets and workers say into the machine's
//! inputs, and the machine's actions into what they are told. [`check`] only looks,
//! and says what is fine and what to change.

pub mod admin_server;
pub mod check;
pub mod clock;
pub mod control_port;
pub mod daemon;
mod evictions;
pub mod hub;
pub mod link;
mod masters;
mod network;
pub mod nic;
pub mod node;
pub mod packet_socket;
pub mod paths;
mod reports;
pub mod routes;
mod sockopt;
pub mod start;
pub mod udp_socket;
mod watch;
