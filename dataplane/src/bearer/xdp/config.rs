//! Sizes of a bearer, and the checks that they fit together.
//!
//! Imports `umem` for how memory is cut.

use tipsec_xdp::wire::{ETH_HEADER_LEN, VLAN_TAG_LEN};

use super::fill::FillLevel;
use super::open::OpenError;
use super::report::BearerMode;
use super::umem::{CHUNK_LEN, Layout, Umem};
use crate::attach::MTU_SINGLE_BUFFER;
use crate::burst::BURST;
use crate::outer::OUTER_LEN_MAX;

/// Sizes of one bearer; counts of frames, powers of two where said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpConfig {
    /// Chunks of 4096 bytes in the UMEM, without those of wide rooms.
    pub chunks: u32,
    /// Rooms for frames longer than a chunk, which are there only at an MTU
    /// above [`Self::mtu_single_buffer`]: for those in flight, those that are being
    /// joined, and those that one pass holds.
    pub wide_rooms: u32,
    /// Entries of the RX ring, a power of two; the fill ring is twice that.
    pub rx_ring: u32,
    /// Fewest chunks that the kernel holds to receive into, in the fill ring
    /// and the RX ring together. Only with copies; a NIC with zero-copy holds
    /// [`Self::fill_max`].
    pub fill_min: u32,
    /// Most chunks that the kernel holds to receive into, so far as there are.
    pub fill_max: u32,
    /// Entries of the TX ring and of the completion ring, a power of two.
    pub tx_ring: u32,
    /// Most frames sent and not completed: [`NapiProfile::in_flight_max`] unless
    /// configured.
    pub in_flight_max: usize,
    /// Whether the worker polls the device itself instead of waiting for its
    /// interrupts; off unless asked for.
    pub busy_poll: Option<BusyPoll>,
    /// Whether to try frame memory of huge pages (2 MiB), of which the system
    /// may have set some aside (`vm.nr_hugepages`): fewer misses of the TLB.
    pub huge_pages: bool,
    /// Whether the kernel copies received frames into chunks on another core
    /// than the worker's: chunks then leave the worker's caches when they are
    /// lent, on processors that know how (docs/adr/0023). On the worker's own
    /// core that would be a loss; a NIC with zero-copy does without.
    pub filled_elsewhere: bool,
    /// The worker's core: memory and rings are then allocated on it, and so of
    /// its NUMA node. Without, they come from wherever the caller runs.
    pub core: Option<usize>,
    /// Bytes of the outer header of every frame:
    /// [`crate::outer::Encapsulation::outer_len`].
    pub outer_len: usize,
    /// Bytes of the VLAN tag in it, which the MTU does not count but a buffer
    /// has to hold: [`crate::outer::Encapsulation::tag_len`].
    pub tag_len: usize,
}

/// Where the device's NAPI runs, which decides how many frames in flight serve
/// best, the largest single lever on throughput over veth, and whether a veth's
/// chunks are [filled elsewhere](XdpConfig::filled_elsewhere).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NapiProfile {
    /// On the core that sends, inside the call; so it is with veth unless
    /// changed.
    #[default]
    Inline,
    /// In a kernel thread of its own (`/sys/class/net/…/threaded`).
    Threaded,
}

impl NapiProfile {
    /// Most frames sent and not completed.
    pub const fn in_flight_max(self) -> usize {
        match self {
            Self::Inline => 64,
            Self::Threaded => 192,
        }
    }

    /// Whether what a device receives is copied on another core than its
    /// worker's: a veth's on the sender's. A NIC's NAPI runs wherever its
    /// interrupt goes, perhaps on the worker's own.
    pub const fn fills_elsewhere(self, is_veth: bool) -> bool {
        matches!(self, Self::Inline) && is_veth
    }
}

