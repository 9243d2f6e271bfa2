//! The admin server through real sockets, on a clock of the test's.

#![cfg(feature = "daemon")]
// Helpers of tests may stop at the first surprise, like the tests.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tipsec_control::admin::{
    ErrorCode, EventReport, EventsReport, Failure, MAX_REQUEST_LEN, PeersReport, Reply, Request,
    Response, ResponseError, StatusReport, result_from_line,
};
use tipsec_control::shell::admin_server::{AdminServer, AdminServerError, MAX_CLIENTS};

const START: Duration = Duration::from_secs(1000);

/// A directory that is removed with everything in it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("tipsec-admin-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("admin.sock")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server, its clock, and how many requests reached its handler.
struct Node {
    server: AdminServer,
    now: Duration,
    handled: usize,
    directory: Directory,
}

impl Node {
    fn new() -> Self {
        let directory = Directory::new();
        Self {
            server: AdminServer::bind(&directory.socket(), None).unwrap(),
            now: START,
            handled: 0,
            directory,
        }
    }

    fn process(&mut self) {
        let handled = &mut self.handled;
        self.server.process(self.now, &mut |request| {
            *handled += 1;
            answer(request)
        });
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.directory.socket()).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// Processes until `client` has a line or the end.
    fn read_line(&mut self, client: &mut UnixStream) -> Vec<u8> {
        let mut line = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(5);
        while line.last() != Some(&b'\n') {
            assert!(Instant::now() < deadline, "no line");
            self.process();
            let mut byte = [0];
            match client.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => line.push(byte[0]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error}"),
            }
        }
        line
    }

    fn refusal(&mut self, client: &mut UnixStream) -> Failure {
        let line = self.read_line(client);
        match result_from_line::<PeersReport>(&line) {
            Err(ResponseError::Refused(failure)) => failure,
            other => panic!("{other:?}: {}", String::from_utf8_lossy(&line)),
        }
    }

    fn has_closed(&mut self, client: &mut UnixStream) -> bool {
        self.process();
        let mut rest = Vec::new();
        match client.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn answer(request: Request) -> Response {
    match request {
        Request::Status {} => Ok(Reply::Status(Box::new(StatusReport {
            node: 1001,
            ..StatusReport::default()
        }))),
        Request::Events { limit, .. } => Ok(Reply::Events(EventsReport {
            events: vec![EventReport {
                text: "x".repeat(limit as usize),
                ..EventReport::default()
            }],
        })),
        _ => Err(Failure::new(ErrorCode::NoMasterKey, "no master key")),
    }
}

#[test]
fn several_requests_are_answered_on_one_connection() {
    let mut node = Node::new();
    let mut client = node.connect();
    client
        .write_all(b"{\"op\":\"status\"}\n{\"op\":\"peers\"}\nnonsense\n{\"op\":\"status\"}\n")
        .unwrap();
    let status: StatusReport = result_from_line(&node.read_line(&mut client)).unwrap();
    assert_eq!(status.node, 1001);
    assert_eq!(node.refusal(&mut client).code, ErrorCode::NoMasterKey);
    assert_eq!(node.refusal(&mut client).code, ErrorCode::BadRequest);
    result_from_line::<StatusReport>(&node.read_line(&mut client)).unwrap();
    assert_eq!(node.handled, 3);
    drop(client);
    node.process();
    assert_eq!(node.server.clients(), 0);
}

#[test]
fn a_client_that_ends_its_side_is_still_answered() {
    let mut node = Node::new();
    let mut client = node.connect();
    client.write_all(b"{\"op\":\"status\"}\n{\"op\":").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    result_from_line::<StatusReport>(&node.read_line(&mut client)).unwrap();
    let failure = node.refusal(&mut client);
    assert!(failure.message.contains("no line end"), "{failure}");
    assert!(node.has_closed(&mut client));
}

#[test]
fn a_flood_of_requests_leaves_room_for_others() {
    let mut node = Node::new();
    let mut flood = node.connect();
    let mut other = node.connect();
    flood
        .write_all(&b"{\"op\":\"status\"}\n".repeat(500))
        .unwrap();
    node.process();
    assert!(node.handled <= 10, "{}", node.handled);
    assert_eq!(node.server.next_deadline(), Some(Duration::ZERO));
    other.write_all(b"{\"op\":\"peers\"}\n").unwrap();
    node.refusal(&mut other);
    for _ in 0..500 {
        result_from_line::<StatusReport>(&node.read_line(&mut flood)).unwrap();
    }
}

#[test]
fn a_request_that_is_too_large_is_refused() {
    let mut node = Node::new();
    let mut client = node.connect();
    let mut sent = 0;
    while sent <= MAX_REQUEST_LEN {
        match client.write(&[b' '; 4096]) {
            Ok(count) => sent += count,
            Err(_) => node.process(),
        }
    }
    assert_eq!(node.refusal(&mut client).code, ErrorCode::TooLarge);
    assert!(node.has_closed(&mut client));
    assert_eq!((node.server.clients(), node.handled), (0, 0));
}

#[test]
fn a_half_sent_request_times_out() {
    let mut node = Node::new();
    let mut client = node.connect();
    client.write_all(b"{\"op\":\"sta").unwrap();
    node.process();
    assert_eq!(
        node.server.next_deadline(),
        Some(START + Duration::from_secs(5))
    );
    // More bytes of the same line buy no more time.
    node.now += Duration::from_secs(4);
    client.write_all(b"tus").unwrap();
    node.process();
    node.now += Duration::from_millis(999);
    node.process();
    assert_eq!(node.server.clients(), 1);
    node.now += Duration::from_millis(1);
    assert_eq!(node.refusal(&mut client).code, ErrorCode::Timeout);
    assert!(node.has_closed(&mut client));
    assert_eq!((node.server.clients(), node.handled), (0, 0));
}

#[test]
fn an_idle_client_loses_its_place_after_a_minute() {
    let mut node = Node::new();
    let mut client = node.connect();
    node.process();
    node.now += Duration::from_secs(59);
    node.process();
    assert_eq!(node.server.clients(), 1);
    node.now += Duration::from_secs(1);
    assert!(node.has_closed(&mut client));
    assert_eq!(node.server.next_deadline(), None);
}

#[test]
fn a_slow_reader_is_dropped_and_a_steady_one_is_not() {
    let mut node = Node::new();
    let ask = b"{\"op\":\"events\",\"limit\":3000000}\n";
    let (mut slow, mut steady) = (node.connect(), node.connect());
    slow.write_all(ask).unwrap();
    steady.write_all(ask).unwrap();
    node.process();
    let mut room = [0; 100_000];
    let mut received = 0;
    for _ in 0..4 {
        node.now += Duration::from_secs(2);
        received += steady.read(&mut room).unwrap();
        node.process();
    }
    assert_eq!(node.server.clients(), 1);
    while received < 3_000_000 {
        received += steady.read(&mut room).unwrap();
        node.process();
    }
    assert_eq!(node.server.clients(), 1);
}

#[test]
fn the_seventeenth_client_is_told_to_wait() {
    let mut node = Node::new();
    let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| node.connect()).collect();
    node.process();
    let mut late = node.connect();
    assert_eq!(node.refusal(&mut late).code, ErrorCode::Busy);
    assert!(node.has_closed(&mut late));
    assert_eq!(node.server.clients(), MAX_CLIENTS);
    clients.pop();
    let mut next = node.connect();
    next.write_all(b"{\"op\":\"status\"}\n").unwrap();
    result_from_line::<StatusReport>(&node.read_line(&mut next)).unwrap();
}

