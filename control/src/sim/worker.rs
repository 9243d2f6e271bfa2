//! A simulated worker: the real tables, lanes, windows and pipelines of the
//! data plane with a real AEAD, and real frames. What is not there is the
//! thread, the NIC and the tap: commands are drained, and frames come, when the
//! simulation says so.

use std::collections::{BTreeMap, VecDeque};

use super::ledger::{KeyName, Serial, name_of};
use super::room::{Room, TheFrame};
use crate::address::Network;
use tipsec_dataplane::aead::ring::Ring;
use tipsec_dataplane::burst::Burst;
use tipsec_dataplane::command::{Command, CommandSeq, Event};
use tipsec_dataplane::counters::{RxDrop, TxDrop, WorkerCounters};
use tipsec_dataplane::frame::DataHeader;
use tipsec_dataplane::ids::{LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::Encapsulation;
use tipsec_dataplane::payload::{Payload, Probe, ProbeOp};
use tipsec_dataplane::phase::{Phase, PhaseBits};
use tipsec_dataplane::rx::{Opened, open_burst};
use tipsec_dataplane::sa::{RxLane, TxLane};
use tipsec_dataplane::table::{RxTable, TxTable};
use tipsec_dataplane::tx::{Plain, Sealed, seal_burst};
use tipsec_dataplane::window::Block;
use tipsec_xdp::wire::TAG_LEN;

pub(super) const ETHERTYPE: u16 = 0x88b5;
/// Bytes of the outer header.
const OUTER_LEN: usize = 14;
/// Bytes of a payload behind the payload byte: who sealed it, for whom, and
/// which it is.
const LABEL_LEN: usize = 16;

/// What a data frame of the simulation carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Label {
    pub(super) sender: NodeId,
    pub(super) receiver: NodeId,
    pub(super) serial: Serial,
}

impl Label {
    /// The plaintext: lengths differ, so that budgets and paddings do.
    fn encode(self) -> Vec<u8> {
        let mut plaintext = vec![Payload::Message.encode()];
        plaintext.extend(self.sender.value().to_be_bytes());
        plaintext.extend(self.receiver.value().to_be_bytes());
        plaintext.extend(self.serial.to_be_bytes());
        let filler = usize::try_from(self.serial % 48).unwrap_or(0);
        plaintext.resize(1 + LABEL_LEN + filler, 0xfe);
        plaintext
    }

    fn decode(plaintext: &[u8]) -> Option<Self> {
        let (sender, rest) = plaintext.get(1..)?.split_first_chunk()?;
        let (receiver, rest) = rest.split_first_chunk()?;
        Some(Self {
            sender: NodeId::new(u32::from_be_bytes(*sender))?,
            receiver: NodeId::new(u32::from_be_bytes(*receiver))?,
            serial: u64::from_be_bytes(*rest.first_chunk()?),
        })
    }
}

/// A frame that a worker has sealed.
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    pub(super) key: KeyName,
    pub(super) number: u64,
}

/// What became of a received frame.
pub(super) enum Received {
    /// A payload, from the node that the SA names, on this lane of it.
    Data {
        from: NodeId,
        peer: PeerIndex,
        lane: LaneIndex,
        label: Option<Label>,
    },
    /// A probe; a question was answered.
    Probe {
        peer: PeerIndex,
        lane: LaneIndex,
        answer: Option<Outgoing>,
    },
    Refused(&'static str),
}

/// The keys of a sending lane, by phase.
struct PhaseNames {
    bits: PhaseBits,
    names: BTreeMap<Phase, KeyName>,
}

/// One worker.
pub(super) struct Worker {
    pub(super) network: Network,
    /// Whether its NIC is there.
    pub(super) alive: bool,
    encapsulation: Encapsulation,
    pub(super) rx: RxTable<Ring>,
    pub(super) tx: TxTable<Ring>,
    pub(super) counters: WorkerCounters,
    pub(super) commands: VecDeque<Command>,
    /// Whether it is going to wake up for them.
    pub(super) woken: bool,
    /// The keys that each peer's sending lane has.
    keys: BTreeMap<PeerIndex, PhaseNames>,
    room: Room,
    events: Vec<Event>,
}

impl Worker {
    pub(super) fn new(mac: MacAddr, network: Network, peers: u16, spis: u32) -> Self {
        Self {
            network,
            alive: true,
            encapsulation: Encapsulation::ethernet(mac, ETHERTYPE, None),
            rx: RxTable::new(usize::try_from(spis).unwrap_or(0)),
            tx: TxTable::new(peers.into()),
            counters: WorkerCounters::new(peers.into()),
            commands: VecDeque::new(),
            woken: false,
            keys: BTreeMap::new(),
            room: Room::new(),
            events: Vec::new(),
        }
    }

