//! Sealing: numbers, budgets and phases of one sending lane.

use super::*;
use crate::aead::AnyAead;
use crate::secret::{LaneSecret, Suite};
use crate::window::{LAP, PACKET_NUMBERS};

const UNBOUNDED: Budget = Budget {
    soft: u64::MAX,
    hard: u64::MAX,
};

fn secret(phase: u8) -> LaneSecret {
    LaneSecret::new(Suite::Aes256Gcm, [1 + phase; 32], [2 + phase; 12])
}

fn spi() -> Spi {
    Spi::new(7).unwrap()
}

fn lane_of(bits: PhaseBits, budget: Budget, next: Option<LaneSecret>) -> TxLane<AnyAead> {
    TxLane::new(TxLaneSpec {
        spi: spi(),
        peer: PeerIndex(0),
        node: NodeId::new(2).unwrap(),
        epoch: Epoch(1),
        lane: LaneIndex(0),
        secret: secret(0),
        next,
        phase_bits: bits,
        budget,
    })
}

fn tx_lane(budget: Budget) -> TxLane<AnyAead> {
    lane_of(PhaseBits::PROTOCOL, budget, None)
}

fn stage(phase: u32) -> PhaseSpec {
    PhaseSpec {
        spi: spi(),
        phase: Phase(phase),
        secret: secret(u8::try_from(phase % 200).unwrap()),
    }
}

/// One frame at once: its header and tag.
fn seal(
    lane: &mut TxLane<AnyAead>,
    plaintext: &mut [u8],
) -> Result<([u8; HEADER_LEN], [u8; TAG_LEN]), SealRefused> {
    let number = lane.number(plaintext.len(), Class::Data)?;
    let header = number.header();
    Ok((header, lane.seal(number, &header, plaintext).unwrap()))
}

#[test]
fn budget_counts_packets_and_blocks() {
    // A packet of 33 bytes costs 1 + 3.
    let mut lane = tx_lane(Budget { soft: 8, hard: 14 });
    let mut payload = [0; 33];
    let mut steps = Vec::new();
    for _ in 0..3 {
        assert!(seal(&mut lane, &mut payload).is_ok());
        steps.push(lane.budget_step());
    }
    let low = BudgetStep::Low { next_ready: false };
    assert_eq!(steps, [None, Some(low), None]);
    // 12 are spent; data may spend 13, which is too few for this packet.
    payload.fill(0x11);
    for expected in [Some(BudgetStep::Spent), None] {
        let refused = seal(&mut lane, &mut payload).err();
        assert_eq!(refused, Some(SealRefused::BudgetSpent));
        assert_eq!(lane.budget_step(), expected);
    }
    assert_eq!(payload, [0x11; 33], "a refused payload is untouched");
    // What would fit is refused too: spent is final.
    assert!(seal(&mut lane, &mut [0; 1]).is_err());
    assert_eq!(lane.next_packet_number(), 3, "a refusal takes no number");
}

#[test]
fn a_number_seals_for_its_own_lane_and_length_only() {
    // The same names, as after a peer's restart.
    let (mut lane, other) = (tx_lane(UNBOUNDED), tx_lane(UNBOUNDED));
    let mut plaintext = [0x11; 20];
    let number = lane.number(20, Class::Data).unwrap();
    let header = number.header();
    let result = lane.seal(number, &header, &mut plaintext[..19]);
    assert_eq!(result, Err(ForeignNumber), "length");
    let number = lane.number(20, Class::Data).unwrap();
    let header = number.header();
    let result = other.seal(number, &header, &mut plaintext);
    assert_eq!(result, Err(ForeignNumber), "lane");
    assert_eq!(plaintext, [0x11; 20], "untouched");
    assert_eq!(lane.next_packet_number(), 2, "not given back");
    assert_eq!(
        seal(&mut lane, &mut plaintext).unwrap().0[8..],
        [0, 0, 0, 0, 0, 0, 0, 2]
    );
}

#[test]
fn lane_ends_with_its_phase() {
    let mut lane = tx_lane(UNBOUNDED);
    lane.next_packet_number = (1 << 32) - 1;
    assert!(seal(&mut lane, &mut [0; 1]).is_ok());
    let refused = seal(&mut lane, &mut [0; 1]).err();
    assert_eq!(refused, Some(SealRefused::BudgetSpent));
    assert_eq!(lane.budget_step(), Some(BudgetStep::Spent));
}

