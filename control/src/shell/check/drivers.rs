//! What drivers are known to do with AF_XDP, from the kernel's sources; what is
//! not known is not guessed. docs/nic-tuning.md says more of each.
//! Imports nothing from this crate.

/// Since which kernel there is something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Support {
    /// This one and newer.
    Since(u32, u32),
    /// None known.
    No,
}

/// Older than the kernel floor: always.
const ALWAYS: Support = Support::Since(0, 0);

impl Support {
    pub(super) fn is_in(self, version: (u32, u32)) -> bool {
        match self {
            Self::Since(major, minor) => version >= (major, minor),
            Self::No => false,
        }
    }
}

/// One driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Modes {
    /// XDP in the driver (`ndo_bpf`).
    pub(super) native: Support,
    /// `ndo_xsk_wakeup` and XDP_SETUP_XSK_POOL: it reads and writes UMEM itself.
    pub(super) zero_copy: Support,
}

/// By the name that ethtool gives it; `None`: not in this table.
pub(super) fn modes(driver: &str) -> Option<Modes> {
    let (native, zero_copy) = match driver {
        "mlx5_core" | "ice" | "i40e" | "ixgbe" | "igc" | "st_gmac" | "nfp" => (ALWAYS, ALWAYS),
        // Receive; transmit came with 6.13.
        "virtio_net" => (ALWAYS, Support::Since(6, 11)),
        "igb" => (ALWAYS, Support::Since(6, 14)),
        "fsl_dpaa2_eth" => (ALWAYS, Support::Since(6, 2)),
        "veth" | "tun" | "ena" | "bnxt_en" | "mlx4_en" | "ixgbevf" | "hv_netvsc" | "mana" => {
            (ALWAYS, Support::No)
        }
        "vmxnet3" => (Support::Since(6, 6), Support::No),
        "e1000" | "e1000e" | "r8169" | "tg3" | "macvlan" | "ipvlan" | "bridge" | "dummy" => {
            (Support::No, Support::No)
        }
        _ => return None,
    };
    Some(Modes { native, zero_copy })
}

/// Whether a driver's flow rules know IP flows alone, and no Ethernet addresses
/// (`flow-type ether`).
pub(super) fn steers_ip_alone(driver: &str) -> bool {
    // i40e_check_fdir_input_set, and the driver's page in the kernel documents.
    driver == "i40e"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn support_begins_with_its_version() {
        let virtio = modes("virtio_net").unwrap();
        assert!(virtio.native.is_in((6, 1)));
        assert!(!virtio.zero_copy.is_in((6, 10)));
        assert!(virtio.zero_copy.is_in((6, 11)) && virtio.zero_copy.is_in((7, 0)));
        assert!(!modes("veth").unwrap().zero_copy.is_in((99, 0)));
        assert_eq!(modes("somebody_elses"), None);
    }
}
