//! Telling a watcher what changed since it was told last.

use std::collections::VecDeque;
use std::time::Duration;

use pharos_process::Shutdown;
use pharos_proto::v1;
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

/// Most announcements in one message: some hundred bytes each, far below what clients take.
const MOST: usize = 1000;

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
            self.ready = messages(&difference, was_synced, self.synced);
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
    difference: &Difference,
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
    let changed = difference.changed.chunks(MOST);
    let changed = changed.map(|chunk| message(chunk.to_vec(), Vec::new()));
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
