//! The XDP program: `classify`, then the maps that userspace keeps, then a
//! count. Imports the library and aya-ebpf. What frames look like and why they
//! are dropped is the library's; here is only what needs the kernel.

#![allow(unsafe_code)]

use core::arch::asm;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, XskMap};
use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_xdp_get_buff_len};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use tipsec_xdp::bucket::Bucket;
use tipsec_xdp::config::{
    BUCKET_PEER, BUCKET_REPEAT, BUCKET_UNKNOWN_MASTER, BUCKET_UNLISTED, Buckets, COUNTERS_LEN,
    GATES_LEN, LAYOUT_HASH, PEER_BUCKETS_LEN, REPEATS_LEN, SHARED_BUCKETS_LEN,
    SHARED_UNKNOWN_MASTER, SHARED_UNLISTED, SPIS_LEN, XSKS_LEN, bucket_of,
};
use tipsec_xdp::wire::spi_index;
use tipsec_xdp::{Accept, Config, Control, Frame, GateKey, Reason, Verdict, classify, gate};

#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
static SPIS: Array<u32, SPIS_LEN> = Array::new();
#[btf_map]
static XSKS: XskMap<XSKS_LEN> = XskMap::new();
#[btf_map]
static GATES: HashMap<u64, GateKey, GATES_LEN> = HashMap::new();
#[btf_map]
static PEER_BUCKETS: HashMap<u32, Buckets, PEER_BUCKETS_LEN> = HashMap::new();
#[btf_map]
static SHARED_BUCKETS: Array<Buckets, SHARED_BUCKETS_LEN> = Array::new();
#[btf_map]
static REPEATS: LruHashMap<u64, u64, REPEATS_LEN> = LruHashMap::new();
#[btf_map]
static COUNTERS: PerCpuArray<u64, COUNTERS_LEN> = PerCpuArray::new();

/// Read by loaders, never by the program.
#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.layout")]
static LAYOUT: u64 = LAYOUT_HASH;

/// The helpers used are all MIT-compatible; the kernel wants to know anyway.
#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Attempts to store a bucket's state against other cores before the frame is
/// counted as flooding. Losing this often takes a flood.
const BUCKET_ATTEMPTS: u32 = 4;

#[xdp(frags)]
fn tipsec_xdp(ctx: XdpContext) -> u32 {
    let Some(config) = CONFIG.get(0) else {
        return XDP_ABORTED; // an array's entry 0 is always there
    };
    let packet = Packet { ctx: &ctx };
    match classify(config, &packet) {
        Verdict::Pass => accept(Accept::NotOurs),
        Verdict::Drop(reason) => refuse(reason),
        Verdict::Data { spi } => on_data(&ctx, spi),
        Verdict::Control(control) => on_control(&control),
    }
}

/// Data goes to its queue's socket if this node has issued the SPI.
#[inline(always)]
fn on_data(ctx: &XdpContext, spi: u32) -> u32 {
    if SPIS.get(spi_index(spi)) != Some(&spi) {
        return refuse(Reason::UnknownSpi);
    }
    match XSKS.redirect(ctx.rx_queue_index(), u64::from(XDP_DROP)) {
        Ok(action) => {
            count(Accept::Data.counter());
            action
        }
        Err(_) => refuse(Reason::NoSocket),
    }
}

/// Control frames pass the gate, then the memory of frames seen lately, then a
/// bucket, then go to the kernel, where the control thread's socket takes them. A function of its own, so that the
/// gate's code is there once and not once per way to find the header.
#[inline(never)]
fn on_control(control: &Control<'_>) -> u32 {
    let Some(key) = GATES.get_ptr(control.master_id()) else {
        return match SHARED_BUCKETS.get_ptr_mut(SHARED_UNKNOWN_MASTER) {
            Some(states) if admit_kind(BUCKET_UNKNOWN_MASTER, states, control) => {
                accept(Accept::UnknownMaster)
            }
            _ => refuse(Reason::Flooded),
        };
    };
    // SAFETY: the pointer comes from a successful lookup and the entry's memory
    // lives until the program ends; userspace may replace the entry meanwhile,
    // which makes a gate that doesn't match and nothing worse.
    let key = unsafe { &*key };
    if gate(key, control.clear) != control.gate() {
        return refuse(Reason::BadGate);
    }
    // Before the buckets: a replay shall not take what its sender may send.
    if is_repeated(control.gate()) {
        return refuse(Reason::Repeated);
    }
    let admitted = match PEER_BUCKETS.get_ptr_mut(control.sender()) {
        Some(states) => admit_kind(BUCKET_PEER, states, control),
        None => match SHARED_BUCKETS.get_ptr_mut(SHARED_UNLISTED) {
            Some(states) => admit_kind(BUCKET_UNLISTED, states, control),
            None => false,
        },
    };
    if admitted {
        accept(Accept::Control)
    } else {
        refuse(Reason::Flooded)
    }
}

