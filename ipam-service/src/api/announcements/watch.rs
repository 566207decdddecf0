//! Telling a watcher what changed since it was told last.

use std::collections::VecDeque;
use std::time::Duration;

use pharos_process::Shutdown;
use pharos_proto::v1;
use prost::Message as _;
use tonic::Status;

use super::now;
use super::picture::{Answer, Difference, Picture};
use crate::api::call::Api;
use crate::api::convert_announce::assignments::key_to_wire;
use crate::api::status;
use crate::state::names::Name;

/// Changes within so long are told together: many are about the same address.
const PAUSE: Duration = Duration::from_millis(100);

/// What is forgotten without a word, because its time is over, is noticed so soon.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Most addresses in one message, and most bytes of announcements: clients take 4 MiB if they are not told
/// otherwise. One announcement may be larger.
const MOST: usize = 1000;
pub(super) const MOST_BYTES: usize = 1 << 20;

/// A watcher of one cluster.
pub(super) struct Watcher {
    api: Api,
    picture: Picture,
    shutdown: Shutdown,
    /// What is to be sent yet.
    ready: VecDeque<v1::WatchAnnouncementsResponse>,
    synced: bool,
}

impl Watcher {
    pub(super) fn new(api: &Api, cluster: Name) -> Self {
        Self {
            picture: Picture::new(&api.feeds, cluster),
            shutdown: api.shutdown.clone(),
            api: api.clone(),
            ready: VecDeque::new(),
            synced: false,
        }
    }

    /// The next message. Cancel safe: what was put together stays in `ready`.
    pub(super) async fn next(&mut self) -> Result<v1::WatchAnnouncementsResponse, Status> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(message);
            }
            if self.synced && self.picture.is_complete() {
                self.wait().await?;
            }
            let ask = self.picture.ask(now());
            let answer = match ask.is_empty() {
                true => Answer::default(),
                false => self.api.read(move |state| ask.of(state)).await?.evaluate(),
            };
            let difference = self.picture.take_in(answer, now());
            let was_synced = self.synced;
            self.synced |= self.picture.is_complete();
            self.ready = messages(difference, was_synced, self.synced);
        }
    }

    async fn wait(&mut self) -> Result<(), Status> {
        let changed = async {
            tokio::select! {
                () = self.picture.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            tokio::time::sleep(PAUSE).await;
        };
        tokio::select! {
            () = self.shutdown.stopping() => {
                Err(status::unavailable("STOPPING", "the server is stopping"))
            }
            () = changed => Ok(()),
        }
    }
}

/// What a watcher has to be told. One that comes to be `synced` is so with the last message, which it gets in
/// any case.
fn messages(
    difference: Difference,
    was_synced: bool,
    synced: bool,
) -> VecDeque<v1::WatchAnnouncementsResponse> {
    let message = |announcements, removed| v1::WatchAnnouncementsResponse {
        announcements,
        removed,
        synced: was_synced,
    };
    let gone = difference.gone.chunks(MOST);
    let gone = gone.map(|chunk| message(Vec::new(), chunk.iter().map(key_to_wire).collect()));
    let changed = in_parts(difference.changed).into_iter();
    let changed = changed.map(|part| message(part, Vec::new()));
    let mut messages: VecDeque<_> = gone.chain(changed).collect();
    if synced && !was_synced {
        if messages.is_empty() {
            messages.push_back(v1::WatchAnnouncementsResponse::default());
        }
        if let Some(last) = messages.back_mut() {
            last.synced = true;
        }
    }
    messages
}

/// As many parts as their number and size ask for.
fn in_parts(all: Vec<v1::Announcement>) -> Vec<Vec<v1::Announcement>> {
    let mut parts: Vec<Vec<v1::Announcement>> = Vec::new();
    let mut bytes = 0;
    for one in all {
        bytes += one.encoded_len();
        match parts.last_mut() {
            Some(open) if open.len() < MOST && bytes <= MOST_BYTES => open.push(one),
            Some(_) | None => {
                bytes = one.encoded_len();
                parts.push(vec![one]);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcements(count: usize, bytes: usize) -> Vec<v1::Announcement> {
        let one = v1::Announcement {
            detail: "x".repeat(bytes),
            ..v1::Announcement::default()
        };
        vec![one; count]
    }

    #[test]
    fn a_message_has_no_more_announcements_and_bytes_than_clients_take() {
        let lengths = |count, bytes| {
            let parts = in_parts(announcements(count, bytes));
            parts.iter().map(Vec::len).collect::<Vec<usize>>()
        };
        assert_eq!(lengths(0, 1), Vec::<usize>::new());
        assert_eq!(lengths(2500, 1), [1000, 1000, 500]);
        let third = MOST_BYTES / 3 - 10;
        assert_eq!(lengths(7, third), [3, 3, 1]);
        assert_eq!(lengths(2, MOST_BYTES), [1, 1], "it cannot be smaller");
    }
}
