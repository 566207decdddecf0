//! From what went wrong to a gRPC status: the one table of codes, reasons and details.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::engine::SubmitError;
use crate::state::refusal::{InvalidField, Reason, Refusal, Rejection, Stranded};
use crate::store::{LogError, LogSpan, ReadError};

/// `ErrorInfo.domain` of every error.
const DOMAIN: &str = "pharos.io";

/// When to come back after UNAVAILABLE or a shed call: longer than a commit takes, shorter than a
/// person notices.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The same where it takes a person, or other claims that are fulfilled first.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Most field errors of one answer: nobody reads further.
const MAX_VIOLATIONS: usize = 32;

// A status travels in HTTP/2 headers, of which clients take 8 to 16 KiB: the message up to three
// times as long for its percent-encoding, and the details, which repeat it, in base64.

/// Longest message in bytes.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Longest description of one bad field in bytes.
const MAX_DESCRIPTION_BYTES: usize = 256;

/// Most bytes of bad fields in the details; the first is there in any case.
const MAX_FIELDS_BYTES: usize = 2048;

/// A command that the rules turn down.
pub fn of_rejection(rejection: &Rejection) -> Status {
    let message = shortened(&rejection.to_string());
    match rejection {
        Rejection::Refused(refusal) => of_refusal(refusal, message),
        Rejection::UnknownOwner(_) => plain(Code::NotFound, "UNKNOWN_OWNER", message),
        Rejection::UnknownPool(_) => plain(Code::NotFound, "UNKNOWN_POOL", message),
        Rejection::UnknownAdvertisement(_) => {
            plain(Code::NotFound, "UNKNOWN_ADVERTISEMENT", message)
        }
        Rejection::UnknownBgpPeer(_) => plain(Code::NotFound, "UNKNOWN_BGP_PEER", message),
        Rejection::UnknownBfdProfile(_) => plain(Code::NotFound, "UNKNOWN_BFD_PROFILE", message),
        Rejection::UnknownUnavailable { .. } => {
            plain(Code::NotFound, "UNKNOWN_UNAVAILABLE", message)
        }
        Rejection::UnknownReservation(_) => plain(Code::NotFound, "UNKNOWN_RESERVATION", message),
        Rejection::UnknownQuota(_) => plain(Code::NotFound, "UNKNOWN_QUOTA", message),
        Rejection::UnknownAddressSpace(_) => {
            plain(Code::NotFound, "UNKNOWN_ADDRESS_SPACE", message)
        }
        Rejection::UnknownCluster(_) => plain(Code::NotFound, "UNKNOWN_CLUSTER", message),
        Rejection::Invalid(invalid) => of_invalid(invalid),
        Rejection::PoolInUse { pool, .. } => {
            precondition("POOL_IN_USE", format!("pools/{pool}"), message)
        }
        Rejection::PoolProtected { pool, .. } => {
            precondition("POOL_PROTECTED", format!("pools/{pool}"), message)
        }
        Rejection::AddressSpaceInUse { first, .. } => of_stranded(first, message),
        Rejection::ClusterUidMismatch { cluster, .. } => precondition(
            "CLUSTER_UID_MISMATCH",
            format!("clusters/{cluster}"),
            message,
        ),
        Rejection::NotSyncing(cluster) => {
            precondition("NOT_SYNCING", format!("clusters/{cluster}"), message)
        }
        Rejection::StaleRevision { .. } | Rejection::StaleAddressSpace { .. } => {
            plain(Code::Aborted, "STALE_REVISION", message)
        }
        Rejection::StaleFence { .. } => plain(Code::Aborted, "STALE_FENCE", message),
    }
}

/// A call that the engine could not carry out.
pub fn of_submit(error: &SubmitError) -> Status {
    match error {
        SubmitError::Rejected(rejection) => of_rejection(rejection),
        SubmitError::Internal => plain(Code::Internal, "STORE_REFUSED", error.to_string()),
        SubmitError::Unavailable(_) => unavailable("STORE_UNAVAILABLE", error.to_string()),
        SubmitError::StorageFull => {
            let mut details = info("STORAGE_FULL", HashMap::new());
            details.set_retry_info(Some(FULL_RETRY_AFTER));
            Status::with_error_details(Code::ResourceExhausted, error.to_string(), details)
        }
        SubmitError::DeadlineExceeded => plain(
            Code::DeadlineExceeded,
            "DEADLINE_EXCEEDED",
            error.to_string(),
        ),
        SubmitError::Stopping => unavailable("STOPPING", error.to_string()),
    }
}

