//! What is told of other machines that use addresses of ours.

use super::Shared;
use crate::l2::conflict::{Conflict, News};

impl Shared {
    /// Tells persons, and who reports it.
    pub(super) fn tell(&self, news: &[News]) {
        for one in news {
            // Nobody fetches them while ipam-service is away; what goes on is told again.
            let _ = self.conflicts.try_send(one.clone());
            match one {
                News::Begun(conflict) => {
                    self.metrics.set_conflict(conflict, true);
                    warn_of(conflict);
                }
                News::GoesOn(_) => {}
                News::Moved { from, now } => {
                    let before = Conflict {
                        by: from.clone(),
                        ..now.clone()
                    };
                    self.metrics.set_conflict(&before, false);
                    self.metrics.set_conflict(now, true);
                    let Conflict {
                        address, mac, by, ..
                    } = now;
                    let (before, interface) = (&from.name, &by.name);
                    tracing::info!(%address, %mac, %before, %interface, "only another interface sees the other machine now");
                }
                News::Over(conflict) => {
                    self.metrics.set_conflict(conflict, false);
                    let Conflict { address, mac, .. } = conflict;
                    tracing::info!(%address, %mac, "the other machine does not use the address any more");
                }
            }
        }
    }
}

fn warn_of(conflict: &Conflict) {
    let Conflict {
        address, mac, by, ..
    } = conflict;
    let (own_mac, interface) = (by.mac, &by.name);
    match &conflict.member {
        None => {
            tracing::warn!(
                %address, %mac, %own_mac, %interface,
                "another machine uses an address of this node"
            );
        }
        Some(member) => {
            tracing::warn!(
                %address, %mac, %own_mac, %interface, %member,
                "another node of the cluster answers for an address of this node: set kube-proxy ipvs \
                 strictARP: true"
            );
        }
    }
}
