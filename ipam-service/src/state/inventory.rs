//! Whether the store knows all that a cluster holds, and what follows from that.

/// Whether the store knows all that a cluster holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inventory {
    /// Nothing was ever reported, and nothing speaks against the cluster's being new.
    New,
    /// It does: the cluster's stream is authoritative.
    Complete,
    /// The store was lost or restored, and the cluster has not reported yet: claims wait for it.
    Expected,
    /// Nodes of the cluster have assignments of another store, and this one knows of none. Nobody
    /// waits for it, because others already use this store.
    Missing,
    /// Its adapter is reporting for the first time, and nobody waits for it. `missing`: nodes of the
    /// cluster have assignments of another store.
    FirstReport { missing: bool },
    /// The cluster's adapter is reporting (between BeginSync and EndSync).
    /// `resync`: the inventory was complete before, so the stream stays authoritative.
    Reporting { resync: bool },
}

impl Inventory {
    /// Whether the cluster's assignment stream may remove addresses.
    pub fn is_authoritative(self) -> bool {
        match self {
            Self::New
            | Self::Complete
            | Self::FirstReport { missing: false }
            | Self::Reporting { resync: true } => true,
            Self::Expected
            | Self::Missing
            | Self::FirstReport { missing: true }
            | Self::Reporting { resync: false } => false,
        }
    }

    /// Whether claims wait until it is complete.
    pub fn is_awaited(self) -> bool {
        match self {
            Self::Expected | Self::Reporting { resync: false } => true,
            Self::New
            | Self::Complete
            | Self::Missing
            | Self::FirstReport { .. }
            | Self::Reporting { resync: true } => false,
        }
    }

    /// Whether it was complete once.
    pub fn was_complete(self) -> bool {
        match self {
            Self::Complete | Self::Reporting { resync: true } => true,
            Self::New
            | Self::Expected
            | Self::Missing
            | Self::FirstReport { .. }
            | Self::Reporting { resync: false } => false,
        }
    }
}
