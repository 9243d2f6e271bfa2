//! In-memory pair of bearers with loss, duplication, reordering and
//! corruption, for tests, simulations and benchmarks without a kernel.
//!
//! Everything is bounded and repeats exactly from its seed; there is no clock.
//! Each direction keeps an exact log of what it did to frames, so that a test
//! can account for every one. Imports the bearer traits and `tx::Sealed`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::{Bearer, BearerError, FrameMemory, FrameToken, Transmitted};
use crate::burst::Burst;
use crate::frame::PAYLOAD_OFFSET;
use crate::tx::Sealed;

/// Faults that a log lists one by one; beyond, it only counts.
const LISTED_FAULTS: usize = 4096;

/// Where received frames start in memory: another place than sealed ones, so
/// that nothing comes to rely on where a bearer puts them.
const RECEIVE_OFFSET: usize = 64;

/// How far back a reordered frame may be put, in frames.
const REORDER_DEPTH: u64 = 16;

/// What one direction does to frames, each in thousandths of the frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Not delivered.
    pub loss_permille: u16,
    /// Delivered twice.
    pub duplicate_permille: u16,
    /// Delivered before frames that were sent earlier.
    pub reorder_permille: u16,
    /// Delivered with one bit flipped.
    pub corrupt_permille: u16,
}

/// One thing that happened to one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Not delivered.
    Lost,
    /// Delivered twice.
    Duplicated,
    /// Put before earlier frames.
    Reordered,
    /// One bit flipped.
    Corrupted,
}

/// What one direction did so far. `offered + duplicated = lost + delivered +
/// queued`, always.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FaultLog {
    /// Frames that the sender handed over.
    pub offered: u64,
    /// Of them, never delivered.
    pub lost: u64,
    /// Of them, delivered twice.
    pub duplicated: u64,
    /// Of them, put before earlier ones.
    pub reordered: u64,
    /// Of them, changed by a bit; a duplicate is made before.
    pub corrupted: u64,
    /// Frames that the receiver took, duplicates included.
    pub delivered: u64,
    /// Frames on the way, duplicates included.
    pub queued: u64,
    /// The first few thousand faults: position among the offered, and what.
    pub faults: Vec<(u64, Fault)>,
}

/// Sizes of a pair of bearers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemorySizes {
    /// Frames of each end's memory.
    pub frames: usize,
    /// Longest frame in bytes, outer header to tag.
    pub max_frame_len: usize,
    /// Frames that may be on the way in one direction.
    pub wire_frames: usize,
}

impl Default for MemorySizes {
    /// 256 frames of at most 2048 bytes, 128 on the way.
    fn default() -> Self {
        Self {
            frames: 256,
            max_frame_len: 2048,
            wire_frames: 128,
        }
    }
}

/// Token of a frame in a [`MemoryBearer`]'s memory.
#[derive(Debug)]
pub struct MemoryFrame {
    index: usize,
    start: usize,
    end: usize,
}

impl FrameToken for MemoryFrame {
    fn segments(&self) -> usize {
        1
    }
}

/// One end of a pair.
pub struct MemoryBearer {
    memory: Box<[u8]>,
    chunk_len: usize,
    free: Vec<usize>,
    outgoing: Arc<Wire>,
    incoming: Arc<Wire>,
}

impl MemoryBearer {
    /// Two ends joined by two directions, which do `faults` as `seed` has it.
    ///
    /// # Errors
    /// The kernel's, if no eventfd is to be had (file descriptor limit).
    pub fn pair(sizes: MemorySizes, faults: Faults, seed: u64) -> io::Result<(Self, Self)> {
        let forth = Arc::new(Wire::new(sizes, faults, seed)?);
        let back = Arc::new(Wire::new(sizes, faults, !seed)?);
        let end = |outgoing: &Arc<Wire>, incoming: &Arc<Wire>| {
            let chunk_len = PAYLOAD_OFFSET + sizes.max_frame_len;
            Self {
                memory: vec![0; chunk_len * sizes.frames].into_boxed_slice(),
                chunk_len,
                free: (0..sizes.frames).rev().collect(),
                outgoing: Arc::clone(outgoing),
                incoming: Arc::clone(incoming),
            }
        };
        Ok((end(&forth, &back), end(&back, &forth)))
    }

