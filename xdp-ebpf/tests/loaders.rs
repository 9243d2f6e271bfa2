//! The built object under both loaders: aya, which the data plane uses, and
//! libbpf, the kernel's own. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use libbpf_rs::{MapCore, MapFlags};
use support::kernel::Kernel;
use support::root_or_skip;
use tipsec_xdp::Config;
use tipsec_xdp::config::{
    Buckets, MAP_CONFIG, MAP_COUNTERS, MAP_GATES, MAP_LAYOUT, MAP_PEER_BUCKETS, MAP_REPEATS,
    MAP_SHARED_BUCKETS, MAP_SPIS, MAP_XSKS,
};

#[test]
fn loads_with_aya_and_tells_its_layout() {
    if !root_or_skip("loads_with_aya_and_tells_its_layout") {
        return;
    }
    let object = support::object();
    let mut loader = aya::EbpfLoader::new();
    loader.map_max_entries(MAP_SPIS, 1 << 17);
    let mut ebpf = loader.load(&object).expect("aya loads the object");
    let program: &mut aya::programs::Xdp = ebpf
        .program_mut(tipsec_xdp::config::PROGRAM)
        .expect("the program by its name")
        .try_into()
        .expect("an XDP program");
    program.load().expect("the verifier accepts it");
    // Another kernel's verifier may walk more paths; its limit is a million.
    let effort = program.info().unwrap().verified_instruction_count();
    assert!(effort.is_none_or(|steps| steps < 50_000), "{effort:?}");
    let layout: aya::maps::Array<_, u64> = ebpf.map(MAP_LAYOUT).unwrap().try_into().unwrap();
    assert_eq!(layout.get(&0, 0).unwrap(), tipsec_xdp::config::LAYOUT_HASH);
    let spis: aya::maps::Array<_, u32> = ebpf.take_map(MAP_SPIS).unwrap().try_into().unwrap();
    assert_eq!(spis.len(), 1 << 17);
    let mut config: aya::maps::Array<_, [u8; Config::LEN]> =
        ebpf.take_map(MAP_CONFIG).unwrap().try_into().unwrap();
    config.set(0, [0; Config::LEN], 0).unwrap();
    let _: aya::maps::XskMap<_> = ebpf.take_map(MAP_XSKS).unwrap().try_into().unwrap();
    let _: aya::maps::HashMap<_, u64, [u8; 16]> =
        ebpf.take_map(MAP_GATES).unwrap().try_into().unwrap();
    let _: aya::maps::HashMap<_, u32, Buckets> =
        ebpf.take_map(MAP_PEER_BUCKETS).unwrap().try_into().unwrap();
    let _: aya::maps::HashMap<_, u64, u64> =
        ebpf.take_map(MAP_REPEATS).unwrap().try_into().unwrap();
    let _: aya::maps::Array<_, Buckets> = ebpf
        .take_map(MAP_SHARED_BUCKETS)
        .unwrap()
        .try_into()
        .unwrap();
    let _: aya::maps::PerCpuArray<_, u64> =
        ebpf.take_map(MAP_COUNTERS).unwrap().try_into().unwrap();
}

#[test]
fn libbpf_sees_the_same_maps_and_layout() {
    if !root_or_skip("libbpf_sees_the_same_maps_and_layout") {
        return;
    }
    let kernel = Kernel::load();
    let mut names = kernel.map_names();
    names.sort();
    let mut expected = [
        MAP_CONFIG,
        MAP_COUNTERS,
        MAP_GATES,
        MAP_LAYOUT,
        MAP_PEER_BUCKETS,
        MAP_REPEATS,
        MAP_SHARED_BUCKETS,
        MAP_SPIS,
        MAP_XSKS,
    ];
    expected.sort();
    assert_eq!(names, expected);
    let layout = kernel.map(MAP_LAYOUT);
    let value = layout.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).unwrap();
    let hash = tipsec_xdp::config::LAYOUT_HASH.to_ne_bytes();
    assert_eq!(value.as_deref(), Some(&hash[..]));
}
