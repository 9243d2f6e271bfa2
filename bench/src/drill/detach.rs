//! Somebody else wants the NIC for an XDP program of their own: the polite way
//! is refused by the kernel, the forced one works, and the daemon says so.
//! Imports `lab`, `trial`, `vanish`.

use std::time::{Duration, Instant};

use serde::Deserialize;
use tipsec_control::admin::BearerState;
use tipsec_dataplane::attach::{Attachment, Interface, Mode};
use tipsec_dataplane::ids::NodeId;
use tipsec_dataplane::outer::Encapsulation;
use tipsec_xdp::wire::DEFAULT_ETHERTYPE;

use super::Scene;
use super::lab::{Lab, tell};
use super::outcome::Outcome;
use super::stream::Pace;
use super::trial::{Trial, note_sums};
use crate::error::{Error, Result};
use crate::sys::bpf;
use crate::topology::BEARER;
use crate::wait;

/// Index of the node whose NIC it is.
const VICTIM: usize = 1;
/// Whose frames the other program would take.
const FOREIGN_NODE: u32 = 77;
/// Of traffic after each step.
const AFTER: Duration = Duration::from_millis(500);
/// Datagrams a second, each way.
const LOAD: Pace = Pace::PerSecond(1000);
/// Traffic has to flow again so long after the daemon is up again: its peer has
/// given exchanges up by then, and waits before it tries again.
const RECOVER_WITHIN_MS: u64 = 3000;

#[derive(Deserialize)]
struct Link {
    xdp: Option<Xdp>,
}

#[derive(Deserialize)]
struct Xdp {
    prog: Program,
}

#[derive(Deserialize)]
struct Program {
    id: u32,
}

pub(super) fn run(scene: &Scene<'_>, outcome: &mut Outcome) -> Result<()> {
    Lab::with(scene, "detach", 2, outcome, drill)
}

fn drill(lab: &mut Lab, outcome: &mut Outcome) -> Result<()> {
    let streams = [(0, VICTIM, LOAD), (VICTIM, 0, LOAD)];
    check_politeness(lab, &streams, outcome)?;

    let event = lab.last_event(VICTIM)?;
    let mut trial = Trial::begin(lab, &streams, &[0, 1])?;
    let began = Instant::now();
    let program = program(lab)?;
    bpf::detach(program).map_err(Error::io(format!("force XDP program {program} off")))?;
    let said = lab.wait_for_event(VICTIM, event, "bearer-lost", "restart tipsecd");
    let noticed = began.elapsed();
    let words = format!(
        "after {} ms: {}",
        noticed.as_millis(),
        said.as_deref().unwrap_or_default()
    );
    tell(
        "the daemon says that its program is off",
        &words,
        said,
        outcome,
    )?;
    lab.check_bearers(VICTIM, BearerState::Detached, outcome)?;

    check_foreign(lab, outcome)?;
    let up = lab.start_again(VICTIM)?.up;
    trial.recover("XDP program forced off, tipsecd restarted", began, up)?;
    lab.wait_for_links()?;
    wait::pass(AFTER)?;
    let id = lab.id(VICTIM);
    let ended = trial.end(lab, Some(id))?;
    ended.check(outcome);
    outcome.check_recovery(
        "recovery within 3 s after the daemon is up again",
        RECOVER_WITHIN_MS,
    );
    lab.check_wire(outcome);
    lab.check_health(outcome)
}

/// `ip link set … xdp off` under traffic: refused, and nothing is lost.
fn check_politeness(
    lab: &mut Lab,
    streams: &[(usize, usize, Pace)],
    outcome: &mut Outcome,
) -> Result<()> {
    let trial = Trial::begin(lab, streams, &[])?;
    let off = lab
        .cluster
        .namespace(VICTIM)
        .ip(&format!("link set dev {BEARER} xdp off"));
    wait::pass(AFTER)?;
    let ended = trial.end(lab, None)?;
    outcome.check(
        "`ip link set dev … xdp off` is refused",
        off.is_err(),
        off.map_or_else(|error| error.line(), |_| "it was not".to_owned()),
    );
    note_sums(&ended.tallies, &ended.windows, outcome);
    ended.check_beside(outcome);
    Ok(())
}

/// While another program is on the NIC, a restarted daemon names it and leaves
/// it alone. Ends with neither.
fn check_foreign(lab: &mut Lab, outcome: &mut Outcome) -> Result<()> {
    lab.cluster.stop_one(VICTIM)?;
    let foreign = lab.cluster.namespace(VICTIM).run(attach)?;
    let its_id = foreign.program_id();
    let refused = lab.cluster.start(VICTIM).err();
    let still = program(lab)?;
    outcome.check(
        "a daemon that finds another's program there names it and leaves it alone",
        refused.as_ref().is_some_and(|error| {
            error
                .to_string()
                .contains(&format!("XDP program id {its_id}"))
        }) && still == its_id,
        refused.map_or_else(|| "it started".to_owned(), |error| error.line()),
    );
    drop(foreign);
    Ok(())
}

/// Another's program. (Ours serves: whose it is shows in its id alone.)
fn attach() -> Result<Attachment> {
    let failed = |detail: String| Error::Failed {
        what: format!("attach a program to {BEARER}"),
        detail,
    };
    let interface = Interface::check(BEARER).map_err(|error| failed(error.to_string()))?;
    let encapsulation = Encapsulation::ethernet(interface.mac, DEFAULT_ETHERTYPE, None);
    let node = NodeId::new(FOREIGN_NODE).ok_or_else(|| failed("no such node".into()))?;
    Attachment::attach(&interface, node, encapsulation, Mode::Auto)
        .map_err(|error| failed(error.to_string()))
}

/// The id of the XDP program on the victim's NIC.
fn program(lab: &Lab) -> Result<u32> {
    let json = lab
        .cluster
        .namespace(VICTIM)
        .ip(&format!("-j link show dev {BEARER}"))?;
    let links: Vec<Link> = serde_json::from_str(&json).map_err(|error| Error::Unreadable {
        what: "ip -j link show".into(),
        detail: error.to_string(),
    })?;
    let xdp = links.into_iter().next().and_then(|link| link.xdp);
    Ok(xdp
        .ok_or_else(|| Error::Unreadable {
            what: "ip -j link show".into(),
            detail: format!("no XDP program on {BEARER}"),
        })?
        .prog
        .id)
}
