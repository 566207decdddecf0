//! The last applied assignments on this node's disk, so that an announcer that starts while
//! ipam-service is away announces from there.
//!
//! One file: a magic line, a protobuf message, and SHA-256 over both. It is replaced as a whole
//! (temporary file, fsync, rename, fsync of the directory), so a crash leaves the old or the new
//! one; whatever is neither is recognised and ignored.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use pharos_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::book::{Contents, Member};

const FILE: &str = "assignments.bin";
const MAGIC: &[u8] = b"pharos assignments 1\n";
const CHECKSUM: usize = 32;
/// The kernel's name of this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Whose assignments they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cluster: String,
    pub node: String,
    pub boot_id: String,
}

/// What was found on the disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub contents: Contents,
    /// Whether they were kept since this host started: forwarding rules are then in place, and
    /// what is attracted can be served.
    pub same_boot: bool,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("cannot read: {0}")]
    Read(#[source] io::Error),
    #[error("not complete, or not of this format")]
    Torn,
    #[error("checksum does not match")]
    Checksum,
    #[error("cannot decode: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("is of node {node:?} of cluster {cluster:?}")]
    Foreign { cluster: String, node: String },
}

/// The message in the file. Its numbers are a format on disk: never reuse one.
#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(string, tag = "1")]
    cluster: String,
    #[prost(string, tag = "2")]
    node: String,
    #[prost(string, tag = "3")]
    boot_id: String,
    #[prost(string, tag = "4")]
    store_id: String,
    /// But for those that are fenced: a build that knows nothing of that would answer for them as for others.
    /// Builds that knew of it before field 8 was there had them here, too.
    #[prost(message, repeated, tag = "5")]
    assignments: Vec<v1::Assignment>,
    #[prost(message, repeated, tag = "6")]
    node_sets: Vec<v1::NodeSet>,
    #[prost(message, optional, tag = "7")]
    members: Option<v1::Members>,
    #[prost(message, repeated, tag = "8")]
    fenced: Vec<v1::Assignment>,
    #[prost(message, optional, tag = "9")]
    bgp_peers: Option<v1::BgpPeers>,
}

/// The file of one node.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
    identity: Identity,
}

impl Cache {
    /// In this directory, which is created if it is missing.
    pub fn open(directory: &Path, identity: Identity) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            identity,
        })
    }

    /// Where the file is.
    pub fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// What was kept; `None` if there is no file.
    pub fn load(&self) -> Result<Option<Kept>, CacheError> {
        let bytes = match std::fs::read(self.path()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CacheError::Read(error)),
        };
        let record = decode(&bytes)?;
        if (&record.cluster, &record.node) != (&self.identity.cluster, &self.identity.node) {
            return Err(CacheError::Foreign {
                cluster: record.cluster,
                node: record.node,
            });
        }
        let members = record.members.unwrap_or_default().members;
        let mut assignments = record.assignments;
        assignments.extend(record.fenced);
        Ok(Some(Kept {
            same_boot: record.boot_id == self.identity.boot_id,
            contents: Contents {
                store_id: record.store_id,
                assignments,
                node_sets: record.node_sets,
                members: members
                    .into_iter()
                    .map(|member| Member {
                        node: member.node,
                        endpoint: member.endpoint,
                    })
                    .collect(),
                bgp_peers: record.bgp_peers.unwrap_or_default(),
            },
        }))
    }

    /// Keeps this instead of what was kept. Blocks for as long as the disk takes.
    pub fn save(&self, contents: Contents) -> io::Result<()> {
        let members = contents
            .members
            .into_iter()
            .map(|member| v1::members::Member {
                node: member.node,
                endpoint: member.endpoint,
            });
        let assignments = contents.assignments.into_iter();
        let (fenced, assignments) = assignments.partition(|one| one.fenced.is_some());
        let record = Record {
            cluster: self.identity.cluster.clone(),
            node: self.identity.node.clone(),
            boot_id: self.identity.boot_id.clone(),
            store_id: contents.store_id,
            assignments,
            fenced,
            node_sets: contents.node_sets,
            members: Some(v1::Members {
                members: members.collect(),
            }),
            bgp_peers: Some(contents.bgp_peers),
        };
        replace_file(&self.directory, FILE, &encode(&record))
    }
}

