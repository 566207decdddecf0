//! Encryption of the datagrams between announcers: ChaCha20-Poly1305 with shared keys.
//!
//! A datagram is `format (1) | cluster tag (8) | nonce (12) | ciphertext and tag`. Format and
//! cluster tag are authenticated. The plaintext begins with a [`Stamp`], by which the receiver knows
//! a datagram that is sent again. The first key encrypts, every key decrypts, so keys rotate by
//! adding, reordering and removing lines. Without keys datagrams are in the clear, and only such
//! ones are accepted.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest as _, Sha256};

use super::replay::Stamp;

const CLEAR: u8 = 0;
const SEALED: u8 = 1;
const TAG: usize = 8;
const HEADER: usize = 1 + TAG;
const KEY: usize = 32;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("cannot read {path}: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error("{path} line {line}: not 32 bytes in base64")]
    BadKey { path: String, line: usize },
    #[error("{path} has no key")]
    NoKey { path: String },
}

/// Why a datagram is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("too short")]
    Short,
    #[error("of another cluster")]
    OtherCluster,
    #[error("in the clear, although there are keys")]
    Clear,
    #[error("sealed, although there are no keys, or of an unknown format")]
    Format,
    #[error("not sealed by any of the keys")]
    Key,
    #[error("sent before, or by an earlier run of its sender")]
    Replayed,
}

/// Seals and opens datagrams of one cluster.
pub struct Seal {
    tag: [u8; TAG],
    keys: Vec<LessSafeKey>,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seal({} keys)", self.keys.len())
    }
}

impl Seal {
    /// In the clear.
    pub fn plaintext(cluster: &str) -> Self {
        let hash = Sha256::digest(cluster.as_bytes());
        let mut tag = [0; TAG];
        tag.copy_from_slice(&hash[..TAG]);
        Self {
            tag,
            keys: Vec::new(),
        }
    }

    /// With the keys of a file: one of 32 bytes in base64 per line; empty lines and lines that
    /// begin with `#` do not count.
    pub fn from_file(cluster: &str, path: &Path) -> Result<Self, KeyFileError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| KeyFileError::Read {
            path: shown.clone(),
            source,
        })?;
        let mut seal = Self::plaintext(cluster);
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = parse_key(line).ok_or_else(|| KeyFileError::BadKey {
                path: shown.clone(),
                line: index + 1,
            })?;
            seal.keys.push(key);
        }
        if seal.keys.is_empty() {
            return Err(KeyFileError::NoKey { path: shown });
        }
        Ok(seal)
    }

    /// Whether datagrams are encrypted.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Seals a datagram with the first key. In the clear it carries no stamp: whoever could send it
    /// again could as well make one up.
    pub fn seal(&self, stamp: Stamp, plain: &[u8]) -> Vec<u8> {
        let length = HEADER + NONCE_LEN + Stamp::LENGTH + plain.len() + 16;
        let mut datagram = Vec::with_capacity(length);
        datagram.push(if self.has_keys() { SEALED } else { CLEAR });
        datagram.extend(self.tag);
        let Some(key) = self.keys.first() else {
            datagram.extend(plain);
            return datagram;
        };
        let nonce: [u8; NONCE_LEN] = rand::random();
        let header = Aad::from(datagram.clone());
        datagram.extend(nonce);
        let mut body = stamp.to_bytes().to_vec();
        body.extend(plain);
        let sealed =
            key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), header, &mut body);
        sealed.expect("a datagram is far below the length limit of the cipher");
        datagram.extend(body);
        datagram
    }

    /// Opens a datagram with whichever key fits. The stamp is there if it was sealed.
    pub fn open(&self, datagram: &[u8]) -> Result<(Option<Stamp>, Vec<u8>), OpenError> {
        let (header, rest) = datagram.split_at_checked(HEADER).ok_or(OpenError::Short)?;
        if header[1..] != self.tag {
            return Err(OpenError::OtherCluster);
        }
        match (header[0], self.has_keys()) {
            (CLEAR, false) => return Ok((None, rest.to_vec())),
            (CLEAR, true) => return Err(OpenError::Clear),
            (SEALED, true) => {}
            (_, _) => return Err(OpenError::Format),
        }
        let (nonce, body) = rest.split_at_checked(NONCE_LEN).ok_or(OpenError::Short)?;
        for key in &self.keys {
            let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Short)?;
            let mut buffer = body.to_vec();
            if let Ok(plain) = key.open_in_place(nonce, Aad::from(header), &mut buffer) {
                let (stamp, plain) = Stamp::split(plain).ok_or(OpenError::Short)?;
                return Ok((Some(stamp), plain.to_vec()));
            }
        }
        Err(OpenError::Key)
    }
}

fn parse_key(line: &str) -> Option<LessSafeKey> {
    let bytes = STANDARD
        .decode(line)
        .ok()
        .filter(|bytes| bytes.len() == KEY)?;
    let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).ok()?;
    Some(LessSafeKey::new(key))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn with_keys(cluster: &str, keys: &[u8]) -> Seal {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        writeln!(file, "# keys\n").expect("writes");
        for key in keys {
            writeln!(file, "{}", STANDARD.encode([*key; KEY])).expect("writes");
        }
        Seal::from_file(cluster, file.path()).expect("loads")
    }

    const STAMP: Stamp = Stamp {
        sender: 1,
        epoch: 2,
        number: 3,
    };

    #[test]
    fn what_was_sealed_is_opened_by_whoever_has_the_key_anywhere() {
        let old = with_keys("east", &[1]);
        let rotating = with_keys("east", &[2, 1]);
        let sealed = old.seal(STAMP, b"hello");
        assert_eq!(rotating.open(&sealed), Ok((Some(STAMP), b"hello".to_vec())));
        assert_eq!(
            old.open(&rotating.seal(STAMP, b"hello")),
            Err(OpenError::Key)
        );
        assert!(!sealed.windows(5).any(|window| window == b"hello"));
        assert_ne!(
            sealed,
            old.seal(STAMP, b"hello"),
            "the nonce differs each time"
        );
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let seal = with_keys("east", &[1]);
        let sealed = seal.seal(STAMP, b"hello");
        for index in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[index] ^= 1;
            assert!(seal.open(&bad).is_err(), "byte {index}");
            assert!(seal.open(&sealed[..index]).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn clusters_and_forms_do_not_mix() {
        let keyed = with_keys("east", &[1]);
        let clear = Seal::plaintext("east");
        let opened = clear.open(&clear.seal(STAMP, b"hello"));
        assert_eq!(opened, Ok((None, b"hello".to_vec())));
        assert_eq!(
            keyed.open(&clear.seal(STAMP, b"hello")),
            Err(OpenError::Clear)
        );
        assert_eq!(
            clear.open(&keyed.seal(STAMP, b"hello")),
            Err(OpenError::Format)
        );
        let west = with_keys("west", &[1]);
        assert_eq!(
            west.open(&keyed.seal(STAMP, b"hello")),
            Err(OpenError::OtherCluster)
        );
    }

    #[test]
    fn a_bad_key_file_is_refused_with_its_line() {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        let load = |path: &Path| {
            Seal::from_file("east", path)
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        let empty = load(file.path()).expect_err("refused");
        assert!(empty.ends_with("has no key"), "{empty}");
        writeln!(file, "{}\nc2hvcnQ=", STANDARD.encode([1; KEY])).expect("writes");
        let short = load(file.path()).expect_err("refused");
        assert!(short.ends_with("line 2: not 32 bytes in base64"), "{short}");
        assert!(load(Path::new("/nonexistent/keys")).is_err());
    }
}
