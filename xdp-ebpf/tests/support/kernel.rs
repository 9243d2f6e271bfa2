//! The program in the kernel, loaded by libbpf, run packet by packet.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, ObjectBuilder, ProgramInput};
use tipsec_xdp::config::{self, COUNTERS_LEN, Config};
use tipsec_xdp::wire::spi_index;

pub type Counters = [u64; COUNTERS_LEN];

/// A full pair of buckets.
const FULL: [u8; size_of::<config::Buckets>()] = [0; size_of::<config::Buckets>()];

pub struct Kernel {
    object: Object,
    counters: MapHandle,
}

impl Kernel {
    pub fn load() -> Kernel {
        Kernel::load_sharing(&[])
    }

    /// Loads the program once more, with these maps instead of its own.
    pub fn load_sharing(maps: &[&MapHandle]) -> Kernel {
        let mut open = ObjectBuilder::default()
            .open_memory(&super::object())
            .expect("libbpf must open the object");
        for mut own in open.maps_mut() {
            if let Some(shared) = maps.iter().find(|map| map.name() == own.name()) {
                own.reuse_fd(shared.as_fd()).expect("the same kind of map");
            }
        }
        let object = open
            .load()
            .expect("libbpf must load the object, the verifier accept it");
        let counters = map(&object, config::MAP_COUNTERS);
        Kernel { object, counters }
    }

    /// The kernel's action for one frame of at least 14 bytes.
    pub fn run(&self, frame: &[u8]) -> u32 {
        self.run_repeatedly(frame, 1)
    }

    /// The last action of many for the same frame, one right after the other.
    pub fn run_repeatedly(&self, frame: &[u8], repeat: u32) -> u32 {
        let program = self.object.progs_mut().next().expect("one program");
        let input = ProgramInput {
            data_in: Some(frame),
            repeat,
            ..ProgramInput::default()
        };
        program.test_run(input).expect("test run").return_value
    }

    /// The action, and the one counter that moved.
    pub fn run_counted(&self, frame: &[u8]) -> (u32, u32) {
        let before = self.counters();
        let action = self.run(frame);
        let after = self.counters();
        let moved: Vec<u32> = (0..COUNTERS_LEN)
            .filter(|&i| after[i] != before[i])
            .map(|i| i as u32)
            .collect();
        assert_eq!(
            moved.len(),
            1,
            "one counter per frame: {before:?} {after:?}"
        );
        assert_eq!(after.iter().sum::<u64>(), before.iter().sum::<u64>() + 1);
        (action, moved[0])
    }

    pub fn counters(&self) -> Counters {
        std::array::from_fn(|i| {
            let per_cpu = self
                .counters
                .lookup_percpu(&(i as u32).to_ne_bytes(), MapFlags::ANY)
                .expect("counters are readable")
                .expect("the counter exists");
            let word = |bytes: &Vec<u8>| u64::from_ne_bytes(bytes[..8].try_into().unwrap());
            per_cpu.iter().map(word).sum()
        })
    }

    pub fn map(&self, name: &str) -> MapHandle {
        map(&self.object, name)
    }

    pub fn map_names(&self) -> Vec<String> {
        self.object
            .maps()
            .map(|map| map.name().to_string_lossy().into_owned())
            .collect()
    }

    pub fn set(&self, name: &str, key: &[u8], value: &[u8]) {
        self.map(name)
            .update(key, value, MapFlags::ANY)
            .expect("map takes the value");
    }

    pub fn set_config(&self, config: Config) {
        self.set(config::MAP_CONFIG, &0_u32.to_ne_bytes(), &config.to_bytes());
    }

    pub fn set_spi(&self, spi: u32) {
        let index = spi_index(spi).to_ne_bytes();
        self.set(config::MAP_SPIS, &index, &spi.to_ne_bytes());
    }

    pub fn set_gate(&self, master: u64, key: tipsec_xdp::GateKey) {
        self.set(
            config::MAP_GATES,
            &master.to_ne_bytes(),
            &key.to_map_bytes(),
        );
    }

    /// Lists a peer, or fills its buckets again.
    pub fn list_peer(&self, id: u32) {
        self.set(config::MAP_PEER_BUCKETS, &id.to_ne_bytes(), &FULL);
    }

    pub fn fill_shared_buckets(&self, index: u32) {
        self.set(config::MAP_SHARED_BUCKETS, &index.to_ne_bytes(), &FULL);
    }

    /// Forgets which frames were seen.
    pub fn forget_repeats(&self) {
        let repeats = self.map(config::MAP_REPEATS);
        for gate in repeats.keys().collect::<Vec<_>>() {
            repeats.delete(&gate).expect("the entry is there");
        }
    }

    /// Puts a socket into XSKS for queue 0 until the returned guard is dropped.
    /// It is never bound, so nothing can reach it: a test run only decides.
    pub fn put_socket(&self) -> OwnedFd {
        use rustix::net::{AddressFamily, SocketType, socket};
        let socket = socket(AddressFamily::XDP, SocketType::RAW, None).expect("AF_XDP socket");
        let fd = socket.as_fd().as_raw_fd().to_ne_bytes();
        self.set(config::MAP_XSKS, &0_u32.to_ne_bytes(), &fd);
        socket
    }
}

fn map(object: &Object, name: &str) -> MapHandle {
    let map = object
        .maps()
        .find(|map| map.name() == name)
        .unwrap_or_else(|| panic!("the object has no map {name}"));
    MapHandle::try_from(&map).expect("a second descriptor of the map")
}
