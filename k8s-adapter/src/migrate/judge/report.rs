//! The report, as `--output json` has it.

use serde::Serialize;

use super::services::{Fate, Row};

/// How much a remark weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Weight {
    /// The migration would lose or break something: not before this is cured.
    Blocks,
    /// To be done, or to be known.
    Attention,
}

/// Something about the cluster that people have to read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Remark {
    pub weight: Weight,
    /// What it is about, for example `ConfigMap metallb-system/bgpextras`.
    pub object: String,
    pub message: String,
}

impl Remark {
    pub(super) fn blocks(object: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            weight: Weight::Blocks,
            object: object.into(),
            message: message.into(),
        }
    }

    pub(super) fn attention(object: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            weight: Weight::Attention,
            object: object.into(),
            message: message.into(),
        }
    }
}

/// The ipam-service that is to serve the cluster, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressBook {
    pub url: String,
    /// Empty: it could not be asked, see `unknown`.
    pub version: String,
    /// Why it could not be asked; empty: it could.
    pub unknown: String,
}

/// What would become of the cluster, or has become of it at ipam-service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub cluster: String,
    pub namespace: String,
    pub kubernetes: String,
    /// For example `v0.15.2`; empty: not known.
    pub metallb: String,
    /// `native`, `frr` or `frr-k8s`.
    pub bgp_mode: String,
    pub address_book: AddressBook,
    /// Whether ipam-service holds the addresses now. Otherwise nothing was changed anywhere.
    pub applied: bool,
    /// The backup that was written.
    pub backup: Option<String>,
    pub services: Vec<Row>,
    pub remarks: Vec<Remark>,
}

impl Report {
    /// Remarks of one weight.
    pub fn remarks_of(&self, weight: Weight) -> impl Iterator<Item = &Remark> {
        self.remarks.iter().filter(move |it| it.weight == weight)
    }

    /// Services of one fate.
    pub fn count(&self, fate: Fate) -> usize {
        self.services.iter().filter(|row| row.fate == fate).count()
    }

    /// Why the migration may not go on; `None`: every address stays, and nothing is lost.
    pub fn obstacle(&self) -> Option<String> {
        let moved = self.services.iter().filter(|row| !row.fate.is_fine());
        let (moved, blocking) = (moved.count(), self.remarks_of(Weight::Blocks).count());
        let services = format!(
            "{moved} of {} Services would not keep what they have",
            self.services.len()
        );
        let remarks = format!("{blocking} of the remarks must be cured first");
        match (moved, blocking) {
            (0, 0) => None,
            (_, 0) => Some(services),
            (0, _) => Some(remarks),
            (_, _) => Some(format!("{services}, and {remarks}")),
        }
    }
}
