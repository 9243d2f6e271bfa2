//! Frames that arrive in several buffers: gathered until the last one is
//! there, then joined in a wide room, so that they are opened in place.
//!
//! The kernel marks every buffer of a frame but its last (`XDP_PKT_CONTD`).
//! It does not mark the first, so buffers whose end was lost are taken for the
//! beginning of the next frame; that one is lost with them, by its tag, and
//! the one after it is whole again. Imports `rings` for descriptors.

use arrayvec::ArrayVec;

use super::rings::Received;

/// Most buffers of a frame. With copies, a frame of 9216 bytes takes three; a
/// NIC may use buffers of 2048 bytes.
const BUFFERS_MAX: usize = 8;

/// The buffers of the frame that is arriving, in order.
#[derive(Default)]
pub(super) struct Gathered {
    buffers: ArrayVec<Received, BUFFERS_MAX>,
    /// Bytes in them.
    len: usize,
    /// There are more buffers or bytes than a frame can have.
    too_long: bool,
}

/// What to do with a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Keep it; more will come.
    Kept,
    /// Give it back: its frame is too long to be joined.
    Surplus,
}

impl Gathered {
    /// Whether no frame is half there.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Adds a buffer of a frame that may have `len_max` bytes.
    pub(super) fn add(&mut self, buffer: Received, len_max: usize) -> Step {
        let len = self.len + usize::from(buffer.end - buffer.start);
        self.too_long |= len > len_max;
        if self.too_long && !self.buffers.is_empty() || self.buffers.try_push(buffer).is_err() {
            self.too_long = true;
            return Step::Surplus;
        }
        self.len = len;
        Step::Kept
    }

    /// Whether the frame can be joined: all of it is there.
    pub(super) fn is_sound(&self) -> bool {
        // An empty buffer is one that lay outside of its room.
        !self.too_long && self.buffers.iter().all(|buffer| buffer.end > buffer.start)
    }

    /// Takes the buffers, never none after a frame's last one was added.
    pub(super) fn take(&mut self) -> ArrayVec<Received, BUFFERS_MAX> {
        let buffers = std::mem::take(&mut self.buffers);
        *self = Self::default();
        buffers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(chunk: u32, len: u16) -> Received {
        Received {
            chunk,
            start: 98,
            end: 98 + len,
            goes_on: true,
        }
    }

    #[test]
    fn buffers_of_one_frame_are_kept_in_order() {
        let mut gathered = Gathered::default();
        assert!(gathered.is_empty());
        for chunk in 0..3 {
            assert_eq!(gathered.add(buffer(chunk, 3000), 9000), Step::Kept);
        }
        assert!(gathered.is_sound() && !gathered.is_empty());
        let chunks: Vec<_> = gathered.take().iter().map(|b| b.chunk).collect();
        assert_eq!(chunks, [0, 1, 2]);
        assert!(gathered.is_empty() && gathered.is_sound());
    }

    #[test]
    fn endless_frame_keeps_a_bounded_number_of_buffers() {
        for (len, kept) in [(1, BUFFERS_MAX), (3000, 3)] {
            let mut gathered = Gathered::default();
            let steps: Vec<_> = (0..100)
                .map(|c| gathered.add(buffer(c, len), 9000))
                .collect();
            assert!(steps[..kept].iter().all(|step| *step == Step::Kept));
            assert!(steps[kept..].iter().all(|step| *step == Step::Surplus));
            assert!(!gathered.is_sound());
            assert_eq!(gathered.take().len(), kept);
            assert!(gathered.is_sound(), "the next frame is a new one");
        }
    }

    #[test]
    fn first_buffer_is_kept_so_that_the_frame_counts() {
        let mut gathered = Gathered::default();
        assert_eq!(gathered.add(buffer(5, 3000), 2000), Step::Kept);
        assert_eq!(gathered.add(buffer(6, 3000), 2000), Step::Surplus);
        assert!(!gathered.is_sound());
        assert_eq!(gathered.take().len(), 1);
    }

    #[test]
    fn buffer_outside_its_room_spoils_the_frame() {
        let mut gathered = Gathered::default();
        gathered.add(buffer(0, 3000), 9000);
        gathered.add(buffer(1, 0), 9000);
        assert!(!gathered.is_sound());
    }
}
