//! The evictions on disk: a file beside the keys, replaced whole. It holds no
//! secret, but a node that forgot it would take back who was evicted; so a damaged
//! one stops the start like a damaged keyring.

use tipsec_dataplane::ids::{MasterId, NodeId};
use zeroize::Zeroizing;

use super::file::checksum;
use super::plan::Step;
use super::{Keyring, KeyringError, read};
use crate::evictions::{EVICTED_MAX, Evictions};

/// Its name.
const FILE: &str = "evicted";
/// First line.
const HEADER: &str = "tipsec evictions 1";
/// A line: 16 digits, a space, a node id of up to 10 digits, the end.
const LINE_MAX: usize = 28;
/// Longest file in bytes: so many under three keys, header and checksum.
pub(super) const EVICTED_FILE_MAX: usize = 3 * EVICTED_MAX * LINE_MAX + 256;

impl Keyring {
    /// Who was evicted; nobody if there is no file.
    ///
    /// # Errors
    /// [`KeyringError`]; a damaged file is never taken for an empty one.
    pub fn load_evictions(&self) -> Result<Evictions, KeyringError> {
        let path = self.directory.join(FILE);
        match read(&path, EVICTED_FILE_MAX)? {
            None => Ok(Evictions::default()),
            Some(text) => {
                parse(&text).map_err(|what| KeyringError::DamagedEvictions { path, what })
            }
        }
    }

    /// Stores them: after it returns, a crash leaves the new ones; before, the old
    /// ones or the new ones.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn store_evictions(&self, evictions: &Evictions) -> Result<(), KeyringError> {
        let steps = [
            Step::Write(render(evictions)),
            Step::Rename(FILE),
            Step::SyncDirectory,
        ];
        steps.iter().try_for_each(|step| self.take(step))
    }
}

/// The file of these evictions, checksum included.
pub fn render(evictions: &Evictions) -> Zeroizing<String> {
    let mut text = format!("{HEADER}\n");
    for (master, node) in evictions.iter() {
        text.push_str(&format!("{master} {node}\n"));
    }
    let sum = checksum(text.as_bytes());
    text.push_str(&format!("sha256 {sum}\n"));
    Zeroizing::new(text)
}

/// The evictions of a file's text.
///
/// # Errors
/// What does not fit, in a few words.
pub fn parse(text: &[u8]) -> Result<Evictions, String> {
    if text.len() > EVICTED_FILE_MAX {
        return Err(format!("it is longer than {EVICTED_FILE_MAX} bytes"));
    }
    let text = std::str::from_utf8(text).map_err(|_| "it is not text")?;
    let (body, sum) = text
        .split_once("sha256 ")
        .ok_or("it ends before its checksum")?;
    if sum.strip_suffix('\n') != Some(checksum(body.as_bytes()).as_str()) {
        return Err("its checksum does not match".to_owned());
    }
    let mut lines = body.lines();
    if lines.next() != Some(HEADER) {
        return Err("it is not a list of evictions of this version".to_owned());
    }
    let mut evictions = Evictions::default();
    for line in lines {
        let (master, node) = line.split_once(' ').ok_or("a line names no node")?;
        let master = u64::from_str_radix(master, 16).map_err(|_| "a line names no key")?;
        let node = node.parse().ok().and_then(NodeId::new);
        evictions.add(MasterId(master), node.ok_or("a line names no node")?);
    }
    // Nothing twice, nothing shorter than it is written: so what is read can be
    // written again.
    if *render(&evictions) != *text {
        return Err("it is not as it would be written".to_owned());
    }
    Ok(evictions)
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::assert_damage_is_noticed;
    use super::*;
    use crate::masters::Masters;

    fn some() -> Evictions {
        let mut evictions = Evictions::default();
        let masters = Masters::new(MasterId(1), Some(MasterId(u64::MAX)), None);
        for id in [4, 4_294_967_295] {
            let node = NodeId::new(id).unwrap();
            evictions.evict(node, &masters).unwrap();
        }
        evictions
    }

    #[test]
    fn what_is_written_is_read() {
        for evictions in [some(), Evictions::default()] {
            assert_eq!(parse(render(&evictions).as_bytes()), Ok(evictions));
        }
    }

    #[test]
    fn the_longest_list_fits() {
        let mut all = Evictions::default();
        let keys = [1, 2, 3].map(|n| MasterId(u64::MAX - n));
        let masters = Masters::new(keys[0], Some(keys[1]), Some(keys[2]));
        for n in 0..u32::try_from(EVICTED_MAX).unwrap() {
            let node = NodeId::new(u32::MAX - n).unwrap();
            all.evict(node, &masters).unwrap();
        }
        assert_eq!(parse(render(&all).as_bytes()), Ok(all));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        assert_damage_is_noticed(render(&some()).as_bytes(), |text| parse(text).is_err());
    }

    #[test]
    fn nonsense_with_a_checksum_is_refused() {
        for (body, part) in [
            ("tipsec evictions 2\n", "not a list"),
            ("tipsec evictions 1\n12\n", "no node"),
            ("tipsec evictions 1\n12 0\n", "no node"),
            ("tipsec evictions 1\nxy 7\n", "no key"),
            ("tipsec evictions 1\n12 7\n", "not as it"),
            (
                "tipsec evictions 1\n0000000000000012 7\n0000000000000012 7\n",
                "not as it",
            ),
        ] {
            let text = format!("{body}sha256 {}\n", checksum(body.as_bytes()));
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
