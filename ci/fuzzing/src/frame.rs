//! Target `frame`: the data header, the payload byte and probes, which every
//! worker reads of every frame. Imports `input`.

use tipsec_dataplane::frame::DataHeader;
use tipsec_dataplane::ids::Spi;
use tipsec_dataplane::payload::{Payload, Probe, ProbeOp};
use tipsec_dataplane::phase::Phase;
use tipsec_xdp::wire::{HEADER_LEN, MIN_DATA_LENGTH, TAG_LEN, VERSION};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "frame",
    run,
    seeds,
};

/// A header and what is behind it, a header's length field included.
fn run(data: &[u8]) {
    if let Some((header, rest)) = data.split_first_chunk::<HEADER_LEN>() {
        read_header(header, rest.len());
    }
    if let Some(&first) = data.first()
        && let Some(payload) = Payload::decode(first)
    {
        assert_eq!(payload.encode(), first, "{payload:?}");
    }
    if let Some(probe) = Probe::decode(data) {
        assert_eq!(probe.encode()[..], *data);
        assert_eq!(Payload::decode(data[0]), Some(Payload::Probe));
    }
}

fn read_header(bytes: &[u8; HEADER_LEN], available: usize) {
    let Some(header) = DataHeader::decode(bytes, available) else {
        return;
    };
    assert_eq!(header.encode(), *bytes);
    assert_eq!(bytes[0], VERSION << 4, "version and kind");
    assert!(usize::from(header.length) <= available);
    assert!(header.length >= MIN_DATA_LENGTH, "one byte and the tag");
    assert_ne!(header.spi.value(), 0);
    // One byte less behind it, and it is refused when they are all needed.
    let shorter = DataHeader::decode(bytes, usize::from(header.length) - 1);
    assert_eq!(shorter, None);
}

fn seeds() -> Vec<Vec<u8>> {
    let header = |length: u16| {
        let header = DataHeader {
            spi: Spi::new(0x0001_0005).unwrap(),
            packet_number: 0x0102_0304_0506_0708,
            length,
        };
        let mut frame = header.encode().to_vec();
        frame.resize(HEADER_LEN + usize::from(length), 0xaa);
        frame
    };
    let probe = |op| {
        let (id, phase) = (0x0807_0605_0403_0201, Phase(3));
        Probe { op, id, phase }.encode().to_vec()
    };
    let shortest = u16::try_from(TAG_LEN).unwrap() + 1;
    // A frame that is cut, and each byte of the header changed a little.
    let mut cut = header(64);
    cut.pop();
    let spoilt = (0..HEADER_LEN).map(|at| {
        let mut frame = header(64);
        frame[at] ^= 1;
        frame
    });
    let mut seeds: Vec<Vec<u8>> = spoilt.collect();
    seeds.extend([
        header(0),
        header(shortest - 1),
        header(shortest),
        header(64),
        cut,
        probe(ProbeOp::Request),
        probe(ProbeOp::Reply),
        vec![0x30],
    ]);
    seeds
}
