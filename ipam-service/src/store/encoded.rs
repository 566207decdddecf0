//! Allocations as bytes, each encoded once per batch: its row has them, and so has the log.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;

use crate::api::convert::allocation_to_wire;
use crate::api::convert_history::{LogContext, kind_of, time_to_wire};
use crate::state::change::Edit;
use crate::state::model::Allocation;

/// The encodings of a batch's allocations, by where these lie in memory: they do not move while
/// the batch lives.
#[derive(Debug, Default)]
pub(super) struct Encoded<'a> {
    by_place: HashMap<*const Allocation, Arc<[u8]>>,
    /// Keeps what is named by its place from going away.
    batch: std::marker::PhantomData<&'a Allocation>,
}

impl<'a> Encoded<'a> {
    /// The `Allocation`.
    pub(super) fn of(&mut self, allocation: &'a Allocation) -> Arc<[u8]> {
        let encode = || allocation_to_wire(allocation).encode_to_vec().into();
        let place = std::ptr::from_ref(allocation);
        Arc::clone(self.by_place.entry(place).or_insert_with(encode))
    }

    /// The `Change` of a decision about an allocation.
    pub(super) fn change(
        &mut self,
        context: LogContext<'_>,
        edit: &'a Edit<Allocation>,
    ) -> Vec<u8> {
        let mut end = |end: &'a Option<Arc<Allocation>>| {
            let bytes = end.as_deref().map(|allocation| self.of(allocation));
            bytes.map(|bytes| bytes.to_vec())
        };
        let (before, after) = (end(&edit.before), end(&edit.after));
        let change = EncodedChange {
            revision: context.revision,
            time: Some(time_to_wire(context.time)),
            actor: context.actor.to_owned(),
            request_id: context.request_id.to_owned(),
            r#type: kind_of(edit).into(),
            allocation: Some(EncodedEdit { before, after }),
        };
        change.encode_to_vec()
    }
}

/// `Change` with an `AllocationChange`. Bytes and messages look the same on the wire.
#[derive(Clone, PartialEq, Message)]
struct EncodedChange {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(message, optional, tag = "2")]
    time: Option<prost_types::Timestamp>,
    #[prost(string, tag = "3")]
    actor: String,
    #[prost(string, tag = "4")]
    request_id: String,
    #[prost(int32, tag = "5")]
    r#type: i32,
    #[prost(message, optional, tag = "6")]
    allocation: Option<EncodedEdit>,
}

/// `Change.AllocationChange`.
#[derive(Clone, PartialEq, Message)]
struct EncodedEdit {
    #[prost(bytes = "vec", optional, tag = "1")]
    before: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    after: Option<Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::convert::change_to_wire;
    use crate::state::change::Change;
    use crate::state::command::Command;
    use crate::state::model::Timestamp;
    use crate::state::{State, decide};
    use crate::testing::{allocate, apply_pool};

    #[test]
    fn a_change_is_encoded_as_its_message_is() {
        let mut state = State::new();
        let mut allocations = Vec::new();
        for command in [
            apply_pool("pool", &["192.0.2.1-192.0.2.9"]),
            allocate("east/default/web", |claim| {
                claim.labels.insert("a".to_owned(), "b".to_owned());
                claim.labels.insert("c".to_owned(), "d".to_owned());
            }),
            allocate("east/default/api", |_| {}),
        ] {
            let command: Command = command;
            for change in decide(&state, &command, Timestamp(1)).expect("granted") {
                state.apply(&change);
                if let Change::Allocation(edit) = change {
                    allocations.extend(edit.after);
                }
            }
        }
        let [web, api] = &allocations[..] else {
            panic!("two allocations: {allocations:?}");
        };
        let context = LogContext {
            revision: 7,
            time: Timestamp(1_700_000_000_123_456),
            actor: "somebody",
            request_id: "r1",
        };
        for (before, after) in [(None, Some(web)), (Some(web), Some(api)), (Some(web), None)] {
            let edit = Edit {
                before: before.cloned(),
                after: after.cloned(),
            };
            let message = change_to_wire(context, &Change::Allocation(edit.clone()));
            let message = message.expect("a decision").encode_to_vec();
            assert_eq!(Encoded::default().change(context, &edit), message);
        }
    }
}
