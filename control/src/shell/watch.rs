//! Whether this node's XDP programs are still on their NICs: somebody with the
//! privilege can force one off, and the kernel tells its owner nothing. Frames
//! leave all the same then, and none arrives. Imports `nic`.

use std::io;

use tipsec_dataplane::attach::{Attachment, ProgramName, attached_program};

use super::clock;
use super::nic::Nic;
use super::node::Node;
use crate::admin::BearerState;
use crate::machine::EventKind;

/// What is on a NIC in the place of the program of an attachment; `None` if it
/// is there itself, or the device is gone, which its workers notice.
fn usurper(attachment: &Attachment) -> Option<Option<ProgramName>> {
    if attachment.is_attached() {
        return None;
    }
    let found: io::Result<_> = attached_program(attachment.interface().index);
    found.ok()
}

/// Marks the queues of a NIC that are up; names the NIC if there was one.
fn mark(nics: &mut [Nic], ifindex: u32) -> Option<String> {
    let mut name = None;
    let nics = nics.iter_mut().filter(|nic| nic.link.ifindex == ifindex);
    for queue in nics.flat_map(|nic| &mut nic.queues) {
        if queue.report.state == BearerState::Up {
            queue.report.state = BearerState::Detached;
            name = Some(queue.report.interface.clone());
        }
    }
    name
}

impl Node {
    /// Asks the kernel, one short question a NIC, and says once what is wrong.
    pub(super) fn watch_programs(&mut self) {
        let mut gone = Vec::new();
        for attachment in self.hub.attachments() {
            if let Some(usurper) = usurper(attachment) {
                gone.push((
                    attachment.interface().index,
                    attachment.program_id(),
                    usurper,
                ));
            }
        }
        for (ifindex, program, usurper) in gone {
            let Some(interface) = mark(&mut self.nics, ifindex) else {
                continue;
            };
            let there = match usurper {
                Some(name) => format!("program {name} is there instead"),
                None => "none is there now".to_owned(),
            };
            let text = format!(
                "somebody took XDP program id {program} off interface {interface:?}, {there}: \
                 nothing is received by it any more; see to it that nobody else uses the \
                 interface, and restart tipsecd"
            );
            self.machine
                .note(clock::now(), EventKind::BearerLost, None, text);
        }
    }
}
