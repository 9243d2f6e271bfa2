//! Where frames over UDP go next: the MAC of a peer or of the router to it, as
//! this machine's own routes and neighbour table have it, and what becomes of
//! the bearers' interfaces. Followed by rtnetlink while the daemon runs.
//!
//! AF_XDP frames never show the kernel that a neighbour is still there. So the
//! kernel is asked to keep each one fresh by itself: a *managed* entry
//! (Linux 5.16). Imports nothing of the shell.

mod notice;
mod request;
mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use tipsec_dataplane::mac::MacAddr;

use notice::{Entry, Link, Notice, Route};
use request::Request;
use socket::{Missed, News, Questions};

/// A station and the interface that it is reached by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Destination {
    /// Index of the interface.
    pub ifindex: u32,
    /// IP address of the other end.
    pub address: IpAddr,
}

/// What became of the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Frames to this destination take another way, or none:
    /// [`Routes::next_hop`] has it.
    NextHop(Destination),
    /// An interface carries packets of another size.
    Mtu {
        /// Index of the interface.
        ifindex: u32,
        /// In bytes.
        mtu: u32,
    },
    /// An interface has another address of its own.
    Mac {
        /// Index of the interface.
        ifindex: u32,
        /// The new one.
        mac: MacAddr,
    },
    /// An interface was switched on and has a carrier, or no longer.
    Up {
        /// Index of the interface.
        ifindex: u32,
        /// Whether frames can leave.
        up: bool,
    },
    /// An interface is no longer in this network namespace.
    Gone {
        /// Index that it had.
        ifindex: u32,
    },
    /// An IP address came to an interface, or left it.
    Address {
        /// Which, and where.
        own: Destination,
        /// Whether it is there now.
        present: bool,
    },
}

/// Why the network cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    /// No netlink.
    #[error("cannot open an rtnetlink socket")]
    Open(#[source] io::Error),
    /// A question failed that has an answer.
    #[error("the kernel refuses {what} (rtnetlink)")]
    Ask {
        /// What was asked for.
        what: &'static str,
        /// Its reason.
        source: io::Error,
    },
    /// The kernel refused to keep a neighbour fresh.
    #[error("the kernel does not keep {address} as a managed neighbour (CAP_NET_ADMIN is needed)")]
    Manage {
        /// The neighbour.
        address: IpAddr,
        /// Its reason.
        source: io::Error,
    },
}

/// A neighbour that some destination needs.
#[derive(Default)]
struct Neighbour {
    mac: Option<MacAddr>,
    /// Made by us, so ours to remove.
    ours: bool,
}

/// Next hops and interfaces, followed. Dropping it removes the neighbour
/// entries that it made.
pub struct Routes {
    questions: Questions,
    news: News,
    links: BTreeMap<u32, Option<Link>>,
    /// Whom each destination is reached through, on the link; `None`: no way.
    watched: BTreeMap<Destination, Option<IpAddr>>,
    /// By where they are on the link.
    neighbours: BTreeMap<Destination, Neighbour>,
    /// The next hops that [`Self::process`] has told of.
    told: BTreeMap<Destination, Option<MacAddr>>,
}

impl Routes {
    /// Follows these interfaces.
    ///
    /// # Errors
    /// [`RoutesError`], also if one of the interfaces is not there.
    pub fn open(ifindexes: &[u32]) -> Result<Self, RoutesError> {
        // News before questions: what changes in between is heard twice at
        // worst, and never missed.
        let news = News::open().map_err(RoutesError::Open)?;
        let mut questions = Questions::open().map_err(RoutesError::Open)?;
        let mut links = BTreeMap::new();
        for &ifindex in ifindexes {
            let link = ask_link(&mut questions, ifindex).map_err(|source| RoutesError::Ask {
                what: "to tell about an interface",
                source,
            })?;
            links.insert(ifindex, Some(link));
        }
        Ok(Self {
            questions,
            news,
            links,
            watched: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            told: BTreeMap::new(),
        })
    }