    /// Changes what happens to frames that this end sends from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.outgoing.lock().faults = faults;
    }

    /// What became of the frames that this end sent.
    pub fn sent_log(&self) -> FaultLog {
        let wire = self.outgoing.lock();
        let mut log = wire.log.clone();
        log.queued = wire.queue.len() as u64;
        log
    }

    /// Puts a frame on the wire to the other end as if this end had sent it:
    /// what an attacker does. False if the wire is full or the frame longer
    /// than it carries. Not in the log, and no faults happen to it.
    pub fn inject(&self, bytes: &[u8]) -> bool {
        let injected = self.outgoing.lock().push_copy(bytes);
        self.outgoing.wake();
        injected
    }

    /// Free frames of this end's memory; a leaked token shows here.
    pub fn free_frames(&self) -> usize {
        self.free.len()
    }

    fn chunk_mut(&mut self, index: usize) -> &mut [u8] {
        let start = index * self.chunk_len;
        self.memory
            .get_mut(start..start + self.chunk_len)
            .unwrap_or_default()
    }
}

impl FrameMemory for MemoryBearer {
    type Frame = MemoryFrame;

    fn allocate(&mut self) -> Option<MemoryFrame> {
        let index = self.free.pop()?;
        Some(MemoryFrame {
            index,
            start: 0,
            end: 0,
        })
    }

    fn release(&mut self, frame: MemoryFrame) {
        self.free.push(frame.index);
    }

    fn segment_mut<'a>(&'a mut self, frame: &'a mut MemoryFrame, index: usize) -> &'a mut [u8] {
        let extent = match index {
            0 => frame.start..frame.end,
            _ => 0..0,
        };
        self.chunk_mut(frame.index)
            .get_mut(extent)
            .unwrap_or_default()
    }

    fn room_mut<'a>(&'a mut self, frame: &'a mut MemoryFrame) -> &'a mut [u8] {
        self.chunk_mut(frame.index)
    }

    fn extent(&self, frame: &MemoryFrame) -> (usize, usize) {
        (frame.start, frame.end - frame.start)
    }

    fn set_extent(&mut self, frame: &mut MemoryFrame, start: usize, end: usize) {
        debug_assert!(start <= end && end <= self.chunk_len);
        frame.start = start;
        frame.end = end;
    }
}

impl Bearer for MemoryBearer {
    fn receive(&mut self, burst: &mut Burst<MemoryFrame>) -> Result<(), BearerError> {
        let incoming = Arc::clone(&self.incoming);
        let mut wire = incoming.lock();
        while !burst.is_full() && !wire.queue.is_empty() {
            let Some(mut frame) = self.allocate() else {
                break;
            };
            let Some(packet) = wire.queue.pop_front() else {
                self.release(frame);
                break;
            };
            frame.start = RECEIVE_OFFSET;
            frame.end = RECEIVE_OFFSET + packet.len;
            if let Some(bytes) = packet.bytes.get(..packet.len) {
                self.segment_mut(&mut frame, 0).copy_from_slice(bytes);
            }
            burst.push(frame);
            wire.log.delivered += 1;
            wire.spare.push(packet);
        }
        if wire.queue.is_empty() {
            incoming.clear_wake();
        }
        Ok(())
    }

    fn transmit_room(&mut self) -> usize {
        self.outgoing.lock().spare.len()
    }

    fn transmit(
        &mut self,
        burst: &mut Burst<Sealed<MemoryFrame>>,
    ) -> Result<Transmitted, BearerError> {
        let outgoing = Arc::clone(&self.outgoing);
        let mut wire = outgoing.lock();
        let accepted = burst.len().min(wire.spare.len());
        let mut taken = 0;
        while taken < accepted && !wire.spare.is_empty() {
            let Some(sealed) = burst.pop_at(0) else {
                break;
            };
            let mut frame = sealed.into_frame();
            wire.offer(self.segment_mut(&mut frame, 0));
            self.release(frame);
            taken += 1;
        }
        drop(wire);
        if taken > 0 {
            outgoing.wake();
        }
        Ok(Transmitted {
            accepted: taken,
            lost: 0,
        })
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.incoming.arrived.as_fd())
    }
}

