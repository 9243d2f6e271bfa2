//! Traffic of our own where iperf3 does not serve: it would not outlive the
//! loss of a peer. Datagrams through the taps, on threads whose sockets belong
//! to a namespace. Imports `netns`, `wire`.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::wire::marker_payload;

/// Port of [`Echo`] and [`Sink`].
pub const PORT: u16 = 6007;
/// Time between the probes of a [`Prober`].
pub const PROBE_INTERVAL: Duration = Duration::from_millis(10);
/// Longest wait in a receive call, and so for a thread to end.
const LISTEN: Duration = Duration::from_millis(50);

/// A thread that works until it is dropped.
pub(crate) struct Task {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Task {
    /// Starts `work`, which ends soon after the flag that it is given is set.
    pub(crate) fn spawn(work: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        Self {
            stop,
            thread: Some(std::thread::spawn(move || work(&seen))),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic has been printed by its thread.
            let _ = thread.join();
        }
    }
}

/// A UDP socket in a namespace, whose receive calls end after 50 ms.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn socket(namespace: &Namespace, port: u16) -> Result<UdpSocket> {
    namespace.run(|| {
        let what = || format!("open UDP port {port} in {}", namespace.name());
        let socket = UdpSocket::bind(("0.0.0.0", port)).map_err(Error::io(what()))?;
        socket
            .set_read_timeout(Some(LISTEN))
            .map_err(Error::io(what()))?;
        Ok(socket)
    })
}

/// Answers short datagrams with themselves and counts long ones, on [`PORT`] of
/// every address of a namespace; outlives its tap device.
pub struct Echo {
    received: Arc<AtomicU64>,
    _task: Task,
}

/// Datagrams above this are load and get no answer.
const PROBE_BYTES_MAX: usize = 64;

impl Echo {
    /// Starts to listen.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let socket = socket(namespace, PORT)?;
        let received = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&received);
        let task = Task::spawn(move |stop| {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                // Fails at each timeout, and while there is no route back.
                let Ok((len, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                if len <= PROBE_BYTES_MAX {
                    let _ = socket.send_to(&buffer[..len], from);
                } else {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self {
            received,
            _task: task,
        })
    }

    /// Load datagrams that arrived.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Asks an [`Echo`] every 10 ms and notes when answers come.
pub struct Prober {
    answers: Arc<Mutex<Vec<Instant>>>,
    _task: Task,
}

impl Prober {
    /// Starts to ask `target` from `namespace`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn start(namespace: &Namespace, target: SocketAddr) -> Result<Self> {
        let socket = socket(namespace, 0)?;
        socket
            .set_read_timeout(Some(PROBE_INTERVAL / 2))
            .map_err(Error::io("set a timeout"))?;
        let answers = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&answers);
        let task = Task::spawn(move |stop| probe(&socket, target, stop, &notes));
        Ok(Self {
            answers,
            _task: task,
        })
    }

    /// When the first answer after `moment` came.
    pub fn first_answer_after(&self, moment: Instant) -> Option<Instant> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().copied().find(|at| *at > moment)
    }
}

fn probe(socket: &UdpSocket, target: SocketAddr, stop: &AtomicBool, notes: &Mutex<Vec<Instant>>) {
    let mut due = Instant::now();
    let mut buffer = [0; PROBE_BYTES_MAX];
    while !stop.load(Ordering::Relaxed) {
        // Fails while there is no way to the target.
        let _ = socket.send_to(b"probe", target);
        due += PROBE_INTERVAL;
        while Instant::now() < due {
            if socket.recv_from(&mut buffer).is_ok() {
                let now = Instant::now();
                notes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(now);
            }
        }
    }
}

/// Sends the marker at a steady rate, whatever becomes of it.
pub struct Blaster {
    sent: Arc<AtomicU64>,
    _task: Task,
}

impl Blaster {
    /// Sends `per_second` datagrams of `bytes` from `namespace` to `target`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn start(
        namespace: &Namespace,
        target: SocketAddr,
        bytes: usize,
        per_second: u32,
    ) -> Result<Self> {
        let socket = socket(namespace, 0)?;
        let payload = marker_payload(bytes);
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        let task = Task::spawn(move |stop| {
            let start = Instant::now();
            let mut number = 0u32;
            while !stop.load(Ordering::Relaxed) {
                // Every millisecond, as many as are due by then.
                let due = start.elapsed().as_secs_f64() * f64::from(per_second);
                while f64::from(number) < due {
                    number = number.wrapping_add(1);
                    // Fails while its tap is gone.
                    if socket.send_to(&payload, target).is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Ok(Self { sent, _task: task })
    }

    /// Datagrams that its kernel took.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