    /// The IP addresses of an interface.
    ///
    /// # Errors
    /// [`RoutesError::Ask`].
    pub fn addresses(&mut self, ifindex: u32) -> Result<Vec<IpAddr>, RoutesError> {
        let all = self
            .questions
            .ask(Request::Addresses)
            .map_err(|source| RoutesError::Ask {
                what: "to tell its addresses",
                source,
            })?;
        let of_it = all.into_iter().filter_map(|notice| match notice {
            Notice::Address {
                ifindex: at,
                address,
                present: true,
            } if at == ifindex => Some(address),
            _ => None,
        });
        Ok(of_it.collect())
    }

    /// MTU in bytes of an interface; `None` if it is gone.
    pub fn mtu(&self, ifindex: u32) -> Option<u32> {
        self.link(ifindex).map(|link| link.mtu)
    }

    /// Gives an interface another MTU, in bytes.
    ///
    /// # Errors
    /// [`RoutesError::Ask`].
    pub fn set_mtu(&mut self, ifindex: u32, mtu: u32) -> Result<(), RoutesError> {
        let question = Request::SetMtu { ifindex, mtu };
        let answer = self.questions.ask(question);
        answer.map(drop).map_err(|source| RoutesError::Ask {
            what: "a new MTU",
            source,
        })
    }

    /// The destinations that are followed.
    pub fn watched(&self) -> Vec<Destination> {
        self.watched.keys().copied().collect()
    }

    /// Follows the way to a destination, until [`Self::unwatch`]. The next hop
    /// may take a moment to be found: then a [`Change::NextHop`] tells.
    ///
    /// # Errors
    /// [`RoutesError::Manage`]; the destination is watched nevertheless.
    pub fn watch(&mut self, destination: Destination) -> Result<(), RoutesError> {
        if self.watched.contains_key(&destination) {
            return Ok(());
        }
        self.watched.insert(destination, None);
        let result = self.look_up(destination);
        self.told.insert(destination, self.next_hop(destination));
        result
    }

    /// Forgets a destination, and its neighbour if nobody else needs it.
    pub fn unwatch(&mut self, destination: Destination) {
        self.watched.remove(&destination);
        self.told.remove(&destination);
        self.release_unused();
    }

    /// Where frames to a watched destination go now: `None` if there is no
    /// route, or nobody has answered yet.
    pub fn next_hop(&self, destination: Destination) -> Option<MacAddr> {
        let address = (*self.watched.get(&destination)?)?;
        let ifindex = destination.ifindex;
        let neighbour = self.neighbours.get(&Destination { ifindex, address });
        neighbour?.mac.filter(|_| self.is_up(ifindex))
    }

    /// Takes what the kernel has to tell, and says what changed.
    pub fn process(&mut self) -> Vec<Change> {
        let mut heard = Vec::new();
        let complete = self.news.take(|notice| heard.push(notice));
        let mut changes = Vec::new();
        let mut stale = BTreeSet::new();
        for notice in heard {
            self.apply(notice, &mut changes, &mut stale);
        }
        if let Err(Missed) = complete {
            self.resynchronise(&mut changes);
            stale.extend(self.watched.keys().copied());
        }
        for destination in stale {
            if let Err(error) = self.look_up(destination) {
                tracing::warn!("{error}");
            }
        }
        let mut told = std::mem::take(&mut self.told);
        for (&destination, told) in &mut told {
            let now = self.next_hop(destination);
            if std::mem::replace(told, now) != now {
                changes.push(Change::NextHop(destination));
            }
        }
        self.told = told;
        changes
    }

    fn link(&self, ifindex: u32) -> Option<Link> {
        self.links.get(&ifindex).copied().flatten()
    }

    fn is_up(&self, ifindex: u32) -> bool {
        self.link(ifindex).is_some_and(|link| link.up)
    }

