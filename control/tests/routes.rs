//! Next hops and interfaces in real network namespaces. Needs root.
#![cfg(feature = "daemon")]
// A test may stop at the first surprise.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tipsec_control::shell::routes::{Change, Destination, Routes};
use tipsec_dataplane::mac::MacAddr;

const PATIENCE: Duration = Duration::from_secs(10);

/// Stations a, b and c, each with a `nic` in its own namespace, on one bridge:
/// 10.0.0.1 to .3, fd00::1 to ::3, MACs ending in 1 to 3.
struct Net {
    prefix: String,
}

impl Net {
    fn new(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED (needs root): {test}");
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let net = Self {
            prefix: format!("tsr{}n{number}", std::process::id()),
        };
        net.set_up();
        Some(net)
    }

    fn set_up(&self) {
        for which in ["h", "a", "b", "c"] {
            ip(&format!("netns add {}{which}", self.prefix));
        }
        self.ip("h", "link add br0 type bridge mcast_snooping 0");
        self.ip("h", "link set br0 up");
        for (number, station) in (1..).zip(["a", "b", "c"]) {
            let hub = format!("{}h", self.prefix);
            self.ip(
                station,
                &format!(
                    "link add nic address 02:00:00:00:00:0{number} type veth peer name p{number} \
                     netns {hub}"
                ),
            );
            self.ip("h", &format!("link set p{number} master br0 up"));
            self.ip(station, &format!("address add 10.0.0.{number}/24 dev nic"));
            self.ip(
                station,
                &format!("address add fd00::{number}/64 dev nic nodad"),
            );
            self.ip(station, "link set lo up");
            self.ip(station, "link set nic up");
        }
    }

    fn ip(&self, station: &str, words: &str) -> String {
        ip(&format!("-n {}{station} {words}", self.prefix))
    }

    /// Does something in a station's namespace; sockets made there stay.
    fn inside<T: Send>(&self, station: &str, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}{station}", self.prefix)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Station a's routes, and the index of its interface.
    fn routes(&self) -> (Routes, u32) {
        let shown = self.ip("a", "-o link show dev nic");
        let ifindex = shown.split(':').next().unwrap().trim().parse().unwrap();
        let routes = self.inside("a", || Routes::open(&[ifindex]).unwrap());
        (routes, ifindex)
    }

