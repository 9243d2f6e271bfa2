//! Numbered datagrams from one tap to another, on threads whose sockets belong
//! to the nodes' namespaces and outlive their daemons. Imports `load`, `netns`,
//! `sys`, `tally`.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::tally::{Seen, Tally};
use crate::error::{Error, Result};
use crate::load::{Task, socket};
use crate::netns::Namespace;
use crate::sys::mmsg::{self, BATCH, Inbox};
use crate::wait::{self, Look};
use crate::wire::marker_payload;

/// Payload of a datagram in bytes: a number of 8, then the marker. With all
/// headers it fits the tap's MTU.
pub(super) const DATAGRAM_BYTES: usize = 1200;
/// Room in the receiving socket, in bytes: 6,000 datagrams with the kernel's
/// own overhead.
const RECEIVE_BUFFER: usize = 16 << 20;
/// Nothing more comes when nothing has come for this long.
const SETTLED_AFTER: Duration = Duration::from_millis(300);
/// ... and by then it has to be so.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);
/// A sender rests so long between two looks at the clock.
const TICK: Duration = Duration::from_millis(1);
/// Datagrams of a saturating stream that are under way: less than the tap's
/// queue (1,000) and the AF_XDP socket's rings (2,048) hold.
const IN_FLIGHT: u64 = 512;
/// A saturating sender with so many under way rests so long.
const BREATH: Duration = Duration::from_micros(50);
/// Those that have not arrived are lost when nothing has for so long.
const GIVEN_UP_AFTER: Duration = Duration::from_millis(500);

/// How fast a stream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pace {
    /// So many datagrams a second.
    PerSecond(u32),
    /// As many as arrive: [`IN_FLIGHT`] are always under way, so that the narrowest
    /// place is never idle, and no ring before it overflows.
    Saturating,
}

/// What the receiver has noted.
#[derive(Default)]
struct Arrivals {
    seen: Seen,
    /// When each new one came, of a paced stream.
    times: Vec<Instant>,
    last: Option<Instant>,
}

/// What the sender has noted, and needs of the receiver.
#[derive(Default)]
struct Sending {
    arrived: AtomicU64,
    sent: AtomicU64,
    refused: AtomicU64,
    sent_at: Mutex<Vec<(u64, Instant)>>,
}

/// A stream that runs.
pub(super) struct Stream {
    from: u32,
    to: u32,
    pace: Pace,
    sending: Arc<Sending>,
    arrivals: Arc<Mutex<Arrivals>>,
    receiver: Namespaced,
    sender: Option<Task>,
    _receiving: Task,
}

/// What is needed to ask the receiver's kernel about the socket.
struct Namespaced {
    name: String,
    port: u16,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One end of a stream.
pub(super) struct End<'a> {
    /// Node id.
    pub(super) node: u32,
    pub(super) namespace: &'a Namespace,
}

impl Stream {
    /// Starts a stream from one node to another, whose tap has the address
    /// `target`. No two streams to a node may have the same port.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn start(
        from: &End<'_>,
        to: &End<'_>,
        target: SocketAddr,
        pace: Pace,
    ) -> Result<Self> {
        let port = target.port();
        let inlet = socket(to.namespace, port)?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&inlet, RECEIVE_BUFFER)
            .map_err(Error::errno("size a receive buffer"))?;
        let outlet = socket(from.namespace, 0)?;
        outlet
            .connect(target)
            .map_err(Error::io(format!("find the way to {target}")))?;
        let arrivals = Arc::new(Mutex::new(Arrivals::default()));
        let sending = Arc::new(Sending::default());
        let notes = Arc::clone(&arrivals);
        let counts = Arc::clone(&sending);
        let receiving = Task::spawn(move |stop| receive(&inlet, pace, stop, &notes, &counts));
        let counts = Arc::clone(&sending);
        let sender = Task::spawn(move |stop| send(&outlet, pace, stop, &counts));
        Ok(Self {
            from: from.node,
            to: to.node,
            pace,
            sending,
            arrivals,
            receiver: Namespaced {
                name: to.namespace.name().to_owned(),
                port,
            },
            sender: Some(sender),
            _receiving: receiving,
        })
    }

    /// For people: which way it goes.
    pub(super) fn way(&self) -> String {
        format!("{} -> {}", self.from, self.to)
    }

    /// Different datagrams that have arrived.
    pub(super) fn arrived(&self) -> u64 {
        lock(&self.arrivals).seen.arrived
    }

    /// When the first new datagram after a moment came; of a paced stream.
    pub(super) fn first_after(&self, moment: Instant) -> Option<Instant> {
        let arrivals = lock(&self.arrivals);
        let at = arrivals.times.partition_point(|time| *time <= moment);
        arrivals.times.get(at).copied()
    }

    /// Ends the sending.
    pub(super) fn stop(&mut self) {
        self.sender = None;
    }

    /// Ends the sending, waits for what is under way, and counts.
    ///
    /// # Errors
    /// [`Error::Timeout`] if datagrams still arrive after 10 s.
    pub(super) fn finish(mut self) -> Result<Tally> {
        self.stop();
        let stopped = Instant::now();
        wait::until(
            &format!("the last datagrams {}", self.way()),
            SETTLE_WITHIN,
            TICK * 10,
            || {
                let last = lock(&self.arrivals).last;
                let quiet = last.map_or(stopped, |last| last.max(stopped)).elapsed();
                Ok(if quiet >= SETTLED_AFTER {
                    Look::Done(())
                } else {
                    Look::NotYet(format!("the last came {} ms ago", quiet.as_millis()))
                })
            },
        )?;
        let socket_drops = self.receiver.drops()?;
        let arrivals = lock(&self.arrivals);
        let seen = &arrivals.seen;
        if seen.strange > 0 {
            return Err(Error::Unreadable {
                what: format!("datagrams {}", self.way()),
                detail: format!("{} without a number of ours", seen.strange),
            });
        }
        let sent = self.sending.sent.load(Ordering::Relaxed);
        let gaps = match self.pace {
            Pace::PerSecond(_) => seen.gaps(sent),
            // There may be millions, and nobody asks when they were sent.
            Pace::Saturating => Vec::new(),
        };
        Ok(Tally {
            from: self.from,
            to: self.to,
            sent,
            refused: self.sending.refused.load(Ordering::Relaxed),
            arrived: seen.arrived,
            doubled: seen.doubled,
            socket_drops,
            gaps,
            sent_at: std::mem::take(&mut lock(&self.sending.sent_at)),
        })
    }
}