/// One direction.
struct Wire {
    state: Mutex<WireState>,
    /// Readable while frames wait.
    arrived: OwnedFd,
}

struct WireState {
    queue: VecDeque<Packet>,
    spare: Vec<Packet>,
    faults: Faults,
    random: SplitMix,
    log: FaultLog,
}

struct Packet {
    bytes: Box<[u8]>,
    len: usize,
}

impl Wire {
    fn new(sizes: MemorySizes, faults: Faults, seed: u64) -> io::Result<Self> {
        let packet = || Packet {
            bytes: vec![0; sizes.max_frame_len].into_boxed_slice(),
            len: 0,
        };
        Ok(Self {
            state: Mutex::new(WireState {
                queue: VecDeque::with_capacity(sizes.wire_frames),
                spare: std::iter::repeat_with(packet)
                    .take(sizes.wire_frames)
                    .collect(),
                faults,
                random: SplitMix(seed),
                log: FaultLog::default(),
            }),
            arrived: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, WireState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when it is readable already.
        let _ = rustix::io::write(&self.arrived, &1u64.to_ne_bytes());
    }

    fn clear_wake(&self) {
        // Fails only when it is clear already.
        let _ = rustix::io::read(&self.arrived, &mut [0u8; 8]);
    }
}

impl WireState {
    /// Carries a frame, or does to it what the seed says.
    fn offer(&mut self, bytes: &[u8]) {
        let position = self.log.offered;
        self.log.offered += 1;
        // Every draw is made for every frame, so that one fault's rate does not
        // shift the others.
        let lost = self.random.chance(self.faults.loss_permille);
        let duplicated = self.random.chance(self.faults.duplicate_permille);
        let reordered = self.random.chance(self.faults.reorder_permille);
        let corrupted = self.random.chance(self.faults.corrupt_permille);
        let (bit, back) = (self.random.next(), self.random.next());
        if lost {
            self.log.lost += 1;
            self.log.list(position, Fault::Lost);
            return;
        }
        if duplicated && self.spare.len() >= 2 && self.push_copy(bytes) {
            self.log.duplicated += 1;
            self.log.list(position, Fault::Duplicated);
        }
        if !self.push_copy(bytes) {
            self.log.lost += 1;
            self.log.list(position, Fault::Lost);
            return;
        }
        if corrupted && let Some(packet) = self.queue.back_mut() {
            packet.flip(bit);
            self.log.corrupted += 1;
            self.log.list(position, Fault::Corrupted);
        }
        let furthest = (self.queue.len() as u64 - 1).min(REORDER_DEPTH);
        if reordered && furthest > 0 {
            let back = usize::try_from(1 + back % furthest).unwrap_or(1);
            if let Some(packet) = self.queue.pop_back() {
                let place = self.queue.len() - back;
                self.queue.insert(place, packet);
                self.log.reordered += 1;
                self.log.list(position, Fault::Reordered);
            }
        }
    }

    fn push_copy(&mut self, bytes: &[u8]) -> bool {
        let Some(mut packet) = self.spare.pop() else {
            return false;
        };
        let fits = match packet.bytes.get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                packet.len = bytes.len();
                true
            }
            None => false,
        };
        match fits {
            true => self.queue.push_back(packet),
            false => self.spare.push(packet),
        }
        fits
    }
}

impl Packet {
    fn flip(&mut self, random: u64) {
        let bits = 8 * self.len as u64;
        if let Some(bit) = random.checked_rem(bits)
            && let Some(byte) = self.bytes.get_mut((bit / 8) as usize)
        {
            *byte ^= 1 << (bit % 8);
        }
    }
}

impl FaultLog {
    fn list(&mut self, position: u64, fault: Fault) {
        if self.faults.len() < LISTED_FAULTS {
            self.faults.push((position, fault));
        }
    }
}

/// SplitMix64: small, seedable, and good enough to choose faults by.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn chance(&mut self, permille: u16) -> bool {
        self.next() % 1000 < u64::from(permille)
    }
}
