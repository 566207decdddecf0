//! What users of MetalLB rely on, sentence by sentence; and where it surprises them, what we do
//! instead. A comment that begins with "MetalLB" tells of a difference. The page
//! `docs/allocation-rules.md` names these tests.

mod choice;
mod edits;
mod requests;

use crate::state::command::{Command, InUse};
use crate::state::model::*;
use crate::state::testing::*;

const WEB: &str = "east/default/web";
const OTHER: &str = "east/default/other";

const V4: Families = Families::One(crate::state::address::Family::V4);
const V6: Families = Families::One(crate::state::address::Family::V6);
const PREFER: Families = Families::PreferBoth {
    first: crate::state::address::Family::V4,
};

fn pool_with(key: &str, ranges: &[&str], edit: impl FnOnce(&mut Pool)) -> Pool {
    let mut pool = pool(key, ranges);
    edit(&mut pool);
    pool
}

fn apply(pool: &Pool) -> Command {
    Command::ApplyPool {
        pool: Box::new(pool.clone()),
        in_use: InUse::Move,
    }
}

fn delete(key: &str) -> Command {
    Command::DeletePool {
        key: pool_key(key),
        in_use: InUse::Move,
    }
}

/// The message of why somebody waits.
fn why(book: &Book, owner_text: &str) -> String {
    match &book.get(owner_text).standing {
        Standing::Assigned => String::new(),
        Standing::Pending(refusal) | Standing::Stale { refusal, .. } => refusal.message.clone(),
    }
}