impl Namespaced {
    /// Datagrams that the kernel had no room for in the socket.
    fn drops(&self) -> Result<u64> {
        let table = crate::process::run(std::process::Command::new("ip").args([
            "netns",
            "exec",
            &self.name,
            "cat",
            "/proc/net/udp",
        ]))?;
        parse_drops(&table, self.port).ok_or_else(|| Error::Unreadable {
            what: "/proc/net/udp".into(),
            detail: format!("no socket with port {}", self.port),
        })
    }
}

/// The last column of the line whose local address ends with the port
/// (Linux, `Documentation/networking/proc_net_tcp.rst`; `drops` stands last).
fn parse_drops(table: &str, port: u16) -> Option<u64> {
    let end = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        words.nth(1).filter(|local| local.ends_with(&end))?;
        words.last()?.parse().ok()
    })
}

fn receive(
    inlet: &UdpSocket,
    pace: Pace,
    stop: &AtomicBool,
    notes: &Mutex<Arrivals>,
    counts: &Sending,
) {
    let mut inbox = Inbox::new(2048);
    let mut numbers = Vec::with_capacity(BATCH);
    while !stop.load(Ordering::Relaxed) {
        let mut first = [0; 8];
        // Waits for one, then takes all that are there; a longer one is cut.
        let Ok((len, _)) = inlet.recv_from(&mut first) else {
            continue;
        };
        numbers.push(number_of(&first[..len]));
        loop {
            // A failure is as good as nothing to read.
            let more = inbox.receive(inlet, |bytes| numbers.push(number_of(bytes)));
            let now = Instant::now();
            let mut arrivals = lock(notes);
            arrivals.last = Some(now);
            for number in numbers.drain(..) {
                if arrivals.seen.note(number) && pace != Pace::Saturating {
                    arrivals.times.push(now);
                }
            }
            counts
                .arrived
                .store(arrivals.seen.arrived, Ordering::Relaxed);
            if more.unwrap_or(0) == 0 {
                break;
            }
        }
    }
}

/// The number at the head of a datagram; one that nobody sends if there is none.
fn number_of(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(u64::MAX, |head| u64::from_be_bytes(*head))
}