    /// What it has to say since the last time.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Does everything that it was told, in order; gives back what it sealed.
    pub(super) fn drain(&mut self) -> Vec<Outgoing> {
        let mut out = Vec::new();
        while let Some(command) = self.commands.pop_front() {
            out.extend(self.on_command(command));
        }
        out
    }

    fn on_command(&mut self, command: Command) -> Option<Outgoing> {
        match command {
            Command::InstallRx { seq, lane } => {
                let refused = self.rx.insert(RxLane::new(*lane)).is_err();
                self.answer(seq, refused);
            }
            Command::RemoveRx { seq, spi } => {
                let removed = self.rx.remove(spi);
                self.answer(seq, !removed);
            }
            Command::InstallTx { seq, lane } => {
                let (peer, bits) = (lane.peer, lane.phase_bits);
                let names = lane.secrets().map(name_of);
                let names = (0..).map(Phase).zip(names).collect();
                let refused = self.tx.install(TxLane::new(*lane)).is_err();
                if !refused {
                    self.keys.insert(peer, PhaseNames { bits, names });
                }
                self.answer(seq, refused);
            }
            Command::RemoveTx { seq, peer } => {
                self.tx.remove(peer);
                self.keys.remove(&peer);
                self.answer(seq, false);
            }
            Command::StageRx { seq, phase } => {
                let refused = self.rx.stage(&phase).is_err();
                self.answer(seq, refused);
            }
            Command::StageTx { seq, peer, phase } => {
                let refused = self.tx.stage(peer, &phase).is_err();
                if !refused && let Some(keys) = self.keys.get_mut(&peer) {
                    keys.names.insert(phase.phase, name_of(&phase.secret));
                }
                self.answer(seq, refused);
            }
            Command::AllowPhase { peer, spi, phase } => self.tx.allow_phase(peer, spi, phase),
            Command::SetPath { peer, path } => self.tx.set_path(peer, path),
            Command::AllowData { peer, allowed } => self.tx.allow_data(peer, allowed),
            Command::SendProbe { peer, probe } => return self.probe(peer, &probe),
            Command::SetMtu { .. } | Command::Stop => {}
        }
        None
    }

    fn answer(&mut self, seq: CommandSeq, refused: bool) {
        self.events.push(match refused {
            false => Event::Done { seq },
            true => Event::Refused { seq },
        });
    }

    fn probe(&mut self, peer: PeerIndex, probe: &Probe) -> Option<Outgoing> {
        let plaintext = probe.encode();
        self.seal(
            peer,
            &plaintext,
            Plain::probe(TheFrame, peer, plaintext.len()),
        )
    }

    /// Seals a payload, if the peer has a lane that may carry it.
    pub(super) fn send(&mut self, peer: PeerIndex, label: Label) -> Option<Outgoing> {
        let plaintext = label.encode();
        self.seal(
            peer,
            &plaintext,
            Plain::data(TheFrame, peer, plaintext.len()),
        )
    }

    fn seal(
        &mut self,
        peer: PeerIndex,
        plaintext: &[u8],
        plain: Plain<TheFrame>,
    ) -> Option<Outgoing> {
        if !self.alive || !self.room.write(plaintext) {
            self.counters.peer(peer).tx_drop(TxDrop::LinkLost, 1);
            return None;
        }
        let mut queue = Burst::new();
        queue.push(plain);
        let mut sealed: Burst<Sealed<TheFrame>> = Burst::new();
        let events = &mut self.events;
        seal_burst(
            &mut self.tx,
            &mut self.room,
            &mut queue,
            &mut sealed,
            &self.counters,
            |event| events.push(event),
        );
        sealed.first()?;
        let bytes = self.room.frame().to_vec();
        let number = header(&bytes)?.packet_number;
        let keys = self.keys.get(&peer)?;
        let key = *keys.names.get(&keys.bits.phase_of(number))?;
        Some(Outgoing { bytes, key, number })
    }

