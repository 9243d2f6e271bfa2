//! What a bearer's device does with VLAN tags.

use super::Area;
use crate::shell::check::facts::{Bearer, Feature, Nic, Stripping};

/// What becomes of tags before the XDP program sees a frame.
pub(super) fn tags(area: &mut Area<'_>, bearer: &Bearer, nic: &Nic) {
    let name = &bearer.interface;
    match (nic.strips_tags(), bearer.vlan) {
        (None, _) => {}
        (Some(Stripping::Off), _) => area.ok("VLAN stripping", "off"),
        (Some(Stripping::InName), Some(_)) => area.ok(
            "VLAN stripping",
            "a veth leaves tags where its other end has put them: into the frame, if txvlan is \
             off there",
        ),
        (Some(Stripping::On { changeable: false }), Some(vlan)) => area.stop(
            "VLAN stripping",
            format!("on, and fixed: XDP sees no tag of VLAN {vlan}, so no data arrives"),
            format!(
                "let the switch send VLAN {vlan} untagged, without {}, or another {}",
                bearer.at.vlan, bearer.at.interface
            ),
        ),
        (Some(Stripping::On { changeable: true }), Some(vlan)) => area.stop(
            "VLAN stripping",
            format!("on: XDP sees no tag of VLAN {vlan}, so no data arrives"),
            format!("ethtool -K {name} rxvlan off"),
        ),
        (Some(Stripping::On { changeable: false }), None) => {
            area.ok("VLAN stripping", "on, and fixed");
        }
        (Some(Stripping::On { .. } | Stripping::InName), None) => area.change(
            "VLAN stripping",
            "on: tags are gone before XDP sees a frame, so every VLAN looks untagged",
            format!("ethtool -K {name} rxvlan off"),
        ),
    }
    let (Some(vlan), Some(filter)) = (bearer.vlan, nic.features.get("rx-vlan-filter")) else {
        return;
    };
    let found = "on: VLANs may be kept back for which the kernel has no device";
    match filter {
        Feature { on: false, .. } => area.ok("VLAN filter", "off"),
        Feature {
            changeable: true, ..
        } => area.change(
            "VLAN filter",
            found,
            format!("ethtool -K {name} rx-vlan-filter off"),
        ),
        Feature { .. } => area.change(
            "VLAN filter",
            found,
            format!(
                "ip link add link {name} name {name}.{vlan} type vlan id {vlan} && ip link set \
                 {name}.{vlan} up"
            ),
        ),
    }
}