    /// What station a has in its neighbour table for an address.
    fn neighbour(&self, address: &str) -> String {
        self.ip("a", &format!("neighbour show to {address} dev nic"))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for which in ["h", "a", "b", "c"] {
            let name = format!("{}{which}", self.prefix);
            // Some may not be there yet if setting up failed.
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

fn ip(words: &str) -> String {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn to(ifindex: u32, address: &str) -> Destination {
    Destination {
        ifindex,
        address: address.parse::<IpAddr>().unwrap(),
    }
}

/// Processes changes until `done`; gives all of them.
fn until(
    routes: &mut Routes,
    what: &str,
    mut done: impl FnMut(&Routes, &[Change]) -> bool,
) -> Vec<Change> {
    let end = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    loop {
        all.extend(routes.process());
        if done(routes, &all) {
            return all;
        }
        assert!(
            Instant::now() < end,
            "not within {PATIENCE:?}: {what}; {all:?}"
        );
        let mut fds = [rustix::event::PollFd::new(
            &*routes,
            rustix::event::PollFlags::IN,
        )];
        let tick = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        let _ = rustix::event::poll(&mut fds, Some(&tick));
    }
}

#[test]
fn neighbours_on_the_link_are_found_and_kept() {
    let Some(net) = Net::new("neighbours_on_the_link_are_found_and_kept") else {
        return;
    };
    let (mut routes, nic) = net.routes();
    assert_eq!(routes.mtu(nic), Some(1500));
    let own = net.inside("a", || routes.addresses(nic)).unwrap();
    for address in ["10.0.0.1", "fd00::1"] {
        assert!(own.contains(&address.parse().unwrap()), "{own:?}");
    }
    let (four, six) = (to(nic, "10.0.0.2"), to(nic, "fd00::3"));
    for (at, expected) in [(four, mac(2)), (six, mac(3))] {
        routes.watch(at).unwrap();
        until(&mut routes, "found", |routes, _| {
            routes.next_hop(at) == Some(expected)
        });
    }
    assert!(net.neighbour("10.0.0.2").contains("managed"));
    assert!(net.neighbour("fd00::3").contains("managed"));
    // Nobody there: no next hop, and no error.
    let nobody = to(nic, "10.0.0.77");
    routes.watch(nobody).unwrap();
    assert_eq!(routes.next_hop(nobody), None);
    // Somebody clears the table: it is taken up again.
    net.ip("a", "neighbour flush dev nic");
    until(&mut routes, "taken up again", |routes, changes| {
        changes.contains(&Change::NextHop(four)) || routes.next_hop(four) == Some(mac(2))
    });
    until(&mut routes, "found again", |routes, _| {
        routes.next_hop(four) == Some(mac(2)) && net.neighbour("10.0.0.2").contains("managed")
    });
    routes.unwatch(four);
    assert_eq!(routes.next_hop(four), None);
    assert!(!net.neighbour("10.0.0.2").contains("managed"), "removed");
    drop(routes);
    assert!(!net.neighbour("fd00::3").contains("managed"), "removed");
}

#[test]
fn entries_of_others_are_used_and_left_alone() {
    let Some(net) = Net::new("entries_of_others_are_used_and_left_alone") else {
        return;
    };
    net.ip(
        "a",
        "neighbour add 10.0.0.2 lladdr 02:00:00:00:00:42 dev nic nud permanent",
    );
    net.ip("a", "neighbour add 10.0.0.3 dev nic managed");
    let (mut routes, nic) = net.routes();
    let (by_hand, managed) = (to(nic, "10.0.0.2"), to(nic, "10.0.0.3"));
    routes.watch(by_hand).unwrap();
    routes.watch(managed).unwrap();
    until(&mut routes, "found", |routes, _| {
        routes.next_hop(managed) == Some(mac(3))
    });
    assert_eq!(routes.next_hop(by_hand), Some(mac(0x42)));
    drop(routes);
    assert!(net.neighbour("10.0.0.2").contains("PERMANENT"));
    assert!(net.neighbour("10.0.0.3").contains("managed"));
}

#[test]
fn routes_are_followed() {
    let Some(net) = Net::new("routes_are_followed") else {
        return;
    };
    net.ip("a", "route add 10.9.0.0/16 via 10.0.0.2");
    net.ip("a", "route add fd09::/64 via fd00::2");
    let (mut routes, nic) = net.routes();
    let all = [to(nic, "10.9.0.7"), to(nic, "10.9.0.8"), to(nic, "fd09::7")];
    for at in all {
        routes.watch(at).unwrap();
    }
    until(&mut routes, "found the router", |routes, _| {
        all.iter().all(|&at| routes.next_hop(at) == Some(mac(2)))
    });
    net.ip("a", "route replace 10.9.0.0/16 via 10.0.0.3");
    net.ip("a", "route replace fd09::/64 via fd00::3");
    let changes = until(&mut routes, "followed the route", |routes, _| {
        all.iter().all(|&at| routes.next_hop(at) == Some(mac(3)))
    });
    for at in all {
        assert!(changes.contains(&Change::NextHop(at)), "{changes:?}");
    }
    assert!(
        !net.neighbour("10.0.0.2").contains("managed"),
        "no longer needed"
    );
    // A better route for one of them alone.
    net.ip("a", "route add 10.9.0.8/32 via 10.0.0.2");
    until(&mut routes, "followed the better route", |routes, _| {
        routes.next_hop(all[1]) == Some(mac(2))
    });
    assert_eq!(routes.next_hop(all[0]), Some(mac(3)));
    net.ip("a", "route del fd09::/64");
    net.ip("a", "route replace blackhole 10.9.0.8/32");
    net.ip("a", "route replace blackhole 10.9.0.0/16");
    until(&mut routes, "lost the routes", |routes, _| {
        all.iter().all(|&at| routes.next_hop(at).is_none())
    });
}

#[test]
fn a_neighbours_new_address_is_noticed() {
    let Some(net) = Net::new("a_neighbours_new_address_is_noticed") else {
        return;
    };
    let (mut routes, nic) = net.routes();
    let all = [to(nic, "10.0.0.2"), to(nic, "fd00::2")];
    for at in all {
        routes.watch(at).unwrap();
    }
    until(&mut routes, "found", |routes, _| {
        all.iter().all(|&at| routes.next_hop(at) == Some(mac(2)))
    });
    net.ip("b", "link set nic address 02:00:00:00:00:22");
    // It has something to say, as a router or a peer has, and asks for us first.
    net.inside("b", || {
        for (from, to) in [("10.0.0.2:0", "10.0.0.1:9"), ("[fd00::2]:0", "[fd00::1]:9")] {
            UdpSocket::bind(from).unwrap().send_to(b"?", to).unwrap();
        }
    });
    let changes = until(&mut routes, "noticed", |routes, _| {
        all.iter().all(|&at| routes.next_hop(at) == Some(mac(0x22)))
    });
    assert!(changes.contains(&Change::NextHop(all[0])), "{changes:?}");
}

#[test]
fn interfaces_are_followed() {
    let Some(net) = Net::new("interfaces_are_followed") else {
        return;
    };
    let (mut routes, nic) = net.routes();
    let b = to(nic, "10.0.0.2");
    routes.watch(b).unwrap();
    let found = |routes: &Routes| routes.next_hop(b) == Some(mac(2));
    until(&mut routes, "found", |routes, _| found(routes));
    net.ip("a", "link set nic mtu 1400");
    let mtu = Change::Mtu {
        ifindex: nic,
        mtu: 1400,
    };
    until(&mut routes, "MTU", |_, all| all.contains(&mtu));
    assert_eq!(routes.mtu(nic), Some(1400));
    net.ip("a", "link set nic down");
    let down = Change::Up {
        ifindex: nic,
        up: false,
    };
    let changes = until(&mut routes, "down", |routes, all| {
        all.contains(&down) && !found(routes)
    });
    assert!(changes.contains(&Change::NextHop(b)), "{changes:?}");
    net.ip("a", "link set nic up");
    let up = Change::Up {
        ifindex: nic,
        up: true,
    };
    until(&mut routes, "up", |routes, all| {
        all.contains(&up) && found(routes)
    });
    // The carrier alone.
    net.ip("h", "link set p1 down");
    until(&mut routes, "no carrier", |routes, all| {
        all.contains(&down) && !found(routes)
    });
    net.ip("h", "link set p1 up");
    until(&mut routes, "carrier", |routes, _| found(routes));
    net.ip("a", "link set nic address 02:00:00:00:00:11");
    let own = Change::Mac {
        ifindex: nic,
        mac: mac(0x11),
    };
    until(&mut routes, "own MAC", |routes, all| {
        all.contains(&own) && found(routes)
    });
    net.ip("a", "address del 10.0.0.1/24 dev nic");
    let lost = Change::Address {
        own: to(nic, "10.0.0.1"),
        present: false,
    };
    until(&mut routes, "address", |_, all| all.contains(&lost));
    net.ip("a", "link del nic");
    let gone = Change::Gone { ifindex: nic };
    until(&mut routes, "gone", |routes, all| {
        all.contains(&gone) && !found(routes)
    });
    assert_eq!(routes.mtu(nic), None);
}

#[test]
fn what_was_missed_is_asked_for() {
    let Some(net) = Net::new("what_was_missed_is_asked_for") else {
        return;
    };
    let (mut routes, nic) = net.routes();
    let b = to(nic, "10.0.0.2");
    let far = to(nic, "10.9.0.7");
    routes.watch(b).unwrap();
    routes.watch(far).unwrap();
    until(&mut routes, "found", |routes, _| {
        routes.next_hop(b) == Some(mac(2))
    });
    // Far more than the kernel keeps for us, and then what matters.
    let path = std::env::temp_dir().join(format!("{}-batch", net.prefix));
    let mut batch = File::create(&path).unwrap();
    for i in 0..20_000 {
        let (high, low) = (i / 256, i % 256);
        writeln!(
            batch,
            "route add 172.{}.{high}.{low}/32 dev nic",
            16 + i / 65_536
        )
        .unwrap();
    }
    drop(batch);
    let status = Command::new("ip")
        .args(["-n", &format!("{}a", net.prefix), "-batch"])
        .arg(&path)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    let _ = fs::remove_file(&path);
    assert!(status.success());
    net.ip("a", "link set nic mtu 1300");
    net.ip("a", "route add 10.9.0.0/16 via 10.0.0.3");
    let first = routes.process();
    let mtu = Change::Mtu {
        ifindex: nic,
        mtu: 1300,
    };
    assert!(
        first.contains(&mtu),
        "at once, and not after 20,000 others: {first:?}"
    );
    until(&mut routes, "the route", |routes, _| {
        routes.next_hop(far) == Some(mac(3))
    });
    // And it hears again.
    net.ip("a", "link set nic mtu 1500");
    until(&mut routes, "hears again", |routes, _| {
        routes.mtu(nic) == Some(1500)
    });
}
