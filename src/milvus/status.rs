//! What went wrong on the way to a server or on it, told as our own [`Error`].

use tonic::Code;

use super::proto;
use crate::error::{Error, Kind, chain};

/// `Status.code` of an unknown collection (both servers).
const COLLECTION_NOT_FOUND: i32 = 100;
/// `Status.error_code` of an unknown collection before codes were renumbered.
const OLD_COLLECTION_NOT_FOUND: i32 = 4;
/// `Status.code` of a segment that has gone, as after its compaction.
const SEGMENT_NOT_FOUND: i64 = 600;
/// `Status.code` when a server sheds load (rate limit, memory), of Milvus 2.3 and later.
const RATE_LIMIT: i32 = 8;
/// `Status.error_code` of the same.
const OLD_RATE_LIMIT: i32 = 49;
/// `Status.code` of "service unavailable", "not ready" and their like, which pass.
const NOT_READY: std::ops::RangeInclusive<i32> = 1..=3;

/// `Status.code` of a collection that is not, or not yet wholly, loaded, and of its missing channels and nodes: what a
/// server that was restarted answers for a while, of collections that it is about to load again.
const COMING_BACK: [std::ops::RangeInclusive<i32>; 3] = [101..=103, 500..=504, 901..=904];

/// The detail that marks an error as "too much at once", which a server says before it does anything.
const THROTTLED: &str = "throttled";

/// Texts by which an answer, or a request, is said to be larger than a message may be: 2.3.5's gRPC limit and its own,
/// and ours.
const TOO_LARGE: [&str; 4] =
    ["larger than max", "exceed the limit size", "message larger than", "message length too large"];

/// Turns a `Status` that an answer carried into a result. `doing` says what was asked for.
pub(super) fn check(status: Option<&proto::Status>, doing: &str) -> Result<(), Error> {
    let Some(status) = status else { return Ok(()) };
    if status.code == 0 && status.error_code == 0 {
        return Ok(());
    }
    let reason = if status.reason.is_empty() { &status.detail } else { &status.reason };
    let kind = if is_collection_missing(status) { Kind::CollectionNotFound } else { Kind::Server };
    let error = Error::new(kind, format!("{doing}: Milvus answered: {reason}"))
        .with("milvus_code", status.code)
        .with("milvus_error_code", status.error_code);
    let throttled = status.code == RATE_LIMIT || status.error_code == OLD_RATE_LIMIT;
    let error = if throttled { error.with(THROTTLED, true) } else { error };
    let passing = status.retriable || throttled || NOT_READY.contains(&status.code);
    Err(if passing && !too_large(&error) { error.temporary() } else { error })
}

fn is_collection_missing(status: &proto::Status) -> bool {
    status.code == COLLECTION_NOT_FOUND || (status.code == 0 && status.error_code == OLD_COLLECTION_NOT_FOUND)
}

/// Turns a failed call into an error that names the server.
pub(super) fn call_failed(status: &tonic::Status, doing: &str, label: &str) -> Error {
    let text = match status.code() {
        Code::Unavailable => format!(
            "{doing}: the Milvus server at {label} does not answer ({}). Is it running, and is the address right?",
            chain(status)
        ),
        Code::Unauthenticated | Code::PermissionDenied => {
            format!(
                "{doing}: the Milvus server at {label} refused the credentials ({}). Check the token, or user and password",
                status.message()
            )
        }
        Code::DeadlineExceeded => format!("{doing}: the Milvus server at {label} did not answer in time"),
        Code::Unimplemented => {
            format!("{doing}: the Milvus server at {label} does not offer this ({})", status.message())
        }
        code => format!("{doing}: the call to the Milvus server at {label} failed ({code:?}): {}", chain(status)),
    };
    let error = Error::new(Kind::Server, text).with("grpc_code", format!("{:?}", status.code()));
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled => error.temporary(),
        // A connection that breaks in the middle of an answer is reported as Unknown or Internal by the HTTP/2 layer.
        Code::Unknown | Code::Internal if std::error::Error::source(status).is_some() => error.temporary(),
        // Also said of messages that are too large, which no waiting helps.
        Code::ResourceExhausted if !too_large(&error) => error.with(THROTTLED, true).temporary(),
        _ => error,
    }
}

