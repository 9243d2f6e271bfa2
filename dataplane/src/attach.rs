//! Handle to the XDP program and its maps on one NIC.
//!
//! The control thread owns it. Everything here is a system call and none of
//! it is on the path of a frame. Imports `ids`, `outer` and `sys`.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp, XdpMode, loaded_programs};
use aya::{Ebpf, EbpfLoader};
use rustix::io::Errno;
use tipsec_xdp::config::{self, COUNTER_NAMES, LAYOUT_HASH, SPIS_LEN};
use tipsec_xdp::{Config, GateKey};

use crate::ids::{MasterId, NodeId, Spi};
use crate::outer::Encapsulation;
use crate::sys::netdev::xdp_program_id;

mod interface;

pub use interface::{
    HostError, Interface, InterfaceError, KERNEL_FLOOR, MTU_MAX, MTU_MIN, MTU_SINGLE_BUFFER,
    check_host,
};

/// Which of the three modes a bearer may use, from fastest to most general.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// The first that works: zero-copy, native copy, generic.
    #[default]
    Auto,
    /// The NIC reads and writes frame memory itself, or nothing.
    ZeroCopy,
    /// XDP in the driver, frames copied, or nothing.
    NativeCopy,
    /// XDP in the network stack, or nothing.
    Generic,
}

impl Mode {
    /// Name in configuration and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::ZeroCopy => "zero-copy",
            Self::NativeCopy => "native-copy",
            Self::Generic => "generic",
        }
    }

    /// The mode of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Auto, Self::ZeroCopy, Self::NativeCopy, Self::Generic]
            .into_iter()
            .find(|mode| mode.name() == name)
    }
}

/// Where the program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// In the driver, before the kernel allocates anything.
    Native,
    /// In the network stack, for drivers without XDP.
    Generic,
}

/// Why the program is not on the NIC.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Somebody else's program is there.
    #[error(
        "interface {interface:?} already runs XDP program {program}; Tipsec never evicts one: \
         stop its owner, or detach it with `ip link set dev {interface} xdp off`"
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// Who is there.
        program: ProgramName,
    },
    /// The kernel would not load the object.
    #[error("cannot load the XDP program (CAP_BPF and CAP_NET_ADMIN are needed)")]
    Load {
        /// From aya.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The object was built from other sources.
    #[error(
        "the XDP object does not belong to this build (layout {found:016x}, expected \
         {LAYOUT_HASH:016x}): rebuild it with `ci/ebpf --update`"
    )]
    Layout {
        /// The hash in the object.
        found: u64,
    },
    /// The object lacks a map or program.
    #[error("the XDP object has no {what:?}: rebuild it with `ci/ebpf --update`")]
    Incomplete {
        /// What is not there.
        what: &'static str,
    },
    /// The driver refused.
    #[error("cannot attach the XDP program to interface {interface:?} in {mode} mode")]
    Refused {
        /// The interface.
        interface: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The driver refused, and frames are long, which fewer drivers take.
    #[error(
        "interface {interface:?} has an MTU of {mtu} bytes, and its driver takes no XDP program \
         in native mode, or none for frames of several buffers: set the MTU to at most \
         {MTU_SINGLE_BUFFER} (`ip link set {interface} mtu {MTU_SINGLE_BUFFER}`), or the mode to \
         \"auto\" or \"generic\""
    )]
    LongFrames {
        /// The interface.
        interface: String,
        /// In bytes.
        mtu: u32,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A map would not take an entry.
    #[error(transparent)]
    Map(#[from] MapUpdateError),
}

/// A map of the program refused a change.
#[derive(Debug, thiserror::Error)]
#[error("cannot update map {map} of the XDP program")]
pub struct MapUpdateError {
    map: &'static str,
    source: MapError,
}

/// Id of a program in the kernel, and its name where it has one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramName {
    /// As in `bpftool prog show id`.
    pub id: u32,
    /// Up to 15 bytes; empty if the program has none.
    pub name: String,
}

impl fmt::Display for ProgramName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id {}", self.id)?;
        if !self.name.is_empty() {
            write!(f, " ({})", self.name)?;
        }
        Ok(())
    }
}