#[test]
fn a_live_socket_is_left_alone_and_a_dead_one_is_replaced() {
    let mut node = Node::new();
    let path = node.directory.socket();
    let Err(error) = AdminServer::bind(&path, None) else {
        panic!("bound twice");
    };
    let pid = format!("(pid {})", std::process::id());
    assert!(error.to_string().contains(&pid), "{error}");
    let mut client = node.connect();
    client.write_all(b"{\"op\":\"status\"}\n").unwrap();
    result_from_line::<StatusReport>(&node.read_line(&mut client)).unwrap();

    let stale = node.directory.0.join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    let server = AdminServer::bind(&stale, None).unwrap();
    let mode = std::fs::metadata(&stale).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(server);
    assert!(!stale.exists());
}

#[test]
fn what_is_not_a_socket_is_not_removed() {
    let directory = Directory::new();
    let path = directory.socket();
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(
        AdminServer::bind(&path, None),
        Err(AdminServerError::NotASocket(_))
    ));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let long = directory.0.join("x".repeat(200));
    assert!(AdminServer::bind(&long, None).is_err());
    assert!(AdminServer::bind(Path::new("/proc/none/a/b"), None).is_err());
}

#[test]
fn the_directory_is_made_and_the_group_gets_the_socket() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED (needs root): the group of the admin socket");
        return;
    }
    let directory = Directory::new();
    let path = directory.0.join("run/admin.sock");
    let _server = AdminServer::bind(&path, Some("4242")).unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o660);
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&meta), 4242);
}

