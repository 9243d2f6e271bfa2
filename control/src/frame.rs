//! Control frames: the clear header that all share, the gate in it and the
//! HMAC behind it (docs/protocol.md, "Control frames").

use tipsec_dataplane::ids::{Epoch, MasterId, NodeId};
use tipsec_xdp::wire::{
    CLEAR_HEADER_LEN, CONTROL_MAC_LEN, HEADER_LEN, Kind, MAX_CONTROL_LENGTH, MESSAGE_BEACON,
    MESSAGE_HELLO, MESSAGE_M1, MESSAGE_M2, MESSAGE_M3, OFFSET_GATE,
};

use crate::derive::{ClusterKeys, MacKey};
use crate::wire::Reader;

/// What a control frame says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageType {
    /// "Start over with this incarnation", or "busy".
    Hello,
    /// Initiator's first message.
    M1,
    /// Responder's answer, with its offer.
    M2,
    /// Initiator's offer.
    M3,
    /// "I am here", to everybody.
    Beacon,
}

impl MessageType {
    /// Each of them.
    pub const ALL: [Self; 5] = [Self::Hello, Self::M1, Self::M2, Self::M3, Self::Beacon];

    fn encode(self) -> (Kind, u8) {
        match self {
            Self::Hello => (Kind::Handshake, MESSAGE_HELLO),
            Self::M1 => (Kind::Handshake, MESSAGE_M1),
            Self::M2 => (Kind::Handshake, MESSAGE_M2),
            Self::M3 => (Kind::Handshake, MESSAGE_M3),
            Self::Beacon => (Kind::Beacon, MESSAGE_BEACON),
        }
    }

    fn decode(first_byte: u8, message: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|candidate| {
            let (kind, code) = candidate.encode();
            kind.version_byte() == first_byte && code == message
        })
    }
}

/// The chain id of an exchange that builds on none.
pub const BARE: u64 = 0;

/// What all messages of an exchange repeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExchangeName {
    /// Random, drawn by the initiator.
    pub id: u64,
    /// The master key that protects it.
    pub master: MasterId,
    /// The chain that it builds on, or [`BARE`].
    pub chain: u64,
}

/// The clear header's fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClearHeader {
    /// What follows.
    pub message: MessageType,
    /// Who sends it.
    pub sender: NodeId,
    /// To whom; `None` in a beacon.
    pub receiver: Option<NodeId>,
    /// Random name of the exchange; a beacon's incarnation.
    pub exchange: u64,
    /// Epoch of the offer inside; 0 where there is none.
    pub epoch: Epoch,
    /// The master key that protects it.
    pub master: MasterId,
    /// The chain that it builds on, or [`BARE`]; a hello's says whether the
    /// responder holds it.
    pub chain: u64,
    /// Suites allowed (m1), or the one chosen (m2, m3); 0 elsewhere.
    pub suites: u16,
}

impl ClearHeader {
    /// The exchange that the frame is of.
    pub fn name(&self) -> ExchangeName {
        ExchangeName {
            id: self.exchange,
            master: self.master,
            chain: self.chain,
        }
    }
}

/// A control frame that has the right shape; nothing in it is proven yet.
pub struct ControlFrame<'a> {
    header: ClearHeader,
    clear: &'a [u8; CLEAR_HEADER_LEN],
    body: &'a [u8],
    signed: &'a [u8],
    code: &'a [u8],
}

impl<'a> ControlFrame<'a> {
    /// Reads a frame from its Tipsec header on; Ethernet padding behind it is
    /// ignored. `None` for whatever has not the shape of a control frame.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let clear: &[u8; CLEAR_HEADER_LEN] = bytes.first_chunk()?;
        let mut fields = Reader::new(clear);
        let first_byte = fields.u8()?;
        let flags = fields.u8()?;
        let length = fields.u16()?;
        let message = MessageType::decode(first_byte, fields.u8()?)?;
        let reserved: [u8; 3] = fields.array()?;
        let _gate = fields.u64()?;
        let sender = NodeId::new(fields.u32()?)?;
        let receiver = NodeId::new(fields.u32()?);
        let exchange = fields.u64()?;
        let epoch = Epoch(fields.u32()?);
        let master = MasterId(fields.u64()?);
        let chain = fields.u64()?;
        let suites = fields.u16()?;
        let tail: [u8; 2] = fields.array()?;
        let is_beacon = message == MessageType::Beacon;
        if flags != 0
            || reserved != [0; 3]
            || tail != [0; 2]
            || length > MAX_CONTROL_LENGTH
            || receiver.is_none() != is_beacon
        {
            return None;
        }
        let end = HEADER_LEN + usize::from(length);
        let frame = bytes.get(..end)?;
        let (signed, code) = frame.split_at_checked(end.checked_sub(CONTROL_MAC_LEN)?)?;
        let body = signed.get(CLEAR_HEADER_LEN..)?;
        let header = ClearHeader {
            message,
            sender,
            receiver,
            exchange,
            epoch,
            master,
            chain,
            suites,
        };
        Some(Self {
            header,
            clear,
            body,
            signed,
            code,
        })
    }

    /// The clear header's fields.
    pub fn header(&self) -> &ClearHeader {
        &self.header
    }

    /// The clear header as it travelled: the prologue of the Noise handshake.
    pub fn clear(&self) -> &'a [u8; CLEAR_HEADER_LEN] {
        self.clear
    }

    /// What is between the clear header and the HMAC.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The frame as it travelled, without padding.
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.signed, self.code].concat()
    }

    /// Whether a holder of the master key wrote this frame.
    pub fn verify(&self, keys: &ClusterKeys) -> bool {
        self.header.master == keys.id()
            && mac_key(self.header.message, keys).verify(self.signed, self.code)
    }
}

