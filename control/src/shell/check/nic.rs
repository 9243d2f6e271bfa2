//! Reads what there is of one bearer's device. Imports `facts`, `parse`,
//! `read`, `sys`, and the data plane's own check of interfaces.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tipsec_dataplane::attach::{Interface, InterfaceError, attached_program};
use tipsec_dataplane::outer::VlanId;
use tipsec_dataplane::worker::Polling;

use super::facts::{
    Bearer, Coalescing, Driver, Feature, Irq, Link, Master, Nic, Pause, Places, Program, Queues,
    Rings, Stripping, Sysfs,
};
use super::parse;
use super::read::{file, number};
use super::sys::{Command, Ethtool, text};
use crate::config::{BearerConfig, Config, EncapsulationChoice};

/// Every queue of the bearer with this number in the configuration.
pub(super) fn per_queue(config: &Config, number: usize, wanted: &BearerConfig) -> Vec<Bearer> {
    let pinned = |place: usize| wanted.cores.get(place).copied();
    let queues = wanted.queues.iter().enumerate();
    queues
        .map(|(place, &queue)| bearer(config, number, wanted, (queue, pinned(place))))
        .collect()
}

fn bearer(
    config: &Config,
    number: usize,
    wanted: &BearerConfig,
    (queue, core): (u32, Option<u32>),
) -> Bearer {
    let in_flight = wanted.in_flight_max;
    let at = |key: &str| {
        let error = config.bearer_error(number, key, "");
        match error.line {
            Some(line) => format!("{} ({}:{line})", error.key, error.file),
            None => format!("{} ({})", error.key, error.file),
        }
    };
    Bearer {
        interface: wanted.interface.clone(),
        queue,
        core,
        mode: wanted.mode,
        spin: config.polling == Polling::Spin,
        udp: matches!(wanted.encapsulation, EncapsulationChoice::Udp(_)),
        vlan: wanted.encapsulation.vlan().map(VlanId::value),
        napi: wanted.napi,
        in_flight,
        at: Places {
            interface: at("interface"),
            queue: at("queues"),
            core: at("cores"),
            mode: at("mode"),
            vlan: at("vlan"),
            napi: at("napi"),
        },
        link: link(&wanted.interface),
        nic: nic(&wanted.interface),
    }
}

fn link(interface: &str) -> Link {
    match Interface::check(interface) {
        Ok(found) => Link::Usable {
            mtu: found.mtu,
            mac: found.mac.to_string(),
        },
        Err(InterfaceError::Missing { .. }) => Link::Missing,
        Err(InterfaceError::Down { .. }) => Link::Down,
        Err(InterfaceError::MtuTooSmall { mtu, .. } | InterfaceError::MtuTooLarge { mtu, .. }) => {
            Link::Mtu(mtu)
        }
        Err(other) => Link::Refused(other.to_string()),
    }
}

/// Whether a device takes tags off before an XDP program sees them; false if it
/// does not tell.
pub(in crate::shell) fn strips_tags(interface: &str) -> bool {
    let nic = Ethtool::new(interface).map(|ethtool| Nic {
        driver: driver(&ethtool),
        features: features(&ethtool),
        ..Nic::default()
    });
    nic.and_then(|nic| nic.strips_tags())
        .is_some_and(|stripping| matches!(stripping, Stripping::On { .. }))
}

fn nic(interface: &str) -> Option<Nic> {
    let ethtool = Ethtool::new(interface)?;
    let index = ethtool.index()?;
    let (program, program_unread) = match attached_program(index) {
        Ok(found) => {
            let program = found.map(|program| Program {
                id: program.id,
                name: program.name,
            });
            (program, None)
        }
        Err(error) => (None, Some(error.to_string())),
    };
    // Of our own network namespace, unlike what /sys may show.
    let ipv6 = PathBuf::from("/proc/sys/net/ipv6/conf").join(interface);
    Some(Nic {
        driver: driver(&ethtool),
        queues: queues(&ethtool),
        rings: rings(&ethtool),
        coalescing: coalescing(&ethtool),
        pause: pause(&ethtool),
        features: features(&ethtool),
        flow_rules: ethtool
            .ask(Command::FLOW_RULES)
            .and_then(|words| words.get(46).copied()),
        program,
        program_unread,
        ipv6_off: number(&ipv6.join("disable_ipv6"))
            .known()
            .map(|&off| off != 0),
        sysfs: sysfs(interface, index),
    })
}