    fn apply(
        &mut self,
        notice: Notice,
        changes: &mut Vec<Change>,
        stale: &mut BTreeSet<Destination>,
    ) {
        match notice {
            Notice::Link { ifindex, link } => {
                if self.on_link(ifindex, link, changes) {
                    stale.extend(self.watched_on(ifindex));
                }
            }
            Notice::Neighbour {
                ifindex,
                address,
                entry,
            } => {
                let at = Destination { ifindex, address };
                if self.on_neighbour(at, entry) {
                    stale.extend(self.watched_on(ifindex));
                }
            }
            Notice::Route(route) => {
                let covered = self.watched.keys().filter(|d| route.covers(d.address));
                stale.extend(covered.copied());
            }
            Notice::Address {
                ifindex,
                address,
                present,
            } => {
                if self.links.contains_key(&ifindex) {
                    let own = Destination { ifindex, address };
                    changes.push(Change::Address { own, present });
                    stale.extend(self.watched_on(ifindex));
                }
            }
            Notice::Policy => stale.extend(self.watched.keys().copied()),
            Notice::End(_) => {}
        }
    }

    fn watched_on(&self, ifindex: u32) -> impl Iterator<Item = Destination> + use<'_> {
        let watched = self.watched.keys().copied();
        watched.filter(move |destination| destination.ifindex == ifindex)
    }

    /// Notes how an interface is now; whether ways over it are to be looked up
    /// again.
    fn on_link(&mut self, ifindex: u32, now: Option<Link>, changes: &mut Vec<Change>) -> bool {
        let Some(link) = self.links.get_mut(&ifindex) else {
            return false;
        };
        let before = std::mem::replace(link, now);
        let Some(now) = now else {
            if before.is_some() {
                changes.push(Change::Gone { ifindex });
            }
            return before.is_some();
        };
        let was_up = before.is_some_and(|link| link.up);
        if before.is_none_or(|link| link.mtu != now.mtu) {
            let mtu = now.mtu;
            changes.push(Change::Mtu { ifindex, mtu });
        }
        if let Some(mac) = now
            .mac
            .filter(|_| before.is_none_or(|link| link.mac != now.mac))
        {
            changes.push(Change::Mac { ifindex, mac });
        }
        if was_up != now.up {
            let up = now.up;
            changes.push(Change::Up { ifindex, up });
        }
        was_up != now.up
    }

    /// Notes how a neighbour is now; whether it has to be asked for again.
    fn on_neighbour(&mut self, at: Destination, entry: Option<Entry>) -> bool {
        let Some(neighbour) = self.neighbours.get_mut(&at) else {
            return false;
        };
        neighbour.mac = entry.and_then(|entry| entry.mac);
        // Somebody removed it, or made it an ordinary one that grows old: then
        // it is taken up again like a new one.
        let kept = entry.is_some_and(|entry| entry.managed || entry.permanent);
        if !kept {
            self.neighbours.remove(&at);
        }
        !kept
    }

    /// Asks for everything that news may have been missed of.
    fn resynchronise(&mut self, changes: &mut Vec<Change>) {
        let ifindexes: Vec<u32> = self.links.keys().copied().collect();
        for ifindex in ifindexes {
            match ask_link(&mut self.questions, ifindex) {
                Ok(link) => self.on_link(ifindex, Some(link), changes),
                Err(error) if is(&error, Errno::NODEV) => self.on_link(ifindex, None, changes),
                // Whatever it is, it is no news about the interface.
                Err(_) => false,
            };
        }
        let neighbours: Vec<Destination> = self.neighbours.keys().copied().collect();
        for at in neighbours {
            let entry = self.ask_neighbour(at).unwrap_or_default();
            self.on_neighbour(at, entry);
        }
    }

    /// Asks for the way to a watched destination, and takes its neighbour up.
    fn look_up(&mut self, destination: Destination) -> Result<(), RoutesError> {
        let address = self.ask_route(destination);
        let Some(before) = self.watched.get_mut(&destination) else {
            return Ok(());
        };
        let changed = std::mem::replace(before, address) != address;
        let ifindex = destination.ifindex;
        let result = match address {
            Some(address) => self.acquire(Destination { ifindex, address }),
            None => Ok(()),
        };
        if changed {
            self.release_unused();
        }
        result
    }

    /// Whom a destination is reached through, on the link.
    fn ask_route(&mut self, to: Destination) -> Option<IpAddr> {
        if !self.is_up(to.ifindex) {
            return None;
        }
        let question = Request::Route {
            ifindex: to.ifindex,
            to: to.address,
        };
        // No route is an error too, and all others mean no more.
        let answer = self.questions.ask(question).ok()?;
        answer.into_iter().find_map(|notice| match notice {
            Notice::Route(Route {
                unicast: true,
                ifindex: Some(ifindex),
                gateway,
                ..
            }) if ifindex == to.ifindex => Some(gateway.unwrap_or(to.address)),
            _ => None,
        })
    }

    fn ask_neighbour(&mut self, at: Destination) -> io::Result<Option<Entry>> {
        let question = Request::Neighbour {
            ifindex: at.ifindex,
            address: at.address,
        };
        match self.questions.ask(question) {
            Ok(answer) => Ok(answer.into_iter().find_map(|notice| match notice {
                Notice::Neighbour { entry, .. } => entry,
                _ => None,
            })),
            Err(error) if is(&error, Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has the kernel keep a neighbour, unless it does already. An entry that
    /// somebody set by hand, or has the kernel keep, is only read.
    fn acquire(&mut self, at: Destination) -> Result<(), RoutesError> {
        if self.neighbours.contains_key(&at) {
            return Ok(());
        }
        let entry = self.ask_neighbour(at).unwrap_or_default();
        let kept = entry.is_some_and(|entry| entry.managed || entry.permanent);
        let neighbour = Neighbour {
            mac: entry.and_then(|entry| entry.mac),
            ours: !kept || entry.is_some_and(|entry| entry.ours),
        };
        self.neighbours.insert(at, neighbour);
        if kept {
            return Ok(());
        }
        let question = Request::ManageNeighbour {
            ifindex: at.ifindex,
            address: at.address,
        };
        match self.questions.ask(question) {
            Ok(_) => Ok(()),
            Err(source) => {
                self.neighbours.remove(&at);
                // Down again already: the news of it is under way.
                if is(&source, Errno::NETDOWN) || is(&source, Errno::NODEV) {
                    return Ok(());
                }
                let address = at.address;
                Err(RoutesError::Manage { address, source })
            }
        }
    }

    /// Gives up neighbours that no destination needs any more.
    fn release_unused(&mut self) {
        let used: BTreeSet<Destination> = self
            .watched
            .iter()
            .filter_map(|(destination, through)| {
                let ifindex = destination.ifindex;
                through.map(|address| Destination { ifindex, address })
            })
            .collect();
        let unused = self.neighbours.keys().filter(|at| !used.contains(at));
        for at in unused.copied().collect::<Vec<_>>() {
            self.release(at);
        }
    }

    fn release(&mut self, at: Destination) {
        let Some(Neighbour { ours: true, .. }) = self.neighbours.remove(&at) else {
            return;
        };
        let question = Request::RemoveNeighbour {
            ifindex: at.ifindex,
            address: at.address,
        };
        // Gone already is as good.
        if let Err(error) = self.questions.ask(question) {
            tracing::debug!("neighbour {} not removed: {error}", at.address);
        }
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.watched.clear();
        self.release_unused();
    }
}

impl AsFd for Routes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}

fn ask_link(questions: &mut Questions, ifindex: u32) -> io::Result<Link> {
    let answer = questions.ask(Request::Link { ifindex })?;
    let link = answer.into_iter().find_map(|notice| match notice {
        Notice::Link { link, .. } => link,
        _ => None,
    });
    link.ok_or_else(|| Errno::NODEV.into())
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