/// Whether the server asked for less at once. It refused the call before it did anything.
pub(super) fn throttled(error: &Error) -> bool {
    error.is_temporary() && error.details().contains_key(THROTTLED)
}

/// Whether no answer came in time: the connection itself may be dead.
pub(super) fn timed_out(error: &Error) -> bool {
    error.details().get("grpc_code").is_some_and(|code| code == "DeadlineExceeded")
}

/// Of a collection that is known to be loaded: marks the answers of a server that is loading it again as passing.
pub(super) fn while_loaded(error: Error) -> Error {
    let code = error.details().get("milvus_code").and_then(serde_json::Value::as_i64).unwrap_or_default();
    let passing = i32::try_from(code).is_ok_and(|code| COMING_BACK.iter().any(|codes| codes.contains(&code)));
    if passing && !too_large(&error) { error.temporary() } else { error }
}

/// Whether the server said that the answer, or the request, was larger than a message may be.
pub(super) fn too_large(error: &Error) -> bool {
    error.kind() == Kind::Server && TOO_LARGE.iter().any(|text| error.message().contains(text))
}

/// Whether the server does not know a segment any more.
pub(super) fn segment_not_found(error: &Error) -> bool {
    let code = error.details().get("milvus_code").and_then(serde_json::Value::as_i64);
    code == Some(SEGMENT_NOT_FOUND) || error.message().contains("segment not found")
}

/// Whether the server does not know the call.
pub(super) fn unimplemented(error: &Error) -> bool {
    error.details().get("grpc_code").is_some_and(|code| code == "Unimplemented")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: i32, error_code: i32, reason: &str) -> proto::Status {
        proto::Status { code, error_code, reason: reason.to_owned(), ..Default::default() }
    }

    #[test]
    fn either_code_means_failure() {
        assert!(check(Some(&status(0, 0, "")), "d").is_ok());
        assert!(check(None, "d").is_ok());
        assert!(check(Some(&status(0, 1, "old")), "d").is_err());
        assert!(check(Some(&status(65535, 0, "new")), "d").is_err());
    }

    #[test]
    fn a_missing_collection_has_its_own_kind() {
        assert_eq!(check(Some(&status(100, 1, "x")), "d").unwrap_err().kind(), Kind::CollectionNotFound);
        assert_eq!(check(Some(&status(0, 4, "x")), "d").unwrap_err().kind(), Kind::CollectionNotFound);
    }

    #[test]
    fn a_rate_limit_passes_but_a_result_too_large_does_not() {
        assert!(check(Some(&status(8, 49, "rate limit exceeded")), "d").unwrap_err().is_temporary());
        let error = check(Some(&status(65535, 1, "query results exceed the limit size")), "d").unwrap_err();
        assert!(!error.is_temporary());
        assert!(too_large(&error));
    }

    #[test]
    fn exhausted_resources_are_waited_for_unless_the_message_is_what_is_too_large() {
        let limited = call_failed(&tonic::Status::resource_exhausted("request is rejected by rate limiter"), "d", "l");
        assert!(limited.is_temporary() && throttled(&limited));
        let large = tonic::Status::resource_exhausted("trying to send message larger than max (7 vs. 6)");
        let large = call_failed(&large, "d", "l");
        assert!(!large.is_temporary() && too_large(&large) && !throttled(&large));
    }

    #[test]
    fn not_loaded_passes_only_where_it_is_known_to_be_loaded() {
        let error = check(Some(&status(101, 1, "collection not loaded")), "d").unwrap_err();
        assert!(!error.is_temporary());
        assert!(while_loaded(error).is_temporary());
        assert!(!while_loaded(check(Some(&status(1100, 1, "bad filter")), "d").unwrap_err()).is_temporary());
    }
}
