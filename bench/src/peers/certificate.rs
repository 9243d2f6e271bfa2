//! Throw-away certificates, signed by themselves and known by fingerprint, made
//! by the `openssl` command. Imports `process`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::process;

/// Days that one is good for.
const DAYS: &str = "2";

/// A certificate and its key, both files of their owner alone.
pub(super) struct Certificate {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// SHA-256, 32 pairs of hex digits with colons between them.
    pub(super) fingerprint: String,
}

impl Certificate {
    /// Makes one in `home`, a directory of mode 0700. The key goes from
    /// `openssl` to its file and nowhere else.
    ///
    /// # Errors
    /// [`Error::Command`], [`Error::Unreadable`].
    pub(super) fn make(home: &Path, name: &str) -> Result<Self> {
        let (certificate, key) = (home.join("certificate.pem"), home.join("key.pem"));
        let mut request = Command::new("openssl");
        request.args(["req", "-x509", "-noenc", "-batch", "-days", DAYS]);
        request.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        request.args(["-subj", &format!("/CN={name}")]);
        request.arg("-keyout").arg(&key);
        request.arg("-out").arg(&certificate);
        process::run(&mut request)?;
        let mut print = Command::new("openssl");
        print.args(["x509", "-noout", "-sha256", "-fingerprint", "-in"]);
        let said = process::run(print.arg(&certificate))?;
        Ok(Self {
            certificate,
            key,
            fingerprint: parse_fingerprint(&said)?,
        })
    }
}

/// Reads `sha256 Fingerprint=AB:CD:…`.
///
/// # Errors
/// [`Error::Unreadable`].
fn parse_fingerprint(said: &str) -> Result<String> {
    let value = said.trim().split_once('=').map(|(_, value)| value);
    let is_byte = |text: &str| text.len() == 2 && u8::from_str_radix(text, 16).is_ok();
    value
        .filter(|value| value.split(':').count() == 32 && value.split(':').all(is_byte))
        .map(str::to_owned)
        .ok_or_else(|| Error::Unreadable {
            what: "openssl x509 -fingerprint".into(),
            detail: format!("no SHA-256 fingerprint in {said:?}"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_fingerprint() {
        let value = vec!["A5"; 32].join(":");
        let said = format!("sha256 Fingerprint={value}\n");
        assert_eq!(parse_fingerprint(&said).unwrap(), value);
        assert!(parse_fingerprint("sha256 Fingerprint=A5:A5").is_err());
        assert!(parse_fingerprint(&said.replace("A5", "G5")).is_err());
        assert!(parse_fingerprint("").is_err());
    }
}