/// Preferred busy polling (Documentation/networking/napi.rst): the worker runs
/// the device's NAPI in its own calls, on its own core. For NICs with
/// zero-copy, together with `napi_defer_hard_irqs` and `gro_flush_timeout` of
/// the device and a worker that spins. A veth has no interrupts to hold back:
/// its NAPI is run by who sends, and polling it is one more call a pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusyPoll {
    /// `SO_BUSY_POLL` in microseconds; not 0, which is off.
    pub us: u32,
    /// `SO_BUSY_POLL_BUDGET`: most frames of one round.
    pub budget: u16,
}

impl Default for BusyPoll {
    fn default() -> Self {
        Self { us: 20, budget: 64 }
    }
}

impl Default for XdpConfig {
    fn default() -> Self {
        Self {
            chunks: 4096,
            wide_rooms: 512,
            rx_ring: 2048,
            fill_min: 256,
            fill_max: 4096,
            tx_ring: 1024,
            in_flight_max: NapiProfile::default().in_flight_max(),
            busy_poll: None,
            huge_pages: true,
            filled_elsewhere: false,
            core: None,
            outer_len: ETH_HEADER_LEN,
            tag_len: 0,
        }
    }
}

impl XdpConfig {
    /// Largest MTU in bytes of which a frame, tag included, fits one buffer.
    pub const fn mtu_single_buffer(&self) -> u32 {
        #[allow(clippy::cast_possible_truncation)] // 0 or 4
        MTU_SINGLE_BUFFER.saturating_sub(self.tag_len as u32)
    }

    /// Bytes of memory that one bearer locks where frames fit one chunk.
    pub fn umem_bytes(&self) -> u64 {
        self.umem_bytes_at(self.mtu_single_buffer())
    }

    /// Bytes of memory that one bearer locks on an interface with an MTU of
    /// `mtu` bytes.
    pub fn umem_bytes_at(&self, mtu: u32) -> u64 {
        u64::from(self.layout(mtu).total()) * CHUNK_LEN as u64
    }

    /// How frame memory is cut for frames of an interface with an MTU of `mtu`
    /// bytes.
    pub(super) fn layout(&self, mtu: u32) -> Layout {
        if mtu <= self.mtu_single_buffer() {
            return Layout {
                chunks: self.chunks,
                wide_rooms: 0,
                wide_chunks: 0,
            };
        }
        let frame_len = mtu as usize + ETH_HEADER_LEN + VLAN_TAG_LEN;
        // Drivers may use smaller buffers than a chunk, so never less than two.
        #[allow(clippy::cast_possible_truncation)] // mtu is a u32
        let wide_chunks = Umem::parts(frame_len).max(2) as u32;
        Layout {
            chunks: self.chunks,
            wide_rooms: self.wide_rooms,
            wide_chunks,
        }
    }

    /// How many chunks the kernel is to hold to receive into.
    pub(super) fn fill_level(&self, layout: Layout, mode: BearerMode) -> FillLevel {
        let left = self.chunks as usize - self.reserved();
        let max = left
            .min(2 * self.rx_ring as usize)
            .min(self.fill_max as usize);
        let min = match mode {
            BearerMode::ZeroCopy => max,
            BearerMode::NativeCopy | BearerMode::Generic => self.fill_min as usize,
        };
        FillLevel::new(min, max, BURST * layout.wide_chunks.max(1) as usize)
    }

