//! Follows who answers for which address, at ipam-service.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use super::picture::Picture;
use crate::client::CallError;
use crate::context::Context;
use crate::plan::Link;

/// First and longest wait before the next attempt.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// A stream that lived this long starts the waits anew.
const STABLE: Duration = Duration::from_secs(10);

/// Follows for ever. What was heard last stays while nothing is heard: nodes go on without ipam-service.
pub async fn follow(context: &Context) {
    let mut wait = BACKOFF.0;
    let mut told = None;
    loop {
        connected(context).await;
        let begun = Instant::now();
        let Err(error) = listen(context).await;
        let error = Some(error.to_string());
        if error != told {
            tracing::warn!(error, "who announces what is not heard");
            told = error;
        }
        if begun.elapsed() >= STABLE {
            wait = BACKOFF.0;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACKOFF.1);
    }
}

/// Waits until there is a conversation: one who lacks what that needs is asked for nothing else.
async fn connected(context: &Context) {
    while context.world().link != Link::Up {
        context.connected.notified().await;
    }
}

/// One stream; says why it ended.
async fn listen(context: &Context) -> Result<std::convert::Infallible, CallError> {
    let mut stream = context.ipam.watch_announcements().await?;
    let mut all = Some(Picture::default());
    loop {
        let message = stream.message().await?;
        let message = message.ok_or_else(|| Status::unavailable("the stream ended"))?;
        match &mut all {
            Some(picture) => {
                picture.note(&message);
                if message.synced {
                    context.world().announced = all.take();
                    context.announcements_reached();
                }
            }
            None => {
                if let Some(picture) = &mut context.world().announced {
                    picture.note(&message);
                }
            }
        }
        context.status.notify_one();
    }
}