fn mac_key(message: MessageType, keys: &ClusterKeys) -> &MacKey {
    match message {
        MessageType::Beacon => keys.beacon(),
        _ => keys.gate(),
    }
}

/// The clear header of a frame whose body has `body_len` bytes, gate included.
///
/// # Panics
/// If the body is longer than a control frame carries: every caller's is of
/// fixed, smaller size.
pub fn encode_clear(
    header: &ClearHeader,
    body_len: usize,
    keys: &ClusterKeys,
) -> [u8; CLEAR_HEADER_LEN] {
    let length = CLEAR_HEADER_LEN - HEADER_LEN + body_len + CONTROL_MAC_LEN;
    assert!(
        length <= usize::from(MAX_CONTROL_LENGTH),
        "control frame of {length} bytes"
    );
    #[allow(clippy::cast_possible_truncation)]
    let length = length as u16;
    let (kind, message) = header.message.encode();
    let mut clear = [0; CLEAR_HEADER_LEN];
    clear[0] = kind.version_byte();
    clear[2..4].copy_from_slice(&length.to_be_bytes());
    clear[4] = message;
    clear[16..20].copy_from_slice(&header.sender.value().to_be_bytes());
    clear[20..24].copy_from_slice(&header.receiver.map_or(0, NodeId::value).to_be_bytes());
    clear[24..32].copy_from_slice(&header.exchange.to_be_bytes());
    clear[32..36].copy_from_slice(&header.epoch.0.to_be_bytes());
    clear[36..44].copy_from_slice(&header.master.0.to_be_bytes());
    clear[44..52].copy_from_slice(&header.chain.to_be_bytes());
    clear[52..54].copy_from_slice(&header.suites.to_be_bytes());
    let gate = tipsec_xdp::gate(&keys.xdp_gate(), &clear);
    clear[OFFSET_GATE..OFFSET_GATE + 8].copy_from_slice(&gate.to_be_bytes());
    clear
}

/// Puts a frame together from the clear header that [`encode_clear`] made and
/// the body that it announced.
pub fn encode(
    message: MessageType,
    clear: &[u8; CLEAR_HEADER_LEN],
    body: &[u8],
    keys: &ClusterKeys,
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(clear.len() + body.len() + CONTROL_MAC_LEN);
    frame.extend_from_slice(clear);
    frame.extend_from_slice(body);
    let code = mac_key(message, keys).sign(&frame);
    frame.extend_from_slice(&code);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> ClusterKeys {
        ClusterKeys::derive(&[1; 32], &"test".parse().unwrap())
    }

    fn sample(message: MessageType) -> (ClearHeader, Vec<u8>) {
        let header = ClearHeader {
            message,
            sender: NodeId::new(1).unwrap(),
            receiver: (message != MessageType::Beacon).then(|| NodeId::new(2).unwrap()),
            exchange: 3,
            epoch: Epoch(4),
            master: keys().id(),
            chain: 5,
            suites: 6,
        };
        let clear = encode_clear(&header, 5, &keys());
        (header, encode(message, &clear, b"hello", &keys()))
    }

    #[test]
    fn frames_round_trip() {
        for message in [MessageType::Hello, MessageType::M3, MessageType::Beacon] {
            let (header, mut bytes) = sample(message);
            bytes.extend_from_slice(&[0xEE; 9]); // Ethernet padding
            let frame = ControlFrame::decode(&bytes).unwrap();
            assert_eq!(frame.header(), &header);
            assert_eq!(frame.body(), b"hello");
            assert!(frame.verify(&keys()));
        }
    }

    #[test]
    fn no_bit_can_be_flipped() {
        for message in [MessageType::M1, MessageType::Beacon] {
            let (_, bytes) = sample(message);
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let accepted = ControlFrame::decode(&flipped).is_some_and(|f| f.verify(&keys()));
                assert!(!accepted, "bit {bit}");
            }
        }
    }

    #[test]
    fn no_length_but_its_own_is_accepted() {
        let (_, bytes) = sample(MessageType::M2);
        for len in 0..bytes.len() {
            assert!(ControlFrame::decode(&bytes[..len]).is_none(), "{len} bytes");
        }
    }

    #[test]
    fn the_driver_agrees() {
        let (header, bytes) = sample(MessageType::M1);
        let clear = bytes.first_chunk().unwrap();
        let gate = tipsec_xdp::gate(&keys().xdp_gate(), clear);
        assert_eq!(bytes[8..16], gate.to_be_bytes());
        assert_eq!(header.master, keys().id());
    }
}