fn number_of(header: [u8; HEADER_LEN]) -> u64 {
    u64::from_be_bytes(header[8..].try_into().unwrap())
}

#[test]
fn spent_budget_jumps_to_the_next_phase() {
    // Each frame costs 2: three of them a phase.
    let budget = Budget { soft: 4, hard: 7 };
    let mut lane = lane_of(PhaseBits::PROTOCOL, budget, Some(secret(1)));
    let mut numbers = Vec::new();
    let mut steps = Vec::new();
    for phase in 1..4 {
        lane.allow_phase(Phase(phase));
        for _ in 0..3 {
            numbers.push(number_of(seal(&mut lane, &mut [0; 1]).unwrap().0));
            steps.extend(lane.budget_step());
        }
        if phase > 1 {
            assert_eq!(lane.stage(&stage(phase)), Ok(()));
        }
    }
    let expected = [0, 1, 2, 3, 4, 5, 6, 7, 8].map(|n| ((n / 3) << 32) + n / 3 * 32 + n % 3);
    assert_eq!(numbers, expected);
    let low = |next_ready| BudgetStep::Low { next_ready };
    let entered = |phase| BudgetStep::Entered(Phase(phase));
    // In the later phases the next key came after the soft budget.
    let expected = [low(true), entered(1), low(false), entered(2), low(false)];
    assert_eq!(steps, expected);
}

#[test]
fn next_phase_needs_its_key_and_leave() {
    let budget = Budget { soft: 2, hard: 2 };
    for (has_key, allowed) in [(false, false), (true, false), (false, true)] {
        let next = has_key.then(|| secret(1));
        let mut lane = lane_of(PhaseBits::PROTOCOL, budget, next);
        lane.allow_phase(Phase(u32::from(allowed)));
        assert!(seal(&mut lane, &mut [0; 1]).is_ok());
        assert_eq!(
            lane.budget_step(),
            Some(BudgetStep::Low { next_ready: false })
        );
        for expected in [Some(BudgetStep::Spent), None] {
            assert!(seal(&mut lane, &mut [0; 1]).is_err());
            assert_eq!(lane.budget_step(), expected);
        }
        assert_eq!((lane.phase(), lane.next_packet_number), (Phase(0), 1));
        // What was missing comes late: the lane goes on.
        lane.allow_phase(Phase(1));
        assert_eq!(lane.stage(&stage(1)).is_ok(), !has_key);
        let (header, _) = seal(&mut lane, &mut [0; 1]).unwrap();
        assert_eq!(number_of(header), (1 << 32) + 32);
        assert_eq!(lane.budget_step(), Some(BudgetStep::Entered(Phase(1))));
    }
}

#[test]
fn a_lane_that_has_stopped_still_carries_probes() {
    let budget = Budget { soft: 12, hard: 16 };
    let mut lane = lane_of(PhaseBits::PROTOCOL, budget, Some(secret(1)));
    assert_eq!(budget.data_limit(), 14);
    let cheap = |lane: &mut TxLane<AnyAead>, class| lane.number(1, class).is_ok();
    for _ in 0..7 {
        assert!(cheap(&mut lane, Class::Data));
    }
    assert!(!cheap(&mut lane, Class::Data));
    assert_eq!(lane.budget_step(), Some(BudgetStep::Spent));
    assert!(cheap(&mut lane, Class::Probe), "this much is kept for them");
    assert!(!cheap(&mut lane, Class::Probe) && !cheap(&mut lane, Class::Data));
    assert_eq!(lane.budget_step(), None);
    lane.allow_phase(Phase(1));
    assert!(cheap(&mut lane, Class::Probe) && cheap(&mut lane, Class::Data));
    assert_eq!(lane.phase(), Phase(1));
}

#[test]
fn a_frame_that_fits_no_budget_uses_up_no_phase() {
    let budget = Budget { soft: 4, hard: 4 };
    let mut lane = lane_of(PhaseBits::PROTOCOL, budget, Some(secret(1)));
    lane.allow_phase(Phase(9));
    assert!(seal(&mut lane, &mut [0; 100]).is_err());
    assert_eq!(lane.budget_step(), Some(BudgetStep::Spent));
    assert_eq!(lane.phase(), Phase(0));
    assert!(seal(&mut lane, &mut [0; 1]).is_ok());
    assert_eq!(lane.phase(), Phase(1), "the stop of phase 0 is final");
}

