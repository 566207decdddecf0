//! Makes claims at ipam-service, and notes in the book what came of them.

use std::net::IpAddr;
use std::sync::Arc;

use crate::book::{Answer, Outcome, Verdict};
use crate::claim::{Claim, quoted};
use crate::client::CallError;
use crate::context::Context;

/// Asks for addresses; those that the Service has are a wish.
pub async fn ask(context: &Context, claim: &Arc<Claim>, held: &[IpAddr]) -> Result<(), CallError> {
    match context.ipam.allocate(claim, held, false).await {
        Ok(answer) => context.world().book.answered(Arc::clone(claim), answer),
        Err(CallError::Refused(why)) => refused(context, claim, Outcome::Refused(why)),
        Err(again @ CallError::Again(_)) => return Err(again),
    }
    Ok(())
}

/// Asks for exactly the addresses that a Service has, as the address book has never heard of it.
///
/// If they cannot be had, nothing is stored, so that a restart finds the same situation and the
/// status is never overwritten with another address.
pub async fn adopt(
    context: &Context,
    claim: &Arc<Claim>,
    held: &[IpAddr],
) -> Result<(), CallError> {
    let would = match context.ipam.allocate(claim, held, true).await {
        Ok(answer) => answer,
        Err(CallError::Refused(why)) => {
            refused(context, claim, Outcome::AdoptionRefused(why));
            return Ok(());
        }
        Err(again @ CallError::Again(_)) => return Err(again),
    };
    if let Some(why) = conflict(&would, held) {
        refused(context, claim, Outcome::AdoptionRefused(why));
        return Ok(());
    }
    match context.ipam.allocate(claim, held, false).await {
        Ok(answer) => match conflict(&answer, held) {
            None => context.world().book.answered(Arc::clone(claim), answer),
            // Somebody was faster between the two calls.
            Some(why) => {
                context.ipam.release(&claim.key, &claim.uid).await?;
                refused(context, claim, Outcome::AdoptionRefused(why));
            }
        },
        Err(CallError::Refused(why)) => refused(context, claim, Outcome::AdoptionRefused(why)),
        Err(again @ CallError::Again(_)) => return Err(again),
    }
    Ok(())
}

fn refused(context: &Context, claim: &Arc<Claim>, outcome: Outcome) {
    context.world().book.refused(Arc::clone(claim), outcome);
}

/// Why an answer is not what the Service has; `None` if it is. One more address is no conflict.
fn conflict(answer: &Answer, held: &[IpAddr]) -> Option<String> {
    let given = answer.addresses();
    if held.iter().all(|address| given.contains(address)) {
        return None;
    }
    Some(match &answer.verdict {
        Verdict::Pending(refused) | Verdict::Stale(_, refused) => refused.message.clone(),
        Verdict::Assigned(other) => {
            format!(
                "the address book would give {} instead",
                quoted(&other.addresses)
            )
        }
    })
}
