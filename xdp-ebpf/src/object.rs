//! The built XDP program, embedded: userspace loads it without files.
//! Imports nothing.

/// ELF readers cast the object's headers in place and want them aligned.
#[repr(C, align(8))]
struct Aligned<B: ?Sized>(B);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!("../tipsec-xdp.o"));

/// The XDP program as a BPF ELF object with BTF, aligned to 8 bytes. Committed
/// beside the source; `ci/ebpf` rebuilds it.
pub static OBJECT: &[u8] = &ALIGNED.0;

#[cfg(test)]
mod tests {
    use super::OBJECT;

    #[test]
    fn is_an_aligned_bpf_elf() {
        assert_eq!(OBJECT.as_ptr().align_offset(8), 0);
        assert_eq!(OBJECT[..6], *b"\x7fELF\x02\x01");
        // e_machine (gABI, offset 18): EM_BPF = 247.
        assert_eq!(OBJECT[18..20], [247, 0]);
    }
}