/// A read that failed.
pub fn of_read(error: &ReadError) -> Status {
    match error {
        ReadError::Corrupt(_) => {
            tracing::error!(%error, "a stored row cannot be read");
            plain(Code::DataLoss, "STORE_CORRUPT", error.to_string())
        }
        ReadError::Newer { .. } => {
            tracing::error!(%error, "the log cannot be read");
            plain(
                Code::FailedPrecondition,
                "NEWER_LOG_FORMAT",
                error.to_string(),
            )
        }
        ReadError::Sql(_) | ReadError::Load(_) => {
            tracing::warn!(%error, "a read failed");
            unavailable(
                "STORE_UNAVAILABLE",
                "the database cannot be read now".to_owned(),
            )
        }
    }
}

/// A watch that cannot go on from its revision. The details name the lowest revision to resume from.
pub fn of_log(error: &LogError, store_id: &str) -> Status {
    match error {
        LogError::Read(error) => of_read(error),
        LogError::Compacted { span, .. } => out_of_range("COMPACTED", error, *span, store_id),
        LogError::Future { span, .. } => out_of_range("FUTURE_REVISION", error, *span, store_id),
    }
}

/// A revision of another store.
pub fn foreign_store(given: &str, span: LogSpan, store_id: &str) -> Status {
    let given: String = given.chars().take(64).collect();
    let error = format!("store_id {given:?} is not this store, but one that was lost or replaced");
    out_of_range("FOREIGN_STORE", &error, span, store_id)
}