#[test]
fn only_root_and_the_admin_group_are_served() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED (needs root): clients of other users");
        return;
    }
    for (identity, served) in [
        (
            &["--reuid=54321", "--regid=54321", "--clear-groups"][..],
            false,
        ),
        (&["--reuid=54321", "--regid=54321", "--groups=4242"], true),
        (&["--reuid=54321", "--regid=4242", "--clear-groups"], true),
        (&["--reuid=0", "--regid=54321", "--clear-groups"], true),
    ] {
        let directory = Directory::new();
        let path = directory.socket();
        let mut server = AdminServer::bind(&path, Some("4242")).unwrap();
        // Open to all: what is tested is the server's own check.
        for (path, mode) in [(&path, 0o666), (&directory.0, 0o755)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        // Perl is part of every Debian system.
        let script = "use IO::Socket::UNIX; $SIG{PIPE} = 'IGNORE'; \
                      my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!; \
                      syswrite $s, qq({\"op\":\"status\"}\\n); \
                      sysread $s, my $answer, 65536; print $answer";
        let mut child = std::process::Command::new("setpriv")
            .args(identity)
            .args(["/usr/bin/perl", "-e", script])
            .arg(&path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline);
            server.process(START, &mut answer);
            std::thread::yield_now();
        }
        let mut output = String::new();
        child.stdout.unwrap().read_to_string(&mut output).unwrap();
        let expected = if served {
            "\"node\":1001"
        } else {
            "\"forbidden\""
        };
        assert!(output.contains(expected), "{identity:?}: {output}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Any bytes, cut anywhere: as many answers as lines, and it still serves.
    #[test]
    fn garbage_gets_errors_and_nothing_else(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
    ) {
        let mut node = Node::new();
        let mut client = node.connect();
        let mut lines = 0;
        for chunk in &chunks {
            // A line end is one byte in 256; make them more common.
            let bytes: Vec<u8> = chunk.iter().map(|b| if b % 16 == 0 { b'\n' } else { *b }).collect();
            lines += bytes.iter().filter(|b| **b == b'\n').count();
            client.write_all(&bytes).unwrap();
            node.process();
        }
        client.write_all(b"\n{\"op\":\"status\"}\n").unwrap();
        for _ in 0..=lines {
            prop_assert_eq!(node.refusal(&mut client).code, ErrorCode::BadRequest);
        }
        prop_assert!(result_from_line::<StatusReport>(&node.read_line(&mut client)).is_ok());
    }

    /// A request cut anywhere and left: no answer but the error.
    #[test]
    fn a_cut_request_reaches_nobody(cut in 0usize..15) {
        let mut node = Node::new();
        let mut client = node.connect();
        client.write_all(&b"{\"op\":\"status\"}\n"[..cut]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let line = node.read_line(&mut client);
        prop_assert_eq!(line.is_empty(), cut == 0);
        prop_assert_eq!(node.handled, 0);
        prop_assert_eq!(node.server.clients(), 0);
    }
}
