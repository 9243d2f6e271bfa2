//! The real `tipsecd` among real devices: what it refuses, what it survives,
//! what it leaves behind. Needs root; everything happens in namespaces that
//! are removed at the end, also of a failed test.

#![cfg(feature = "daemon")]
// Helpers are tests too, but clippy knows only functions marked as such.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admin;
mod admin_abuse;
mod check;
mod clock;
mod crash;
mod device;
mod endpoint;
mod evict;
mod flood;
mod flooder;
#[path = "../forgery/mod.rs"]
mod forgery;
mod garbage;
mod identity;
mod inject;
mod junk;
mod lab;
mod lanes;
mod member;
mod node;
mod past;
mod phases;
mod raw;
mod rekey;
mod rotation;
mod startup;
mod starved;
mod traffic;
mod udp;
mod vlan;