fn send(outlet: &UdpSocket, pace: Pace, stop: &AtomicBool, sending: &Sending) {
    let mut payload = marker_payload(DATAGRAM_BYTES * BATCH);
    let start = Instant::now();
    let mut number = 0_u64;
    // What should have been sent by now counts from here, so that a sender that
    // could not send for a while does not make up for it in a burst.
    let mut owed_from = (start, 0_u64);
    let mut attempted = 0_u64;
    let mut flight = Flight::new(start);
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let due = match pace {
            Pace::PerSecond(rate) => {
                let since = now.saturating_duration_since(owed_from.0).as_secs_f64();
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                // small, positive
                let due = (since * f64::from(rate)) as u64 + owed_from.1;
                due.saturating_sub(attempted)
            }
            Pace::Saturating => flight.room(number, sending.arrived.load(Ordering::Relaxed), now),
        };
        if due > BATCH as u64 && pace != Pace::Saturating {
            owed_from = (now, attempted + BATCH as u64);
        }
        let count = usize::try_from(due).unwrap_or(BATCH).min(BATCH);
        if count > 0 {
            attempted += count as u64;
            note_time(sending, number, now);
            let taken = send_batch(outlet, &mut payload, number, count);
            number += taken as u64;
            sending.sent.store(number, Ordering::Relaxed);
            sending
                .refused
                .fetch_add((count - taken) as u64, Ordering::Relaxed);
        }
        match pace {
            Pace::PerSecond(_) if count < BATCH => std::thread::sleep(TICK),
            Pace::Saturating if count == 0 => std::thread::sleep(BREATH),
            _ => {}
        }
    }
}

/// What a saturating sender knows of its datagrams.
struct Flight {
    arrived: u64,
    moved: Instant,
    /// Given up as lost.
    lost: u64,
}

impl Flight {
    fn new(now: Instant) -> Self {
        Self {
            arrived: 0,
            moved: now,
            lost: 0,
        }
    }

    /// How many more may be sent after `sent`, of which so many have arrived.
    fn room(&mut self, sent: u64, arrived: u64, now: Instant) -> u64 {
        if arrived != self.arrived {
            self.arrived = arrived;
            self.moved = now;
        } else if now.saturating_duration_since(self.moved) > GIVEN_UP_AFTER {
            self.lost = sent.saturating_sub(arrived);
            self.moved = now;
        }
        let under_way = sent.saturating_sub(arrived + self.lost);
        IN_FLIGHT.saturating_sub(under_way)
    }
}

fn note_time(sending: &Sending, number: u64, now: Instant) {
    let mut times = lock(&sending.sent_at);
    if times.last().is_none_or(|(_, last)| now - *last >= TICK) {
        times.push((number, now));
    }
}

/// Sends `count` datagrams from this number on; says how many were taken.
fn send_batch(outlet: &UdpSocket, payload: &mut [u8], number: u64, count: usize) -> usize {
    let slots = payload.chunks_exact_mut(DATAGRAM_BYTES);
    for (number, slot) in (number..).zip(slots.take(count)) {
        slot[..8].copy_from_slice(&number.to_be_bytes());
    }
    // Fails while the tap is gone.
    mmsg::send(
        outlet,
        payload,
        DATAGRAM_BYTES,
        &[DATAGRAM_BYTES; BATCH][..count],
    )
    .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_a_socket_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            100: 0100007F:1777 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 123 2 0000000000000000 5\n\
            101: 00000000:1778 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 124 2 0000000000000000 17\n";
        assert_eq!(parse_drops(table, 0x1778), Some(17));
        assert_eq!(parse_drops(table, 0x1777), Some(5));
        assert_eq!(parse_drops(table, 0x1779), None);
    }

    #[test]
    fn a_saturating_sender_waits_for_what_is_under_way() {
        let start = Instant::now();
        let mut flight = Flight::new(start);
        assert_eq!(flight.room(0, 0, start), IN_FLIGHT);
        assert_eq!(flight.room(IN_FLIGHT, 0, start), 0);
        assert_eq!(flight.room(IN_FLIGHT, 100, start), 100);
        // 12 never come: after a while, nobody waits for them any more.
        let later = start + GIVEN_UP_AFTER * 2;
        assert_eq!(
            flight.room(IN_FLIGHT, IN_FLIGHT - 12, start),
            IN_FLIGHT - 12
        );
        assert_eq!(flight.room(IN_FLIGHT, IN_FLIGHT - 12, later), IN_FLIGHT);
    }

    #[test]
    fn every_datagram_of_a_stream_has_its_number() {
        let inlet = UdpSocket::bind("127.0.0.1:0").unwrap();
        let outlet = UdpSocket::bind("127.0.0.1:0").unwrap();
        outlet.connect(inlet.local_addr().unwrap()).unwrap();
        let mut payload = marker_payload(DATAGRAM_BYTES * BATCH);
        assert_eq!(send_batch(&outlet, &mut payload, 7, 3), 3);
        assert_eq!(send_batch(&outlet, &mut payload, 10, 1), 1);
        let mut buffer = [0; 2048];
        for expected in 7..=10 {
            let len = inlet.recv(&mut buffer).unwrap();
            assert_eq!(len, DATAGRAM_BYTES);
            assert_eq!(number_of(&buffer[..len]), expected);
            assert!(crate::wire::has_marker(&buffer[..len]));
        }
        assert_eq!(number_of(&[1, 2]), u64::MAX, "too short");
    }
}
