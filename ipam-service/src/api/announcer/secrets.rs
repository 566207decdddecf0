//! GetPeerSecrets: the passwords that a node needs, told to who may have them.

use std::net::SocketAddr;

use pharos_proto::v1;
use tonic::{Code, Request, Response, Status};

use super::AnnouncerApi;
use crate::api::fields::FieldErrors;
use crate::api::status;
use crate::state::State;
use crate::state::announce::selects;
use crate::state::model::NodeKey;

/// What a node is told; `None`: no announcer of it has introduced itself.
type Secrets = Option<Vec<v1::get_peer_secrets_response::Secret>>;

impl AnnouncerApi {
    pub(super) async fn get_peer_secrets(
        &self,
        request: Request<v1::GetPeerSecretsRequest>,
    ) -> Result<Response<v1::GetPeerSecretsResponse>, Status> {
        if !may_be_told(request.remote_addr()) {
            let message = "passwords are told only to callers on this machine: the connection is not \
                           encrypted, and nobody proves who calls";
            return Err(status::plain(
                Code::FailedPrecondition,
                "UNPROTECTED",
                message,
            ));
        }
        let message = request.get_ref();
        let mut errors = FieldErrors::new();
        let cluster = errors.name("cluster", &message.cluster);
        let node = errors.name("node", &message.node);
        let key = cluster.zip(node);
        let key = errors.finish(key.map(|(cluster, node)| NodeKey { cluster, node }));
        let key = key.map_err(|bad| status::of_rejection(&bad))?;
        let asked = key.clone();
        let secrets = self
            .api
            .read(move |state| secrets_of(state, &asked))
            .await?;
        let Some(secrets) = secrets else {
            let message = format!(
                "no announcer of node {:?} of cluster {:?} has introduced itself",
                key.node.as_str(),
                key.cluster.as_str()
            );
            return Err(status::plain(Code::NotFound, "UNKNOWN_NODE", message));
        };
        tracing::info!(
            cluster = %key.cluster,
            node = %key.node,
            passwords = secrets.len(),
            "the passwords of its BGP peers were told to a node"
        );
        Ok(Response::new(v1::GetPeerSecretsResponse { secrets }))
    }
}

/// Nobody proves an identity yet, and what goes to another machine can be read on the way.
fn may_be_told(caller: Option<SocketAddr>) -> bool {
    caller.is_some_and(|caller| caller.ip().to_canonical().is_loopback())
}

fn secrets_of(state: &State, key: &NodeKey) -> Secrets {
    let node = state.node(key).filter(|node| node.announcer.is_some())?;
    let peers = state.bgp().visible_peers(&key.cluster).into_values();
    let own = peers.filter(|peer| selects(peer, node));
    let secrets = own.filter_map(|peer| {
        let password = peer.password.as_ref()?;
        Some(v1::get_peer_secrets_response::Secret {
            name: peer.key.name.to_string(),
            password: password.reveal().to_owned(),
            password_revision: peer.password_revision,
        })
    });
    Some(secrets.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_told_to_nobody_on_another_machine() {
        for (caller, told) in [
            ("127.0.0.1:50000", true),
            ("[::1]:50000", true),
            ("[::ffff:127.0.0.1]:50000", true),
            ("192.0.2.7:50000", false),
            ("[2001:db8::7]:50000", false),
            ("[::ffff:192.0.2.7]:50000", false),
        ] {
            assert_eq!(may_be_told(caller.parse().ok()), told, "{caller}");
        }
        assert!(!may_be_told(None));
    }
}