/// The program on one NIC. Dropping it detaches the program; so does the end
/// of the process, however it ends.
pub struct Attachment {
    interface: Interface,
    hook: Hook,
    mode: Mode,
    xsks: XskMap<MapData>,
    spis: Array<MapData, u32>,
    gates: HashMap<MapData, u64, [u8; GateKey::LEN]>,
    peer_buckets: HashMap<MapData, u32, config::Buckets>,
    counters: PerCpuArray<MapData, u64>,
    program_id: u32,
    // Last, so that the maps are still whole while the program detaches.
    _link: FdLink,
    _ebpf: Ebpf,
}

impl Attachment {
    /// Loads the program, tells it what frames to this bearer look like, and
    /// attaches it: native, or generic where `mode` allows and the driver has
    /// no XDP.
    ///
    /// # Errors
    /// [`AttachError`]; then the NIC is as it was.
    pub fn attach(
        interface: &Interface,
        node: NodeId,
        encapsulation: Encapsulation,
        mode: Mode,
    ) -> Result<Self, AttachError> {
        Self::attach_object(tipsec_xdp::OBJECT, interface, node, encapsulation, mode)
    }

    /// As [`Self::attach`], with an object that was just rebuilt.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_object(
        object: &[u8],
        interface: &Interface,
        node: NodeId,
        encapsulation: Encapsulation,
        mode: Mode,
    ) -> Result<Self, AttachError> {
        refuse_occupied(interface)?;
        let mut ebpf = EbpfLoader::new().load(object).map_err(load_error)?;
        let layout: Array<_, u64> = take_map(&mut ebpf, config::MAP_LAYOUT)?;
        let found = layout.get(&0, 0).map_err(load_error)?;
        if found != LAYOUT_HASH {
            return Err(AttachError::Layout { found });
        }
        let mut configs: Array<_, [u8; Config::LEN]> = take_map(&mut ebpf, config::MAP_CONFIG)?;
        configs
            .set(0, encapsulation.config(node).to_bytes(), 0)
            .map_err(in_map(config::MAP_CONFIG))?;
        let xsks = take_map(&mut ebpf, config::MAP_XSKS)?;
        let spis = take_map(&mut ebpf, config::MAP_SPIS)?;
        let gates = take_map(&mut ebpf, config::MAP_GATES)?;
        let peer_buckets = take_map(&mut ebpf, config::MAP_PEER_BUCKETS)?;
        let counters = take_map(&mut ebpf, config::MAP_COUNTERS)?;
        let program: &mut Xdp = ebpf
            .program_mut(config::PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or(AttachError::Incomplete {
                what: config::PROGRAM,
            })?;
        program.load().map_err(load_error)?;
        let program_id = program.info().map_err(load_error)?.id();
        let (link, hook) = climb_down(program, interface, mode)?;
        Ok(Self {
            interface: interface.clone(),
            hook,
            mode,
            xsks,
            spis,
            gates,
            peer_buckets,
            counters,
            program_id,
            _link: link,
            _ebpf: ebpf,
        })
    }

    /// The NIC, as it was at attachment.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Where the program runs.
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// The mode that was asked for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The program's id in the kernel.
    pub fn program_id(&self) -> u32 {
        self.program_id
    }

    /// Whether the program is still on the NIC: false after the device was
    /// deleted or somebody with the privilege forced the link off.
    pub fn is_attached(&self) -> bool {
        xdp_program_id(self.interface.index).is_ok_and(|id| id == Some(self.program_id))
    }

    /// Data frames of `queue` go to this AF_XDP socket, which must be bound to
    /// the same queue. The kernel removes the entry when the socket closes.
    ///
    /// # Errors
    /// [`MapUpdateError`], also if the queue is beyond the map's 64.
    pub fn register_socket(
        &mut self,
        queue: u32,
        socket: &impl AsFd,
    ) -> Result<(), MapUpdateError> {
        self.xsks
            .set(queue, socket.as_fd().as_raw_fd(), 0)
            .map_err(in_map(config::MAP_XSKS))
    }

    /// Data frames of `queue` are dropped and counted again.
    ///
    /// # Errors
    /// [`MapUpdateError`]; a queue without socket is none.
    pub fn unregister_socket(&mut self, queue: u32) -> Result<(), MapUpdateError> {
        absent_is_fine(self.xsks.unset(queue)).map_err(in_map(config::MAP_XSKS))
    }

    /// SPIs that the program can hold: their index part must be below this.
    pub fn spi_capacity(&self) -> usize {
        SPIS_LEN
    }

    /// Lets data frames of this SPI through.
    ///
    /// # Errors
    /// [`MapUpdateError`], also for an index beyond [`Self::spi_capacity`].
    pub fn add_spi(&mut self, spi: Spi) -> Result<(), MapUpdateError> {
        self.write_spi(spi, spi.value())
    }

    /// Drops data frames of this SPI again. Leaves a newer generation of the
    /// same index alone.
    ///
    /// # Errors
    /// [`MapUpdateError`].
    pub fn remove_spi(&mut self, spi: Spi) -> Result<(), MapUpdateError> {
        if self.has_spi(spi)? {
            self.write_spi(spi, 0)?;
        }
        Ok(())
    }

    /// Whether data frames of exactly this SPI are let through.
    ///
    /// # Errors
    /// [`MapUpdateError`].
    pub fn has_spi(&self, spi: Spi) -> Result<bool, MapUpdateError> {
        let index = tipsec_xdp::wire::spi_index(spi.value());
        let current = self.spis.get(&index, 0);
        Ok(current.map_err(in_map(config::MAP_SPIS))? == spi.value())
    }

    fn write_spi(&mut self, spi: Spi, value: u32) -> Result<(), MapUpdateError> {
        self.spis
            .set(tipsec_xdp::wire::spi_index(spi.value()), value, 0)
            .map_err(in_map(config::MAP_SPIS))
    }

    /// Admits control frames made under this master.
    ///
    /// # Errors
    /// [`MapUpdateError`], also if eight masters are held already.
    pub fn set_master(&mut self, master: MasterId, gate: GateKey) -> Result<(), MapUpdateError> {
        self.gates
            .insert(master.0, gate.to_map_bytes(), 0)
            .map_err(in_map(config::MAP_GATES))
    }

    /// Control frames under this master are unknown again.
    ///
    /// # Errors
    /// [`MapUpdateError`]; a master that is not held is none.
    pub fn remove_master(&mut self, master: MasterId) -> Result<(), MapUpdateError> {
        absent_is_fine(self.gates.remove(&master.0)).map_err(in_map(config::MAP_GATES))
    }

    /// Gives a peer token buckets of its own, full, unless it has them.
    ///
    /// # Errors
    /// [`MapUpdateError`], also if 4096 peers are listed already.
    pub fn list_peer(&mut self, node: NodeId) -> Result<(), MapUpdateError> {
        const BPF_NOEXIST: u64 = 1;
        match self.peer_buckets.insert(node.value(), [0; 2], BPF_NOEXIST) {
            Err(MapError::SyscallError(error)) if is(&error.io_error, Errno::EXIST) => Ok(()),
            result => result.map_err(in_map(config::MAP_PEER_BUCKETS)),
        }
    }

    /// The peer shares the buckets of the unlisted again.
    ///
    /// # Errors
    /// [`MapUpdateError`]; a peer that is not listed is none.
    pub fn unlist_peer(&mut self, node: NodeId) -> Result<(), MapUpdateError> {
        absent_is_fine(self.peer_buckets.remove(&node.value()))
            .map_err(in_map(config::MAP_PEER_BUCKETS))
    }

    /// The program's counters by name, each the sum over CPUs. Every frame
    /// that the NIC received is in exactly one of them.
    ///
    /// # Errors
    /// [`MapUpdateError`], naming the counters' map.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, MapUpdateError> {
        COUNTER_NAMES
            .iter()
            .zip(0u32..)
            .map(|(&name, index)| {
                let values = self
                    .counters
                    .get(&index, 0)
                    .map_err(in_map(config::MAP_COUNTERS))?;
                Ok((name, values.iter().sum()))
            })
            .collect()
    }
}

