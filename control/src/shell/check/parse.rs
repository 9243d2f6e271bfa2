//! Texts of /proc and /sys. Imports nothing from this crate.

/// A list of cores such as `0-2,5`; what is no number is left out.
pub(super) fn cores(text: &str) -> Vec<u32> {
    // No machine has more, and no text may make a list of four thousand million.
    const CORES_MAX: u32 = 1 << 16;
    let mut list = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse::<u32>()) {
            list.extend(first..=last.min(CORES_MAX));
        }
    }
    list
}

/// Major and minor version of a kernel's release; zeros if there are none.
pub(super) fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|text| text.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Flags of the first processor in /proc/cpuinfo: `flags` on x86, `Features`
/// on Arm.
pub(super) fn cpu_flags(cpuinfo: &str) -> Vec<String> {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| matches!(key.trim(), "flags" | "Features"))
        .map(|(_, flags)| flags.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// Numbers and names of /proc/interrupts.
pub(super) fn interrupts(text: &str) -> Vec<(u32, String)> {
    text.lines()
        .filter_map(|line| {
            let (number, rest) = line.split_once(':')?;
            let number = number.trim().parse().ok()?;
            Some((number, rest.split_whitespace().next_back()?.to_owned()))
        })
        .collect()
}

/// The receive queue that an interrupt serves, by the names that drivers give:
/// `ice-eth1-TxRx-3`, `eth1-Tx-Rx-3`, `eth1-rx-3`, `mlx5_comp3@pci:…`,
/// `virtio0-input.3`.
pub(super) fn queue_of_interrupt(name: &str) -> Option<u32> {
    let name = name.split('@').next()?;
    ["TxRx-", "Tx-Rx-", "-rx-", "mlx5_comp", "-input."]
        .iter()
        .find_map(|mark| name.rsplit_once(mark)?.1.parse().ok())
}

/// The value of a key in a device's `uevent`.
pub(super) fn uevent(text: &str, key: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores() {
        assert_eq!(cores("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(cores("7"), [7]);
        assert!(cores("\n").is_empty());
        assert!(cores("(null)").is_empty());
        assert!(cores("0-4294967295").len() < 100_000);
    }

    #[test]
    fn releases() {
        assert_eq!(kernel_version("6.1.0-13-amd64"), (6, 1));
        assert_eq!(kernel_version("10.2"), (10, 2));
        assert_eq!(kernel_version("nonsense"), (0, 0));
    }

    #[test]
    fn flags_of_both_kinds_of_processors() {
        assert_eq!(
            cpu_flags("processor\t: 0\nflags\t\t: fpu aes\nflags: x"),
            ["fpu", "aes"]
        );
        assert_eq!(
            cpu_flags("Features\t: fp asimd aes pmull"),
            ["fp", "asimd", "aes", "pmull"]
        );
        assert!(cpu_flags("").is_empty());
    }

    #[test]
    fn interrupts_tell_their_queues() {
        let text = "           CPU0\n 24:  1  IO-APIC  5-edge  ACPI:Ged\n \
                    31:  0  PCI-MSIX-0000:00:01.0  0-edge  virtio0-input.1\nNMI: 0 Non-maskable\n";
        let found = interrupts(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], (31, "virtio0-input.1".to_owned()));
        for (name, queue) in [
            ("virtio0-input.1", Some(1)),
            ("virtio0-output.1", None),
            ("virtio0-config", None),
            ("ice-eth1-TxRx-12", Some(12)),
            ("i40e-enp1s0f0-TxRx-0", Some(0)),
            ("eth0-Tx-Rx-3", Some(3)),
            ("eth0-rx-2", Some(2)),
            ("mlx5_comp7@pci:0000:3b:00.0", Some(7)),
            ("mlx5_async0@pci:0000:3b:00.0", None),
        ] {
            assert_eq!(queue_of_interrupt(name), queue, "{name}");
        }
    }

    #[test]
    fn kinds_of_devices() {
        let text = "DEVTYPE=bridge\nINTERFACE=br0\nIFINDEX=2\n";
        assert_eq!(uevent(text, "DEVTYPE").as_deref(), Some("bridge"));
        assert_eq!(uevent(text, "DRIVER"), None);
    }
}