/// Whether the frame with this gate, which matched, was seen too often lately.
/// Two cores that see it first at once both let it pass.
#[inline(always)]
fn is_repeated(gate: u64) -> bool {
    match REPEATS.get_ptr_mut(gate) {
        Some(state) => !admit(BUCKET_REPEAT, state),
        None => {
            // SAFETY: the helper takes no arguments and only reads the clock.
            let now_ns = unsafe { bpf_ktime_get_boot_ns() };
            let first = BUCKET_REPEAT.admit(0, now_ns).unwrap_or(now_ns);
            // If it cannot be stored, the buckets still stand.
            let _ = REPEATS.insert(gate, first, 0);
            false
        }
    }
}

/// Takes a token from the bucket of the frame's kind.
#[inline(always)]
fn admit_kind(bucket: Bucket, states: *mut Buckets, control: &Control<'_>) -> bool {
    let state = states.cast::<u64>().wrapping_add(bucket_of(control.kind));
    admit(bucket, state)
}

/// Takes a token from the bucket at `state`, which other cores use as well.
#[inline(always)]
fn admit(bucket: Bucket, state: *mut u64) -> bool {
    // SAFETY: the helper takes no arguments and only reads the clock.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    for _ in 0..BUCKET_ATTEMPTS {
        // SAFETY: the pointer comes from a successful map lookup, so it is
        // valid and aligned to 8 bytes until the program ends.
        let arrival_ns = unsafe { state.read_volatile() };
        let Some(next_ns) = bucket.admit(arrival_ns, now_ns) else {
            return false;
        };
        // SAFETY: as above.
        if unsafe { compare_exchange(state, arrival_ns, next_ns) } == arrival_ns {
            return true;
        }
    }
    false
}

/// Stores `new` at `at` if `current` is there, in one step, and tells what was
/// there. By hand, since the target's `AtomicU64` has no such method although
/// the instruction set does (RFC 9669, section 5.3).
///
/// # Safety
///
/// `at` must be valid and aligned to 8 bytes.
#[inline(always)]
unsafe fn compare_exchange(at: *mut u64, current: u64, new: u64) -> u64 {
    let seen;
    // SAFETY: the caller vouches for `at`; the instruction touches nothing else.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({at} + 0, r0, {new})",
            at = in(reg) at,
            new = in(reg) new,
            inout("r0") current => seen,
        );
    }
    seen
}

#[inline(always)]
fn accept(accept: Accept) -> u32 {
    count(accept.counter());
    XDP_PASS
}

#[inline(always)]
fn refuse(reason: Reason) -> u32 {
    count(reason.counter());
    XDP_DROP
}

#[inline(always)]
fn count(counter: u32) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: the pointer comes from a successful lookup, and a per-CPU
        // slot has one writer at a time: XDP does not preempt itself.
        unsafe { *slot += 1 };
    }
}

/// The frame as the driver hands it over: its first buffer, and a question to
/// the kernel where that is not all.
struct Packet<'a> {
    ctx: &'a XdpContext,
}

impl Frame for Packet<'_> {
    #[inline(always)]
    fn section<const OFFSET: usize, const N: usize>(&self) -> Option<&[u8; N]> {
        let start = self.ctx.data();
        if start + OFFSET + N > self.ctx.data_end() {
            return None;
        }
        // SAFETY: the check above, in the form the verifier looks for, shows
        // that the N bytes at OFFSET lie within the packet; bytes need no
        // alignment and the packet outlives the program's run.
        Some(unsafe { &*((start + OFFSET) as *const [u8; N]) })
    }

    #[inline(always)]
    fn holds(&self, len: usize) -> bool {
        if self.ctx.data_end() - self.ctx.data() >= len {
            return true;
        }
        // SAFETY: the context is the one the program was started with.
        let total = unsafe { bpf_xdp_get_buff_len(self.ctx.as_ptr().cast()) };
        total >= len as u64
    }
}

/// Unreachable: nothing here panics, and the verifier would refuse the call.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