/// The XDP program on the device with this index, in whichever mode. Its name
/// needs CAP_SYS_ADMIN; without, it is empty.
///
/// # Errors
/// The kernel's: no such device.
pub fn attached_program(ifindex: u32) -> io::Result<Option<ProgramName>> {
    let Some(id) = xdp_program_id(ifindex)? else {
        return Ok(None);
    };
    let name = loaded_programs()
        .flatten()
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_default();
    Ok(Some(ProgramName { id, name }))
}

/// Names the program on a NIC, if there is one.
fn refuse_occupied(interface: &Interface) -> Result<(), AttachError> {
    // If the question fails, the attachment itself is still exclusive.
    let Ok(Some(program)) = attached_program(interface.index) else {
        return Ok(());
    };
    Err(AttachError::Occupied {
        interface: interface.name.clone(),
        program,
    })
}

/// Attaches natively if `mode` and driver allow, else generically.
fn climb_down(
    program: &mut Xdp,
    interface: &Interface,
    mode: Mode,
) -> Result<(FdLink, Hook), AttachError> {
    let steps: &[(Hook, XdpMode, &'static str)] = match mode {
        Mode::Auto => &[
            (Hook::Native, XdpMode::Driver, "native"),
            (Hook::Generic, XdpMode::Skb, "generic"),
        ],
        Mode::ZeroCopy | Mode::NativeCopy => &[(Hook::Native, XdpMode::Driver, "native")],
        Mode::Generic => &[(Hook::Generic, XdpMode::Skb, "generic")],
    };
    let mut refusal = None;
    for &(hook, xdp_mode, name) in steps {
        let source = match try_attach(program, interface.index, xdp_mode) {
            Ok(link) => return Ok((link, hook)),
            Err(source) => source,
        };
        if is(&source, Errno::BUSY) || is(&source, Errno::EXIST) {
            // Somebody came between our question and our attachment.
            refuse_occupied(interface)?;
        }
        let mtu = interface.mtu;
        let interface = interface.name.clone();
        refusal = Some(match hook {
            Hook::Native if mtu > MTU_SINGLE_BUFFER => AttachError::LongFrames {
                interface,
                mtu,
                source,
            },
            _ => AttachError::Refused {
                interface,
                mode: name,
                source,
            },
        });
    }
    Err(refusal.unwrap_or(AttachError::Incomplete { what: "mode" }))
}

fn try_attach(program: &mut Xdp, ifindex: u32, mode: XdpMode) -> io::Result<FdLink> {
    let id = program
        .attach_to_if_index(ifindex, mode)
        .map_err(|error| match error {
            ProgramError::SyscallError(error) => error.io_error,
            // The netlink call that aya tries when a link is refused with EINVAL.
            other => io::Error::other(other),
        })?;
    let link = program.take_link(id).map_err(io::Error::other)?;
    // Only a link of the kernel's own is exclusive and ends with the process;
    // one made by netlink is undone here, by dropping it.
    FdLink::try_from(link).map_err(io::Error::other)
}

fn take_map<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, AttachError>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf
        .take_map(name)
        .ok_or(AttachError::Incomplete { what: name })?;
    M::try_from(map).map_err(load_error)
}

fn load_error(source: impl std::error::Error + Send + Sync + 'static) -> AttachError {
    AttachError::Load {
        source: Box::new(source),
    }
}

fn in_map(map: &'static str) -> impl Fn(MapError) -> MapUpdateError {
    move |source| MapUpdateError { map, source }
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if is(&error.io_error, Errno::NOENT) => Ok(()),
        result => result,
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_names() {
        for mode in ["auto", "zero-copy", "native-copy", "generic"] {
            assert_eq!(Mode::from_name(mode).unwrap().name(), mode);
        }
        assert_eq!(Mode::from_name("fast"), None);
    }

    #[test]
    fn occupant_is_named() {
        let error = AttachError::Occupied {
            interface: "eth0".into(),
            program: ProgramName {
                id: 7,
                name: "other".into(),
            },
        };
        let text = error.to_string();
        assert!(
            text.contains("eth0") && text.contains("id 7 (other)"),
            "{text}"
        );
    }
}