    /// Takes a frame from the wire.
    pub(super) fn receive(&mut self, frame: &[u8]) -> Received {
        if !self.room.receive(frame) {
            return Received::Refused("too long");
        }
        let before = self.drops();
        let mut received = Burst::new();
        received.push(TheFrame);
        let mut opened: Burst<Opened<TheFrame>> = Burst::new();
        let events = &mut self.events;
        open_burst(
            &mut self.rx,
            &self.encapsulation,
            &mut self.room,
            &mut received,
            &mut opened,
            &self.counters,
            |event| events.push(event),
        );
        match opened.pop() {
            Some(mut opened) => {
                let plaintext = opened.plaintext_mut(&mut self.room).to_vec();
                self.deliver(opened.spi(), &plaintext)
            }
            None => Received::Refused(self.reason(before)),
        }
    }

    /// The same with the defect that a number counts as seen before its frame
    /// has opened.
    pub(super) fn receive_unproven(&mut self, frame: &[u8]) -> Received {
        const WHY: &str = "replayed, or does not open";
        let mut frame = frame.to_vec();
        let lane = header(&frame).and_then(|header| {
            let block = Block::of(header.packet_number)?;
            Some((header, block, self.rx.lane_mut(header.spi)?))
        });
        let Some((header, (block, bit), lane)) = lane else {
            return Received::Refused("unknown SPI");
        };
        let after_outer = frame.get_mut(OUTER_LEN..).unwrap_or_default();
        let Some((aad, sealed)) = after_outer.split_first_chunk_mut() else {
            return Received::Refused("malformed");
        };
        let sealed = &mut sealed[..usize::from(header.length)];
        let fresh = lane.commit(block, bit) != 0;
        if !fresh || lane.open(aad, header.packet_number, sealed).is_err() {
            return Received::Refused(WHY);
        }
        if lane.first_open() {
            let (peer, spi) = (lane.peer(), header.spi);
            self.events.push(Event::FirstOpen { peer, spi });
        }
        if let Some(phase) = lane.phase_opened() {
            let (peer, spi) = (lane.peer(), header.spi);
            self.events.push(Event::PhaseOpened { peer, spi, phase });
        }
        let plaintext = sealed[..sealed.len() - TAG_LEN].to_vec();
        self.deliver(header.spi, &plaintext)
    }

    fn deliver(&mut self, spi: Spi, plaintext: &[u8]) -> Received {
        let Some(lane) = self.rx.lane(spi) else {
            return Received::Refused("no lane");
        };
        let (from, peer) = (lane.node(), lane.peer());
        let (lane, phase) = (lane.lane(), lane.shared().reported_phase());
        let payload = plaintext.first().copied().and_then(Payload::decode);
        if payload != Some(Payload::Probe) {
            let label = Label::decode(plaintext);
            return Received::Data {
                from,
                peer,
                lane,
                label,
            };
        }
        let answer = match Probe::decode(plaintext) {
            None => return Received::Refused("not a probe"),
            Some(probe) if probe.op == ProbeOp::Reply => {
                self.events.push(Event::ProbeReply { peer, spi, probe });
                None
            }
            Some(probe) => {
                let op = ProbeOp::Reply;
                self.probe(peer, &Probe { op, phase, ..probe })
            }
        };
        Received::Probe { peer, lane, answer }
    }

    fn drops(&self) -> [u64; 2] {
        [RxDrop::UnknownSpi, RxDrop::Malformed].map(|reason| self.counters.nobody.rx_drops(reason))
    }

    /// Why the last frame was refused, given the counts before.
    fn reason(&self, before: [u64; 2]) -> &'static str {
        match self.drops() {
            [unknown, _] if unknown > before[0] => "unknown SPI",
            [_, malformed] if malformed > before[1] => "malformed",
            _ => "replayed, or does not open",
        }
    }
}

fn header(frame: &[u8]) -> Option<DataHeader> {
    let (header, rest) = frame.get(OUTER_LEN..)?.split_first_chunk()?;
    DataHeader::decode(header, rest.len())
}

/// The SPI of a data frame.
pub(super) fn spi(frame: &[u8]) -> Option<Spi> {
    Some(header(frame)?.spi)
}