fn out_of_range(
    reason: &str,
    error: &impl std::fmt::Display,
    span: LogSpan,
    store_id: &str,
) -> Status {
    let resume_from = span.oldest.saturating_sub(1);
    let newest = span.revision;
    let message = format!(
        "{error}; this store can resume from revisions {resume_from} to {newest}; begin again"
    );
    let metadata = [
        ("oldest_revision", span.oldest.to_string()),
        ("resume_from", resume_from.to_string()),
        ("revision", newest.to_string()),
        ("store_id", store_id.to_owned()),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
    let details = info(reason, metadata.into_iter().collect());
    Status::with_error_details(Code::OutOfRange, message, details)
}

/// Field errors.
pub fn of_invalid(invalid: &[InvalidField]) -> Status {
    let mut details = info("INVALID_REQUEST", HashMap::new());
    let mut shown = Vec::new();
    let mut bytes = 0;
    for bad in invalid.iter().take(MAX_VIOLATIONS) {
        let description = cut(&bad.message, MAX_DESCRIPTION_BYTES);
        bytes += bad.field.len() + description.len();
        if bytes > MAX_FIELDS_BYTES && !shown.is_empty() {
            break;
        }
        shown.push(format!("{}: {description}", bad.field));
        details.add_bad_request_violation(&bad.field, description);
    }
    let more = match invalid.len() - shown.len() {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    // Cut before the end, so that the number of those that are left out is told in any case.
    let message = cut(&shown.join("; "), MAX_MESSAGE_BYTES - more.len()) + &more;
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// One bad field.
pub fn invalid(field: &str, message: impl Into<String>) -> Status {
    of_invalid(&[InvalidField {
        field: field.to_owned(),
        message: message.into(),
    }])
}

/// The server cannot do it now; the caller may try again.
pub fn unavailable(reason: &str, message: impl Into<String>) -> Status {
    let mut details = info(reason, HashMap::new());
    details.set_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(Code::Unavailable, message, details)
}

/// Too many calls at once.
pub fn shed(message: impl Into<String>) -> Status {
    let mut details = info("OVERLOADED", HashMap::new());
    details.set_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// A status with `ErrorInfo` and nothing else.
pub fn plain(code: Code, reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(code, message, info(reason, HashMap::new()))
}

fn precondition(reason: &str, subject: String, message: String) -> Status {
    let mut details = info(reason, HashMap::new());
    details.add_precondition_failure_violation(reason, subject, &message);
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// Grants that would strand holders: each of them, and the field that does it.
fn of_stranded(first: &[Stranded], message: String) -> Status {
    const REASON: &str = "ADDRESS_SPACE_IN_USE";
    let mut details = info(REASON, HashMap::new());
    details.add_bad_request_violation("address_space.grants", cut(&message, MAX_DESCRIPTION_BYTES));
    let mut bytes = 0;
    for one in first {
        let subject = format!("allocations/{}", one.owner);
        bytes += subject.len() + REASON.len();
        if bytes > MAX_FIELDS_BYTES {
            break;
        }
        let description = format!("holds {}", one.address);
        details.add_precondition_failure_violation(REASON, subject, description);
    }
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

fn of_refusal(refusal: &Refusal, message: String) -> Status {
    let reason = refusal.reason.as_str();
    let mut metadata = HashMap::new();
    if !refusal.attempts.is_empty() {
        let attempts: Vec<String> = refusal
            .attempts
            .iter()
            .take(MAX_VIOLATIONS)
            .map(|attempt| format!("{}: {}", attempt.pool, attempt.reason.as_str()))
            .collect();
        metadata.insert("attempts".to_owned(), shortened(&attempts.join(", ")));
    }
    let mut details = info(reason, metadata);
    let code = code_of(refusal.reason);
    if let Some(quota) = &refusal.quota {
        details.add_quota_failure_violation(format!("quotas/{quota}"), &message);
    }
    if refusal.reason == Reason::TooManyPending {
        details.set_retry_info(Some(FULL_RETRY_AFTER));
    }
    if code == Code::FailedPrecondition {
        details.add_precondition_failure_violation(reason, "allocation", &message);
    }
    Status::with_error_details(code, message, details)
}

fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::NoFreeAddress
        | Reason::BehindOlderClaims
        | Reason::QuotaExceeded
        | Reason::TooManyPending
        | Reason::AddressDraining => Code::ResourceExhausted,
        Reason::UnknownPool | Reason::UnknownReservation => Code::NotFound,
        Reason::AddressNotInPool
        | Reason::AddressTaken
        | Reason::PortInUse
        | Reason::SharingMismatch
        | Reason::PoolNotForOwner
        | Reason::OutsideGrant
        | Reason::AddressNotInRequestedPool
        | Reason::BuggyAddress
        | Reason::FamilyNotInPool
        | Reason::AddressReserved
        | Reason::AddressQuarantined
        | Reason::AddressNotInReservation
        | Reason::PoolNotAutomatic
        | Reason::OtherPoolNamed
        | Reason::Recovering => Code::FailedPrecondition,
    }
}

fn info(reason: &str, metadata: HashMap<String, String>) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

/// At most [`MAX_MESSAGE_BYTES`].
fn shortened(text: &str) -> String {
    cut(text, MAX_MESSAGE_BYTES)
}

/// At most so many bytes, and dots where something is left out.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most - 3);
    format!("{}...", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_error_is_named_in_details_and_message() {
        let bad = |field: &str| InvalidField {
            field: field.to_owned(),
            message: "is wrong".to_owned(),
        };
        let status = of_invalid(&[bad("a"), bad("b[1]")]);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "a: is wrong; b[1]: is wrong");
        let details = status.get_error_details();
        let fields: Vec<&str> = details
            .bad_request()
            .expect("BadRequest")
            .field_violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect();
        assert_eq!(fields, ["a", "b[1]"]);
        assert_eq!(details.error_info().expect("ErrorInfo").domain, DOMAIN);
    }

    /// What a status takes in headers: its message is percent-encoded, its details are base64.
    fn header_bytes(status: &Status) -> usize {
        let plain = |byte: &u8| matches!(byte, 0x20..=0x7e if *byte != b'%');
        let message = status.message().bytes();
        let message: usize = message.map(|b| if plain(&b) { 1 } else { 3 }).sum();
        message + status.details().len() * 4 / 3
    }

    #[test]
    fn the_longest_answers_stay_small_enough_for_headers() {
        const MOST: usize = 8 * 1024;
        let invalid = |message: &str| {
            let bad = |index| InvalidField {
                field: format!("pools[{index}].addresses[0]"),
                message: message.to_owned(),
            };
            of_invalid(&(0..5000).map(bad).collect::<Vec<_>>())
        };
        let name = "\u{fc}".repeat(126);
        let pool = format!("{name}/{name}");
        let attempt = crate::state::refusal::Attempt {
            pool: pool.clone(),
            reason: Reason::PoolNotForOwner,
            message: String::new(),
        };
        let refusal = Refusal {
            reason: Reason::PoolNotForOwner,
            message: pool.repeat(20),
            attempts: vec![attempt; 100],
            quota: None,
        };
        let beyond_quota = Refusal {
            reason: Reason::QuotaExceeded,
            quota: Some(name.clone()),
            ..refusal.clone()
        };
        let message = shortened(&pool.repeat(20));
        let stranded = Stranded {
            owner: crate::state::model::OwnerKey {
                cluster: crate::state::names::Name::parse(&name).expect("a name"),
                namespace: crate::state::names::Name::parse(&name).ok(),
                name: crate::state::names::Name::parse(&name).expect("a name"),
            },
            address: crate::state::address::Address::from_bits(1),
        };
        for status in [
            invalid("invalid CIDR"),
            invalid(&pool.repeat(20)),
            of_rejection(&refusal.into()),
            of_rejection(&beyond_quota.into()),
            precondition("POOL_IN_USE", format!("pools/{pool}"), message.clone()),
            of_stranded(&vec![stranded; 8], message),
        ] {
            let bytes = header_bytes(&status);
            assert!(bytes < MOST, "{bytes} bytes: {:?}", status.code());
        }
        assert!(invalid("bad").message().ends_with("; and 4968 more"));
    }
}
