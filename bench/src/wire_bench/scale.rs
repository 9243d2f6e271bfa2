//! The product end to end with many SAs and on many queues: what
//! `tipsec-bench scale` asks of the wire. Inline NAPI, where the receiver's XDP
//! program and copy run in the sender's system call: one thread an end and
//! queue is all there is. Imports `ends`, `link`.

use tipsec_dataplane::aead::Provider;
use tipsec_dataplane::secret::Suite;

use super::ends::{Ends, MTU};
use super::link::Link;
use super::measure::Plan;
use super::options::{FrameSize, Profile};
use super::{AwsLc, Ring, Tipsec};
use crate::error::Result;
use crate::report::Countdown;
use crate::results::Series;
use crate::rounds::{self, Contender};

/// Frames in flight on each queue: what suits inline NAPI.
const DEPTH: usize = 64;

/// One contender.
pub(crate) struct Entry {
    /// Its name and labels.
    pub(crate) series: Series,
    pub(crate) provider: Provider,
    pub(crate) size: FrameSize,
    /// SAs of each queue.
    pub(crate) sas: u16,
    /// A queue each: the cores of its sender and its receiver.
    pub(crate) cores: Vec<(usize, usize)>,
}

/// Lets them take turns on a pair that has as many queues as the widest of
/// them needs.
///
/// # Errors
/// [`crate::Error`]; nothing is left behind.
pub(crate) fn run(
    entries: Vec<Entry>,
    seed: u64,
    (rounds, sample): (usize, std::time::Duration),
    countdown: &mut Countdown<'_>,
) -> Result<Vec<Series>> {
    let widest = |of: fn(&Entry) -> usize| entries.iter().map(of).max().unwrap_or(1);
    let queues = u32::try_from(widest(|entry| entry.cores.len())).unwrap_or(1);
    let sas = widest(|entry| entry.cores.len() * usize::from(entry.sas));
    let link = Link::with_queues(Profile::Inline, MTU, queues)?;
    let receive_core = entries
        .first()
        .and_then(|entry| entry.cores.first())
        .map_or(0, |&(_, receiver)| receiver);
    let ends = Ends::attach_for(&link, receive_core, u32::try_from(sas).unwrap_or(u32::MAX))?;
    let mut contenders: Vec<Box<dyn Contender + '_>> = Vec::new();
    for entry in entries {
        contenders.push(match entry.provider {
            Provider::Ring => Box::new(contender::<Ring>(&ends, entry, sample, seed)),
            Provider::AwsLc => Box::new(contender::<AwsLc>(&ends, entry, sample, seed)),
        });
    }
    rounds::run(&mut contenders, rounds, sample, countdown)
}

fn contender<'a, A: tipsec_dataplane::aead::Aead>(
    ends: &'a Ends<'a>,
    entry: Entry,
    window: std::time::Duration,
    seed: u64,
) -> Tipsec<'a, A> {
    let (send_core, receive_core) = entry.cores.first().copied().unwrap_or_default();
    let plan = Plan {
        send_core,
        receive_core,
        window,
        depth: DEPTH,
    };
    Tipsec::new(ends, entry.series, Suite::Aes256Gcm, entry.size, plan)
        .with_sas(entry.sas, seed)
        .with_queues(entry.cores)
}
