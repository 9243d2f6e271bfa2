//! Every way that a few nodes can go: all interleavings, to a depth, of the key
//! machine itself with loss, duplication, reordering, repetition of old messages,
//! crashes and simultaneous starts. docs/model.md says what is explored, and how
//! it is known that nothing is left out by mistake.
//!
//! * [`book`]: messages and keys, by what they are; [`draws`]: random numbers.
//! * [`node`]: one life of one node, its machine and a model of its workers.
//! * [`locals`]: every state of one node, and what each thing leads to there.
//! * [`state`]: a state of the cluster, and what may happen next; [`cluster`]:
//!   what follows, held against each [`Property`].
//! * [`calm`]: whether a state converges when nothing goes wrong any more.
//! * [`roots`]: where explorations begin; [`search`]: breadth first from there.
//! * [`table`]: the state table, which scripts on a [`stage`] ask the machine for.

mod book;
mod calm;
mod cluster;
mod draws;
mod locals;
mod node;
mod property;
mod roots;
mod search;
mod stage;
mod state;
pub mod table;

pub use property::Property;
pub use roots::Root;
pub use search::{Found, Outcome, Plan, explore, explore_watched};
pub use state::Budgets;