    /// Chunks for sending, and for what one pass holds in its hands.
    fn reserved(&self) -> usize {
        self.in_flight_max + 4 * BURST
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let sound = self.rx_ring.is_power_of_two()
            && self.tx_ring.is_power_of_two()
            && self.rx_ring <= 1 << 16
            && (1..=self.tx_ring as usize).contains(&self.in_flight_max)
            && (self.chunks as usize) >= self.reserved() + BURST
            && self.chunks <= 1 << 20
            && self
                .busy_poll
                .is_none_or(|poll| poll.us > 0 && poll.budget > 0)
            && self.fill_min as usize >= 2 * BURST
            && self.fill_min <= self.fill_max
            && self.fill_max <= 1 << 20
            && (BURST..1 << 16).contains(&(self.wide_rooms as usize))
            && matches!(self.tag_len, 0 | VLAN_TAG_LEN)
            && (ETH_HEADER_LEN + self.tag_len..=OUTER_LEN_MAX).contains(&self.outer_len);
        sound.then_some(()).ok_or(OpenError::Sizes(*self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::MTU_MAX;
    use crate::bearer::xdp::umem::Room;
    use crate::frame::PAYLOAD_OFFSET;

    #[test]
    fn profiles_have_depths() {
        let depths = [NapiProfile::Inline, NapiProfile::Threaded].map(NapiProfile::in_flight_max);
        assert_eq!(depths, [64, 192]);
        assert_eq!(XdpConfig::default().in_flight_max, 64);
    }

    #[test]
    fn only_inline_veths_are_filled_elsewhere() {
        use NapiProfile::{Inline, Threaded};
        assert!(Inline.fills_elsewhere(true) && !Inline.fills_elsewhere(false));
        assert!(!Threaded.fills_elsewhere(true) && !Threaded.fills_elsewhere(false));
    }

    #[test]
    fn rooms_are_wide_only_where_frames_are_long() {
        let config = XdpConfig::default();
        let cut = |mtu| {
            let layout = config.layout(mtu);
            (layout.wide_rooms, layout.wide_chunks)
        };
        assert_eq!(cut(MTU_SINGLE_BUFFER), (0, 0));
        assert_eq!(config.umem_bytes(), 4096 * 4096);
        assert_eq!(cut(MTU_SINGLE_BUFFER + 1), (512, 2));
        assert_eq!(cut(9000), (512, 3));
        assert_eq!(config.umem_bytes_at(9000), (4096 + 3 * 512) * 4096);
        // The tag takes its bytes of the buffer, though not of the MTU.
        let tagged = XdpConfig {
            outer_len: ETH_HEADER_LEN + VLAN_TAG_LEN,
            tag_len: VLAN_TAG_LEN,
            ..config
        };
        assert!(tagged.check().is_ok());
        let wide_rooms = |mtu| tagged.layout(mtu).wide_rooms;
        assert_eq!((wide_rooms(3502), wide_rooms(3503)), (0, 512));
        assert_eq!(tagged.umem_bytes(), config.umem_bytes());
        // Room for the plaintext offset and the largest frame behind it.
        for outer_len in [ETH_HEADER_LEN, OUTER_LEN_MAX] {
            for mtu in [MTU_SINGLE_BUFFER, MTU_SINGLE_BUFFER + 1, 9000, MTU_MAX] {
                let chunks = cut(mtu).1.max(1) as usize;
                let room = Room::of(outer_len).len() + (chunks - 1) * CHUNK_LEN;
                assert!(room >= PAYLOAD_OFFSET + mtu as usize, "{outer_len} {mtu}");
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let good = XdpConfig::default();
        assert!(good.check().is_ok());
        let layout = good.layout(1500);
        let level = good.fill_level(layout, BearerMode::ZeroCopy);
        assert!(level.target() > good.rx_ring as usize);
        for bad in [
            XdpConfig {
                rx_ring: 1000,
                ..good
            },
            XdpConfig {
                in_flight_max: 0,
                ..good
            },
            XdpConfig {
                in_flight_max: 2000,
                ..good
            },
            XdpConfig {
                busy_poll: Some(BusyPoll { us: 0, budget: 64 }),
                ..good
            },
            XdpConfig {
                fill_min: 64,
                ..good
            },
            XdpConfig {
                fill_max: 200,
                ..good
            },
            XdpConfig {
                wide_rooms: 63,
                ..good
            },
            XdpConfig {
                chunks: 300,
                ..good
            },
            XdpConfig {
                outer_len: 67,
                ..good
            },
            XdpConfig {
                outer_len: ETH_HEADER_LEN,
                tag_len: VLAN_TAG_LEN,
                ..good
            },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
