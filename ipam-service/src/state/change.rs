//! What a decision changes. The same values are applied to the state, undone when a commit fails,
//! written to SQL, logged as history and turned into streams.

use std::sync::Arc;

use super::bgp::model::{BfdProfile, BgpPeer};
use super::model::{
    AddressSpace, Advertisement, Allocation, Backends, Cluster, Node, Placement, Pool, Quota,
    Reservation, Tenure, Unavailable,
};

/// One thing before and after. Exactly one of them may be absent: creation or deletion.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit<T> {
    pub before: Option<Arc<T>>,
    pub after: Option<Arc<T>>,
}

impl<T> Edit<T> {
    /// The edit that takes this one back.
    fn inverse(&self) -> Self {
        Self {
            before: self.after.clone(),
            after: self.before.clone(),
        }
    }

    /// What the edit is about: the newer of the two.
    ///
    /// # Panics
    /// If both are absent, which no decision makes.
    pub fn subject(&self) -> &Arc<T> {
        self.after
            .as_ref()
            .or(self.before.as_ref())
            .expect("an edit has a before or an after")
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    // Decisions: each takes one revision and is logged.
    Allocation(Edit<Allocation>),
    Pool(Edit<Pool>),
    Advertisement(Edit<Advertisement>),
    BgpPeer(Edit<BgpPeer>),
    BfdProfile(Edit<BfdProfile>),
    Cluster(Edit<Cluster>),
    Reservation(Edit<Reservation>),
    Quota(Edit<Quota>),
    AddressSpace(Edit<AddressSpace>),
    Unavailable(Edit<Unavailable>),
    // Facts: stored, but no history.
    Node(Edit<Node>),
    Backends(Edit<Backends>),
    Placement(Edit<Placement>),
    Tenure(Edit<Tenure>),
}

impl Change {
    /// Whether it takes a revision and is logged.
    pub fn is_decision(&self) -> bool {
        match self {
            Self::Allocation(_)
            | Self::Pool(_)
            | Self::Advertisement(_)
            | Self::BgpPeer(_)
            | Self::BfdProfile(_)
            | Self::Cluster(_)
            | Self::Reservation(_)
            | Self::Quota(_)
            | Self::AddressSpace(_)
            | Self::Unavailable(_) => true,
            Self::Node(_) | Self::Backends(_) | Self::Placement(_) | Self::Tenure(_) => false,
        }
    }

    /// The edit, if it is about an allocation.
    pub fn allocation(&self) -> Option<&Edit<Allocation>> {
        if let Self::Allocation(edit) = self {
            Some(edit)
        } else {
            None
        }
    }

    /// The edit, if it is about a pool.
    pub fn pool(&self) -> Option<&Edit<Pool>> {
        if let Self::Pool(edit) = self {
            Some(edit)
        } else {
            None
        }
    }

    /// The edit, if it is about an advertisement.
    pub fn advertisement(&self) -> Option<&Edit<Advertisement>> {
        if let Self::Advertisement(edit) = self {
            Some(edit)
        } else {
            None
        }
    }

    /// The edit, if it is about a cluster.
    pub fn cluster(&self) -> Option<&Edit<Cluster>> {
        if let Self::Cluster(edit) = self {
            Some(edit)
        } else {
            None
        }
    }

    /// The edit, if it is about a reason that keeps an address.
    pub fn unavailable(&self) -> Option<&Edit<Unavailable>> {
        if let Self::Unavailable(edit) = self {
            Some(edit)
        } else {
            None
        }
    }

    /// The change that takes this one back.
    pub fn inverse(&self) -> Self {
        match self {
            Self::Allocation(edit) => Self::Allocation(edit.inverse()),
            Self::Pool(edit) => Self::Pool(edit.inverse()),
            Self::Advertisement(edit) => Self::Advertisement(edit.inverse()),
            Self::BgpPeer(edit) => Self::BgpPeer(edit.inverse()),
            Self::BfdProfile(edit) => Self::BfdProfile(edit.inverse()),
            Self::Cluster(edit) => Self::Cluster(edit.inverse()),
            Self::Reservation(edit) => Self::Reservation(edit.inverse()),
            Self::Quota(edit) => Self::Quota(edit.inverse()),
            Self::AddressSpace(edit) => Self::AddressSpace(edit.inverse()),
            Self::Unavailable(edit) => Self::Unavailable(edit.inverse()),
            Self::Node(edit) => Self::Node(edit.inverse()),
            Self::Backends(edit) => Self::Backends(edit.inverse()),
            Self::Placement(edit) => Self::Placement(edit.inverse()),
            Self::Tenure(edit) => Self::Tenure(edit.inverse()),
        }
    }
}
