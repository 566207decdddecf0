//! The network interfaces of this node: which there are, and which may answer.
//!
//! They are learnt from the kernel by events (rtnetlink), never by polling. Pure: [`table`], what
//! the events mean; [`link_local`], the same for addresses; [`rules`], which interfaces may answer. This file drives.

pub mod link_local;
pub mod rules;
pub mod table;

use std::sync::Arc;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use tokio::sync::watch;

use table::{Links, Table};

/// What is known of the network of this node.
#[derive(Debug, Clone)]
pub struct Network {
    pub links: Links,
    /// Grows when an address came or went.
    pub addresses_changed: u64,
}

/// Follows the interfaces of this network namespace for ever; ends only with an error. The first
/// value is published once all of them are known.
pub async fn follow(publish: watch::Sender<Option<Network>>) -> anyhow::Result<()> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
    ];
    let (connection, handle, mut messages) =
        rtnetlink::new_multicast_connection(&groups).context("netlink socket")?;
    // Ends with the handle below.
    let connection = tokio::spawn(connection);
    let _stop = AbortOnDrop(connection);
    let mut table = Table::default();
    let mut addresses_changed = 0;
    let (links, addresses) = dump(&handle).await?;
    table.replace(&links, &addresses);
    loop {
        publish.send_replace(Some(Network {
            links: Arc::new(table.links().clone()),
            addresses_changed,
        }));
        loop {
            let (message, _) = messages.next().await.context("netlink connection ended")?;
            let changed = match message.payload {
                NetlinkPayload::InnerMessage(event) => {
                    let changed = table.apply(&event);
                    let is_address = matches!(
                        event,
                        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_)
                    );
                    addresses_changed += u64::from(is_address);
                    changed || is_address
                }
                NetlinkPayload::Overrun(_) => {
                    tracing::warn!("interface events were lost: reading all interfaces again");
                    let (links, addresses) = dump(&handle).await?;
                    table.replace(&links, &addresses);
                    addresses_changed += 1;
                    true
                }
                other @ (NetlinkPayload::Done(_)
                | NetlinkPayload::Error(_)
                | NetlinkPayload::Noop
                | _) => {
                    tracing::debug!(?other, "not an event of an interface");
                    false
                }
            };
            if changed {
                break;
            }
        }
    }
}

async fn dump(
    handle: &rtnetlink::Handle,
) -> anyhow::Result<(Vec<LinkMessage>, Vec<AddressMessage>)> {
    let links = handle.link().get().execute().try_collect().await;
    let addresses = handle.address().get().execute().try_collect().await;
    let links = links.context("cannot list interfaces")?;
    Ok((links, addresses.context("cannot list addresses")?))
}

/// Stops a task when its owner ends.
#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