#[test]
fn keys_are_staged_in_turn_and_once() {
    let budget = Budget { soft: 2, hard: 2 };
    let mut lane = lane_of(PhaseBits::PROTOCOL, budget, Some(secret(1)));
    let refused = |phase| Err(StageRefused::OutOfTurn(Phase(phase)));
    for phase in [0, 1, 2, 3] {
        assert_eq!(lane.stage(&stage(phase)), refused(phase));
    }
    lane.allow_phase(Phase(1));
    for _ in 0..2 {
        assert!(seal(&mut lane, &mut [0; 1]).is_ok());
    }
    for phase in [0, 1, 3] {
        assert_eq!(lane.stage(&stage(phase)), refused(phase));
    }
    let foreign = PhaseSpec {
        spi: Spi::new(8).unwrap(),
        ..stage(2)
    };
    assert_eq!(lane.stage(&foreign), Err(StageRefused::NoLane(foreign.spi)));
    assert_eq!(lane.stage(&stage(2)), Ok(()));
    assert_eq!(lane.stage(&stage(2)), refused(2));
}

#[test]
fn numbers_taken_before_the_jump_seal_with_their_own_key() {
    let budget = Budget { soft: 2, hard: 2 };
    let mut lane = lane_of(PhaseBits::PROTOCOL, budget, Some(secret(1)));
    lane.allow_phase(Phase(1));
    let numbers = [1, 1].map(|len| lane.number(len, Class::Data).unwrap());
    assert_eq!(lane.phase(), Phase(1));
    for (number, phase) in numbers.into_iter().zip([0, 1]) {
        let header = number.header();
        let tag = lane.seal(number, &header, &mut [0x77]).unwrap();
        let key = PhaseKey::<AnyAead>::new(Phase(phase.into()), &secret(phase));
        let nonce = Nonce::new(&key.iv, number_of(header));
        let expected = AnyAead::seal(&key.key, nonce, &header, &mut [0x77]);
        assert_eq!(tag, expected, "phase {phase}");
    }
}

#[test]
fn numbers_of_a_phase_run_out_too() {
    let bits = PhaseBits::new(PhaseBits::MIN).unwrap();
    let mut lane = lane_of(bits, UNBOUNDED, Some(secret(1)));
    let end = bits.end_of(Phase(0)).unwrap();
    for n in 0..end {
        assert_eq!(number_of(lane.number(1, Class::Probe).unwrap().header()), n);
    }
    assert!(lane.number(1, Class::Probe).is_err());
    lane.allow_phase(Phase(1));
    let (header, _) = seal(&mut lane, &mut [0; 1]).unwrap();
    assert_eq!(number_of(header), end, "no number is skipped");
}

#[test]
fn the_last_phase_has_no_next() {
    let bits = PhaseBits::PROTOCOL;
    let mut lane = lane_of(bits, Budget { soft: 2, hard: 2 }, None);
    let last = Phase(u32::try_from(PACKET_NUMBERS >> 32).unwrap() - 1);
    lane.current.phase = last;
    lane.next_packet_number = bits.entry(last, LAP - 1);
    lane.allow_phase(Phase(u32::MAX));
    assert_eq!(lane.stage(&stage(last.0 + 1)), Ok(()), "nobody enters it");
    assert!(seal(&mut lane, &mut [0; 1]).is_ok());
    assert!(seal(&mut lane, &mut [0; 1]).is_err());
    assert_eq!(lane.budget_step(), Some(BudgetStep::Spent));
    assert_eq!(lane.phase(), last);
}

#[test]
fn plaintext_length_has_limits() {
    let mut lane = tx_lane(UNBOUNDED);
    let mut payload = vec![0; MAX_PLAINTEXT_LEN + 1];
    for len in [0, MAX_PLAINTEXT_LEN + 1] {
        let refused = seal(&mut lane, &mut payload[..len]).err();
        assert_eq!(refused, Some(SealRefused::BadLength), "{len}");
    }
    assert_eq!(lane.next_packet_number(), 0);
    let (header, _) = seal(&mut lane, &mut payload[..MAX_PLAINTEXT_LEN]).unwrap();
    assert_eq!(header[2..4], [0xff, 0xff]);
}
