//! Through the taps: numbered datagrams, and bytes over TCP.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::Lab;
use crate::node::PATIENCE;

/// What every datagram carries, to be looked for on the wire.
pub(crate) const MARKER: &[u8] = b"plain text must never be seen here";

const DATAGRAM_LEN: usize = 200;
const PORT: u16 = 5000;

/// Address of node `i`'s tap.
pub(crate) fn address(i: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(i).unwrap())
}

fn socket(lab: &Lab, i: usize, port: u16) -> UdpSocket {
    // Not bound to the tap's address: outlives the tap.
    let socket = lab.inside(&lab.node(i), || {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
    });
    let socket = socket.unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    socket
}

/// Sends to a node at a steady pace until finished.
pub(crate) struct Source {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Source {
    pub(crate) fn start(lab: &Lab, from: usize, to: usize, gap: Duration) -> Self {
        let socket = socket(lab, from, 0);
        let to = SocketAddr::from((address(to), PORT));
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let mut datagram = vec![0; DATAGRAM_LEN];
            datagram[8..8 + MARKER.len()].copy_from_slice(MARKER);
            while !stopped.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                datagram[..8].copy_from_slice(&number.to_be_bytes());
                // Without tap or neighbour there is an error: try again.
                if socket.send_to(&datagram, to).is_ok() {
                    count.store(number + 1, Ordering::Relaxed);
                }
                std::thread::sleep(gap);
            }
        });
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops; gives the number of datagrams.
    pub(crate) fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.sent()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Receives at a node, whatever arrives, from whomever.
pub(crate) struct Sink {
    stop: Arc<AtomicBool>,
    numbers: Arc<Mutex<HashSet<u64>>>,
}

impl Sink {
    pub(crate) fn start(lab: &Lab, at: usize) -> Self {
        let socket = socket(lab, at, PORT);
        let stop = Arc::new(AtomicBool::new(false));
        let numbers = Arc::new(Mutex::new(HashSet::new()));
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&numbers));
        std::thread::spawn(move || {
            let mut datagram = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(len) = socket.recv(&mut datagram) else {
                    continue;
                };
                let number = datagram[..len]
                    .first_chunk()
                    .map(|n| u64::from_be_bytes(*n));
                seen.lock().unwrap().extend(number);
            }
        });
        Self { stop, numbers }
    }

    /// How many different datagrams have come.
    pub(crate) fn received(&self) -> u64 {
        self.numbers.lock().unwrap().len() as u64
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends bytes through the taps over TCP, and compares them.
pub(crate) fn tcp(lab: &Lab, len: usize) {
    let listener = lab.inside(&lab.node(2), || {
        TcpListener::bind("10.77.0.2:7001").unwrap()
    });
    let sent: Vec<u8> = (0..len)
        .map(|i| u8::try_from(i * 31 % 251).unwrap())
        .collect();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let mut stream = lab.inside(&lab.node(1), || {
            let to: SocketAddr = "10.77.0.2:7001".parse().unwrap();
            TcpStream::connect_timeout(&to, PATIENCE).unwrap()
        });
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&sent).unwrap();
        drop(stream);
        assert!(receiver.join().unwrap() == sent, "other bytes came");
    });
}