/// Writes a file of a directory so that there is the old one or the new one, whatever happens.
/// Blocks for as long as the disk takes.
pub fn replace_file(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.tmp"));
    let written = write_whole(&temporary, bytes);
    if written.is_err() {
        // Half a file helps nobody, and takes room on a disk that may be full. The error that
        // counts is the first.
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    std::fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The name of this boot. If the kernel does not tell, one that equals no other.
pub fn boot_id() -> String {
    match std::fs::read_to_string(BOOT_ID) {
        Ok(text) => text.trim().to_owned(),
        Err(error) => {
            tracing::warn!(%error, "cannot read the boot id: assuming another boot");
            // Differs from one process to the next.
            format!("unknown-{}", rand::random::<u64>())
        }
    }
}

fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(record.encode_to_vec());
    let checksum = Sha256::digest(&bytes);
    bytes.extend(checksum);
    bytes
}

fn decode(bytes: &[u8]) -> Result<Record, CacheError> {
    let end = bytes.len().checked_sub(CHECKSUM).ok_or(CacheError::Torn)?;
    let (content, checksum) = bytes.split_at(end);
    let message = content.strip_prefix(MAGIC).ok_or(CacheError::Torn)?;
    if <[u8; CHECKSUM]>::from(Sha256::digest(content)) != *checksum {
        return Err(CacheError::Checksum);
    }
    Ok(Record::decode(message)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(boot_id: &str) -> Identity {
        Identity {
            cluster: "east".to_owned(),
            node: "a".to_owned(),
            boot_id: boot_id.to_owned(),
        }
    }

    fn contents() -> Contents {
        Contents {
            store_id: "store".to_owned(),
            assignments: vec![v1::Assignment {
                address: "192.0.2.1".to_owned(),
                ..v1::Assignment::default()
            }],
            node_sets: vec![v1::NodeSet {
                id: 1,
                nodes: vec!["a".to_owned()],
            }],
            members: vec![Member {
                node: "b".to_owned(),
                endpoint: "192.0.2.9:7946".to_owned(),
            }],
            bgp_peers: v1::BgpPeers {
                peers: vec![v1::bgp_peers::Peer {
                    peer: None,
                    nodes: 1,
                }],
                ..v1::BgpPeers::default()
            },
        }
    }

    #[test]
    fn what_was_kept_is_found_again_and_knows_its_boot() {
        let directory = tempfile::tempdir().expect("directory");
        let cache = Cache::open(directory.path(), identity("one")).expect("opens");
        assert_eq!(cache.load().expect("reads"), None);
        cache.save(Contents::default()).expect("saves");
        cache.save(contents()).expect("saves");
        let kept = cache.load().expect("reads").expect("is there");
        assert_eq!((kept.contents, kept.same_boot), (contents(), true));
        let later = Cache::open(directory.path(), identity("two")).expect("opens");
        assert!(!later.load().expect("reads").expect("is there").same_boot);
    }

    /// The message as builds know it that know nothing of fenced addresses.
    #[derive(Clone, PartialEq, prost::Message)]
    struct EarlierRecord {
        #[prost(string, tag = "1")]
        cluster: String,
        #[prost(message, repeated, tag = "5")]
        assignments: Vec<v1::Assignment>,
    }

    fn fenced() -> v1::Assignment {
        v1::Assignment {
            address: "192.0.2.2".to_owned(),
            fenced: Some(v1::assignment::Fenced::default()),
            ..v1::Assignment::default()
        }
    }

    #[test]
    fn a_build_that_knows_nothing_of_fencing_finds_no_fenced_address_in_the_file() {
        let directory = tempfile::tempdir().expect("directory");
        let cache = Cache::open(directory.path(), identity("one")).expect("opens");
        let mut both = contents();
        both.assignments.push(fenced());
        cache.save(both.clone()).expect("saves");
        let kept = cache.load().expect("reads").expect("is there");
        assert_eq!(kept.contents, both);
        let bytes = std::fs::read(cache.path()).expect("is there");
        let message = &bytes[MAGIC.len()..bytes.len() - CHECKSUM];
        let earlier = EarlierRecord::decode(message).expect("reads");
        assert_eq!(earlier.cluster, "east");
        assert_eq!(earlier.assignments, contents().assignments);
    }

    #[test]
    fn fenced_addresses_among_the_others_are_read_as_what_they_are() {
        let directory = tempfile::tempdir().expect("directory");
        let cache = Cache::open(directory.path(), identity("one")).expect("opens");
        let record = Record {
            cluster: "east".to_owned(),
            node: "a".to_owned(),
            assignments: vec![fenced()],
            ..Record::default()
        };
        std::fs::write(cache.path(), encode(&record)).expect("writes");
        let kept = cache.load().expect("reads").expect("is there");
        assert_eq!(kept.contents.assignments, [fenced()]);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_are_noticed() {
        let good = encode(&Record::default());
        for cut in 0..good.len() {
            assert!(decode(&good[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
        assert_eq!(decode(&good).expect("whole"), Record::default());
    }

    #[test]
    fn the_file_of_another_node_is_refused() {
        let directory = tempfile::tempdir().expect("directory");
        let cache = Cache::open(directory.path(), identity("one")).expect("opens");
        cache.save(contents()).expect("saves");
        let mut other = identity("one");
        other.node = "b".to_owned();
        let other = Cache::open(directory.path(), other).expect("opens");
        assert!(matches!(other.load(), Err(CacheError::Foreign { .. })));
    }
}