fn driver(ethtool: &Ethtool) -> Option<Driver> {
    let words = ethtool.ask(Command::DRIVER)?;
    Some(Driver {
        name: text(&words[1..9]),
        version: text(&words[9..17]),
    })
}

fn queues(ethtool: &Ethtool) -> Option<Queues> {
    let words = ethtool.ask(Command::CHANNELS)?;
    let [_, max_rx, _, _, max_combined, rx, _, _, combined] = words[..] else {
        return None;
    };
    Some(Queues {
        rx: rx.saturating_add(combined),
        rx_max: max_rx.max(max_combined),
        combined,
    })
}

fn rings(ethtool: &Ethtool) -> Option<Rings> {
    let words = ethtool.ask(Command::RINGS)?;
    Some(Rings {
        rx: words[5],
        rx_max: words[1],
        tx: words[8],
        tx_max: words[4],
    })
}

fn coalescing(ethtool: &Ethtool) -> Option<Coalescing> {
    let words = ethtool.ask(Command::COALESCING)?;
    Some(Coalescing {
        rx_usecs: words[1],
        tx_usecs: words[5],
        adaptive_rx: words[10] != 0,
    })
}

fn pause(ethtool: &Ethtool) -> Option<Pause> {
    let words = ethtool.ask(Command::PAUSE)?;
    Some(Pause {
        rx: words[2] != 0,
        tx: words[3] != 0,
    })
}

fn features(ethtool: &Ethtool) -> BTreeMap<String, Feature> {
    let listed = ethtool.features().unwrap_or_default();
    listed
        .into_iter()
        .map(|(name, on, changeable)| (name, Feature { on, changeable }))
        .collect()
}

/// What /sys/class/net tells, if it tells of this device: it shows the network
/// namespace in which it was mounted, where another device may have the name.
fn sysfs(interface: &str, index: u32) -> Option<Sysfs> {
    let class = Path::new("/sys/class/net");
    let device = class.join(interface);
    if number(&device.join("ifindex")).known() != Some(&u64::from(index)) {
        return None;
    }
    let known = |name: &str| number(&device.join(name)).known().copied();
    let master = fs::read_link(device.join("master")).ok().and_then(|path| {
        let name = path.file_name()?.to_str()?.to_owned();
        let uevent = file(&class.join(&name).join("uevent"));
        let kind = uevent
            .known()
            .and_then(|text| parse::uevent(text, "DEVTYPE"));
        Some(Master {
            name,
            kind: kind.unwrap_or_default(),
        })
    });
    Some(Sysfs {
        carrier: known("carrier").map(|carrier| carrier != 0),
        // -1, which is no number here, means none.
        node: known("device/numa_node").and_then(|node| u32::try_from(node).ok()),
        master,
        threaded: known("threaded").map(|threaded| threaded != 0),
        defer_hard_irqs: known("napi_defer_hard_irqs"),
        gro_flush_timeout_ns: known("gro_flush_timeout"),
        irqs: irqs(&device.join("device")),
    })
}

/// The interrupts of a PCI device, or of the one that a virtio device is on.
fn irqs(device: &Path) -> Vec<Irq> {
    let Ok(device) = fs::canonicalize(device) else {
        return Vec::new();
    };
    let listed = [Some(device.as_path()), device.parent()]
        .into_iter()
        .flatten()
        .find_map(|place| fs::read_dir(place.join("msi_irqs")).ok());
    let Some(listed) = listed else {
        return Vec::new();
    };
    let names = file(Path::new("/proc/interrupts"));
    let names: BTreeMap<u32, String> = names
        .known()
        .map(|text| parse::interrupts(text).into_iter().collect())
        .unwrap_or_default();
    let numbers = listed
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut irqs: Vec<_> = numbers
        .map(|number| {
            let place = Path::new("/proc/irq").join(number.to_string());
            let cores = file(&place.join("effective_affinity_list"));
            Irq {
                number,
                queue: names
                    .get(&number)
                    .and_then(|name| parse::queue_of_interrupt(name)),
                cores: cores
                    .known()
                    .map(|text| parse::cores(text))
                    .unwrap_or_default(),
            }
        })
        .collect();
    irqs.sort_by_key(|irq| irq.number);
    irqs
}
