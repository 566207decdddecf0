//! MetalLB's custom resources as Rust types. Their schema is `crds/*.yaml`, which users apply;
//! a test here holds the types to it.

mod bgp;
mod l2;
mod peer;
mod pool;
mod status;

pub use bgp::{
    BFDProfile, BGPAdvertisement, BgpSpec, Community, CommunityAlias, CommunitySpec, ProfileSpec,
};
pub use l2::{L2Advertisement, L2Spec, PreferredNodes};
pub use peer::{BGPPeer, PeerSpec, SecretRef};
pub use pool::{IPAddressPool, PoolSpec, PoolStatus, ServiceAllocation};
pub use status::{
    BGPSessionState, ConfigurationState, ConfigurationStatus, Interface, ServiceBGPStatus,
    ServiceBgp, ServiceL2, ServiceL2Status, SessionState,
};

const METALLB: &str = "metallb.io";
/// Of the project that MetalLB leaves BGP to; who watches sessions knows them by this name.
const FRR_K8S: &str = "frrk8s.metallb.io";

/// The same for every kind: what `kube` must know to find it.
macro_rules! custom_resource {
    ($type:ident, $plural:literal, $group:expr, $version:literal) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = k8s_openapi::NamespaceResourceScope;

            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                stringify!($type).into()
            }

            fn group((): &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(
                &mut self,
            ) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
use custom_resource;

#[cfg(test)]
mod tests;
