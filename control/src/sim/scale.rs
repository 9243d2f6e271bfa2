//! What many nodes cost: one rekey of every pair, counted.
//!
//! Up to [`MESH_MAX`] nodes every pair is real. With more, one node and all its
//! peers are, and the peers have nobody else: what a node does grows with its
//! own peers, and a million pairs take too long.

use std::time::Duration;

use super::{Universe, master, ms, node_id};
use crate::machine::Count;

/// Most nodes of a full mesh.
pub const MESH_MAX: usize = 100;
/// The rekey interval: short, since probes and beacons go on all the while.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// Windows in which starts are counted.
const WINDOW: Duration = ms(100);
/// All pairs are up after this.
const JOIN: Duration = Duration::from_secs(20);

/// What is counted of one node's machine, or of all, while it is running.
#[derive(Default)]
pub(super) struct Meter {
    /// Of whom; of all unless given.
    pub(super) place: Option<usize>,
    pub(super) cpu: Duration,
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

impl Meter {
    pub(super) fn is_of(&self, n: usize) -> bool {
        self.place.is_none_or(|place| place == n)
    }
}

/// CPU time of this thread.
pub(super) fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Figures of one node in one rekey interval, a mean if all were measured.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Whether every pair was real, or those of one node.
    pub mesh: bool,
    /// Exchanges that the node completed.
    pub exchanges: f64,
    /// Handshake frames that it sent.
    pub frames: f64,
    /// Bytes of them, from the Tipsec header on.
    pub bytes: f64,
    /// CPU time of its machine, probes and beacons included, in ms.
    pub cpu_ms: f64,
    /// Most exchanges that one node began within 100 ms.
    pub peak_starts: u64,
    /// Exchanges that a node began within 100 ms, on average over the time in
    /// which it began any.
    pub mean_starts: f64,
}

impl Row {
    /// CPU time for each peer, in µs.
    #[allow(clippy::cast_precision_loss)]
    pub fn cpu_us_per_peer(&self) -> f64 {
        self.cpu_ms * 1000.0 / (self.nodes - 1) as f64
    }
}

/// Starts `nodes` nodes at once, and counts during the interval that follows.
#[allow(clippy::cast_precision_loss)]
pub fn measure(nodes: usize, seed: u64) -> Row {
    let mesh = nodes <= MESH_MAX;
    // With half of its peers it starts, with the others they do.
    let hub = nodes / 2;
    let mut universe = cluster(nodes, (!mesh).then_some(hub), seed);
    let end = universe.now + JOIN;
    while universe.now < end {
        universe.step(end);
    }
    let measured: Vec<usize> = match mesh {
        true => (0..nodes).collect(),
        false => vec![hub],
    };
    let count = |universe: &Universe, what| -> Vec<u64> {
        let counts = measured.iter();
        counts
            .map(|&n| universe.node(n).machine.counts().value(what))
            .collect()
    };
    universe.meter = Some(Meter {
        place: (!mesh).then_some(hub),
        ..Meter::default()
    });
    let completed: u64 = count(&universe, Count::Completed).iter().sum();
    let mut started = count(&universe, Count::Started);
    let (mut peak, mut begun, mut busy) = (0, 0, 0);
    let end = universe.now + INTERVAL;
    while universe.now < end {
        let window = universe.now + WINDOW;
        while universe.now < window {
            universe.step(window);
        }
        let now = count(&universe, Count::Started);
        let starts: Vec<u64> = now
            .iter()
            .zip(&started)
            .map(|(now, old)| now - old)
            .collect();
        started = now;
        peak = starts.iter().copied().max().unwrap_or(0).max(peak);
        begun += starts.iter().sum::<u64>();
        busy += u64::from(starts.iter().any(|&starts| starts > 0));
    }
    universe.assert_sound();
    let meter = universe.meter.take().unwrap_or_default();
    let completed = count(&universe, Count::Completed).iter().sum::<u64>() - completed;
    let each = measured.len() as f64;
    Row {
        nodes,
        mesh,
        exchanges: completed as f64 / each,
        frames: meter.frames as f64 / each,
        bytes: meter.bytes as f64 / each,
        cpu_ms: meter.cpu.as_secs_f64() * 1000.0 / each,
        peak_starts: peak,
        mean_starts: begun as f64 / each / (busy.max(1)) as f64,
    }
}

fn cluster(nodes: usize, hub: Option<usize>, seed: u64) -> Universe {
    let mut universe = Universe::new(seed);
    universe.capture = false;
    universe.hub = hub;
    for _ in 0..nodes {
        universe.add_place(0);
    }
    for n in 0..nodes {
        let peers = match hub {
            Some(hub) if hub != n => 1,
            _ => nodes - 1,
        };
        universe.max_peers = u16::try_from(peers).unwrap_or(u16::MAX);
        universe.spi_slots = u32::try_from(16 * peers + 64).unwrap_or(u32::MAX);
        universe.start(n, node_id(n), &master(1), Some(INTERVAL));
    }
    universe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_is_rekeyed_once() {
        let row = measure(5, 1);
        assert!(row.mesh);
        assert!((row.exchanges - 4.0).abs() < 0.5, "{row:?}");
        assert!((5.0..9.0).contains(&row.frames), "{row:?}");
        assert!(row.peak_starts >= 1);
    }
}
