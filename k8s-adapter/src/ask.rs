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
    if !gives(&would, held) {
        let why = why_not(context, claim, held, &would).await?;
        refused(context, claim, Outcome::AdoptionRefused(why));
        return Ok(());
    }
    match context.ipam.allocate(claim, held, false).await {
        Ok(answer) if gives(&answer, held) => {
            context.world().book.answered(Arc::clone(claim), answer);
        }
        // Somebody was faster between the two calls.
        Ok(answer) => {
            context.ipam.release(&claim.key, &claim.uid).await?;
            let why = why_not(context, claim, held, &answer).await?;
            refused(context, claim, Outcome::AdoptionRefused(why));
        }
        Err(CallError::Refused(why)) => refused(context, claim, Outcome::AdoptionRefused(why)),
        Err(again @ CallError::Again(_)) => return Err(again),
    }
    Ok(())
}

fn refused(context: &Context, claim: &Arc<Claim>, outcome: Outcome) {
    context.world().book.refused(Arc::clone(claim), outcome);
}

/// Whether an answer is what the Service has. One more address is no conflict.
fn gives(answer: &Answer, held: &[IpAddr]) -> bool {
    let given = answer.addresses();
    held.iter().all(|address| given.contains(address))
}

/// Why the Service cannot have what it has. An answer that gives other addresses does not say so:
/// then those of the Service are asked for by name, without taking them.
async fn why_not(
    context: &Context,
    claim: &Claim,
    held: &[IpAddr],
    answer: &Answer,
) -> Result<String, CallError> {
    let other = match &answer.verdict {
        Verdict::Pending(refused) | Verdict::Stale(_, refused) => {
            return Ok(refused.message.clone());
        }
        Verdict::Assigned(other) => other,
    };
    let by_name = Claim {
        addresses: held.to_vec(),
        ..claim.clone()
    };
    let answer = context.ipam.allocate(&by_name, &[], true).await;
    Ok(match answer.map(|answer| answer.verdict) {
        Ok(Verdict::Pending(refused) | Verdict::Stale(_, refused)) => refused.message,
        // It can be had by name, but not by this claim.
        Ok(Verdict::Assigned(_)) => {
            format!("the address book gives {}", quoted(&other.addresses))
        }
        Err(CallError::Refused(why)) => why,
        Err(again @ CallError::Again(_)) => return Err(again),
    })
}
