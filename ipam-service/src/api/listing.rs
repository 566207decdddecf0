//! Lists out of the state, page by page: what they all have in common.

use std::hash::Hash;

use tonic::Status;

use super::call::Api;
use super::paging::{PageToken, page_size};
use super::status;
use crate::state::State;
use crate::state::bgp::model::BgpKey;
use crate::state::model::{AdvertisementKey, PoolKey, ReservationKey};
use crate::state::names::Name;

/// Where an item is in its list: what a page token says of the last one.
pub(super) trait PageKey: Sized + Send + 'static {
    /// Number of parts.
    const PARTS: usize;

    /// As texts.
    fn parts(&self) -> Vec<String>;

    /// From [`PageKey::PARTS`] texts; `None` if they are of no key.
    fn of_parts(parts: &[String]) -> Option<Self>;
}

/// The page that a request asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) page_size: i32,
    pub(super) page_token: &'a str,
}

/// A page, and the token of the next one; empty on the last page.
pub(super) type Listed<T> = (Vec<T>, String);

/// Reads a page. `shape` says what is listed, with all filters: a token is bound to it. `read` gets
/// the key of the last item before the page and the most items to return.
pub(super) async fn list<K: PageKey, T: Send + 'static>(
    api: &Api,
    asked: Asked<'_>,
    shape: &impl Hash,
    read: impl FnOnce(&State, Option<&K>, usize) -> Vec<(K, T)> + Send + 'static,
) -> Result<Listed<T>, Status> {
    let size = usize::try_from(page_size(asked.page_size)?).expect("32 bits fit");
    let token = PageToken::read(asked.page_token, shape, K::PARTS)?;
    let after = token.as_ref().map(|token| K::of_parts(&token.key));
    let foreign = || status::invalid("page_token", "is not a token of this server");
    let after = after.map(|key| key.ok_or_else(foreign)).transpose()?;
    let read = move |state: &State| (read(state, after.as_ref(), size + 1), state.revision());
    let (mut page, now) = api.read(read).await?;
    let more = page.len() > size;
    page.truncate(size);
    let next = match page.last().filter(|_| more) {
        Some((last, _)) => PageToken {
            key: last.parts(),
            revision: token.map_or(now, |token| token.revision),
        }
        .write(shape),
        None => String::new(),
    };
    Ok((page.into_iter().map(|(_, item)| item).collect(), next))
}

impl PageKey for Name {
    const PARTS: usize = 1;

    fn parts(&self) -> Vec<String> {
        vec![self.to_string()]
    }

    fn of_parts(parts: &[String]) -> Option<Self> {
        Self::parse(&parts[0]).ok()
    }
}

impl PageKey for PoolKey {
    const PARTS: usize = 3;

    fn parts(&self) -> Vec<String> {
        vec![
            self.space.to_string(),
            text_of(self.cluster.as_ref()),
            self.name.to_string(),
        ]
    }

    fn of_parts(parts: &[String]) -> Option<Self> {
        let (space, name) = (Name::parse(&parts[0]).ok()?, Name::parse(&parts[2]).ok()?);
        Some(Self::new(space, optional(&parts[1])?, name))
    }
}

impl PageKey for ReservationKey {
    const PARTS: usize = 2;

    fn parts(&self) -> Vec<String> {
        vec![self.space.to_string(), self.name.to_string()]
    }

    fn of_parts(parts: &[String]) -> Option<Self> {
        Some(Self {
            space: Name::parse(&parts[0]).ok()?,
            name: Name::parse(&parts[1]).ok()?,
        })
    }
}

impl PageKey for AdvertisementKey {
    const PARTS: usize = 2;

    fn parts(&self) -> Vec<String> {
        vec![text_of(self.cluster.as_ref()), self.name.to_string()]
    }

    fn of_parts(parts: &[String]) -> Option<Self> {
        Some(Self {
            cluster: optional(&parts[0])?,
            name: Name::parse(&parts[1]).ok()?,
        })
    }
}

impl PageKey for BgpKey {
    const PARTS: usize = 2;

    fn parts(&self) -> Vec<String> {
        vec![text_of(self.cluster.as_ref()), self.name.to_string()]
    }

    fn of_parts(parts: &[String]) -> Option<Self> {
        Some(Self {
            cluster: optional(&parts[0])?,
            name: Name::parse(&parts[1]).ok()?,
        })
    }
}

fn text_of(name: Option<&Name>) -> String {
    name.map_or_else(String::new, Name::to_string)
}

fn optional(text: &str) -> Option<Option<Name>> {
    match text {
        "" => Some(None),
        text => Name::parse(text).ok().map(Some),
    }
}
