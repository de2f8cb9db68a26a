//! What went wrong with storage, in words and with the attributes that Python's exceptions carry.

use std::error::Error as StdError;
use std::io::{self, ErrorKind};

use object_store::Error as ObjectError;

use crate::error::{Error, Kind, chain};

/// A client that has repeated a request for so long has done what can be done.
const LONG_SECONDS: f64 = 120.0;

/// Whether it only says that the file is not there. A bucket that is not there is another matter.
pub(super) fn is_absent(error: &ObjectError) -> bool {
    matches!(error, ObjectError::NotFound { .. }) && !chain(error).contains("NoSuchBucket")
}

/// An error of the local disk. `wanted` is how many bytes were to be written.
pub(super) fn from_io(
    doing: &str,
    at: String,
    error: &io::Error,
    wanted: Option<u64>,
    available: Option<u64>,
) -> Error {
    if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        let room = available.map(|bytes| format!(" ({bytes} bytes are free)")).unwrap_or_default();
        return Error::new(
            Kind::InsufficientStorage,
            format!("{doing} {at}: no space left{room}; free some, or use another disk"),
        )
        .with("required_bytes", wanted)
        .with("available_bytes", available)
        .with("storage_path", at);
    }
    let permissions = matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem);
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => "; give this user access to the folder",
        ErrorKind::ReadOnlyFilesystem => "; the file system is read-only: mount it for writing, or use another folder",
        ErrorKind::NotADirectory => "; a file is where a folder has to be",
        _ => "",
    };
    Error::new(Kind::Storage, format!("{doing} {at}: {error}{hint}"))
        .with("storage_path", at)
        .with("error_code", code(error))
        .with("permissions_issue", permissions)
}

/// An error of an object store, or of the local disk where one is its cause.
pub(super) fn from_object(
    doing: &str,
    at: String,
    error: &ObjectError,
    wanted: Option<u64>,
    available: Option<u64>,
) -> Error {
    if let Some(cause) = io_cause(error)
        && cause.raw_os_error().is_some()
        && matches!(error, ObjectError::Generic { store: "LocalFileSystem", .. } | ObjectError::NotFound { .. })
    {
        return from_io(doing, at, cause, wanted, available);
    }
    let text = without_queries(&chain(error));
    // Object stores explain themselves in XML.
    let service_code = element(&text, "Code");
    let said = match (&service_code, element(&text, "Message")) {
        (Some(code), Some(message)) => format!("{message} ({code})"),
        _ => text.chars().take(600).collect(),
    };
    if is_full(service_code.as_deref(), &text) {
        return Error::new(
            Kind::InsufficientStorage,
            format!(
                "{doing} {at}: the store has no room left: {said}. Delete backups there (apply_retention_policy does), \
                 have its quota raised, or use another repository"
            ),
        )
        .with("required_bytes", wanted)
        .with("available_bytes", available)
        .with("storage_path", at);
    }
    let unauthorised = matches!(error, ObjectError::PermissionDenied { .. } | ObjectError::Unauthenticated { .. });
    let (code, hint, temporary) = match (error, service_code.as_deref()) {
        (ObjectError::PermissionDenied { .. }, _) => ("403", "; check what these credentials may do", false),
        (ObjectError::Unauthenticated { .. }, _) => ("401", "; check the credentials", false),
        (_, Some("NoSuchBucket")) => ("404", "; check the name of the bucket", false),
        (ObjectError::NotFound { .. }, _) => ("404", "; check the name of the bucket or container", false),
        (ObjectError::NotImplemented { .. } | ObjectError::NotSupported { .. }, _) => ("not_supported", "", false),
        (_, Some(code)) if !matches!(code, "SlowDown" | "InternalError" | "ServiceUnavailable" | "RequestTimeout") => {
            (code, "", false)
        }
        _ => ("unavailable", "; check the endpoint and the network, and try again", true),
    };
    let error = Error::new(Kind::Storage, format!("{doing} {at}: {said}{hint}"))
        .with("storage_path", at)
        .with("error_code", service_code.as_deref().unwrap_or(code))
        .with("permissions_issue", unauthorised);
    if temporary { error.temporary() } else { error }
}

/// Stores say in different words that nothing more goes in: a quota is used up, or the disks are.
fn is_full(code: Option<&str>, text: &str) -> bool {
    let codes = ["QuotaExceeded", "StorageFull", "InsufficientStorage", "InsufficientCapacity", "AccountQuota"];
    code.is_some_and(|code| codes.iter().any(|word| code.contains(word))) || text.contains("507 Insufficient Storage")
}

/// Whether a request may succeed when made again: the failure is one that passes, and the client did not itself repeat
/// it as often as it may.
pub(super) fn may_pass(error: &ObjectError) -> bool {
    let text = chain(error);
    let exhausted = text.split_once(", after ").is_some_and(|(before, rest)| {
        let often = rest.split_once(" retries, max_retries: ");
        let often = often.is_some_and(|(times, rest)| rest.split(',').next() == Some(times));
        let took = before.rsplit(' ').next().and_then(|word| word.strip_suffix('s')?.parse::<f64>().ok());
        often || took.is_some_and(|seconds| seconds > LONG_SECONDS)
    });
    !exhausted && from_object("", String::new(), error, None, None).is_temporary()
}

/// The answer ended before it was whole, and nobody said so.
pub(super) fn cut(given: u64, wanted: u64) -> ObjectError {
    other(format!("it is shorter than expected: {given} of {wanted} bytes were given"))
}

pub(super) fn other(what: String) -> ObjectError {
    ObjectError::Generic { store: "object store", source: what.into() }
}

fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once(&format!("</{name}>"))?;
    Some(content.to_owned())
}

fn io_cause(error: &ObjectError) -> Option<&io::Error> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(found) = inner.downcast_ref::<io::Error>() {
            return Some(found);
        }
        cause = inner.source();
    }
    None
}

/// URLs without what comes after `?`: on some stores that is a signature.
fn without_queries(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut skipping = false;
    for c in text.chars() {
        match c {
            '?' => skipping = true,
            ' ' | '"' | ')' | '<' | '\n' => skipping = false,
            _ => {}
        }
        if !skipping {
            kept.push(c);
        }
    }
    kept
}

fn code(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else { return format!("{:?}", error.kind()) };
    let name = match number {
        libc::EACCES => "EACCES",
        libc::EPERM => "EPERM",
        libc::EROFS => "EROFS",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EIO => "EIO",
        libc::EMFILE => "EMFILE",
        libc::ENFILE => "ENFILE",
        libc::ENAMETOOLONG => "ENAMETOOLONG",
        libc::ELOOP => "ELOOP",
        libc::ENOENT => "ENOENT",
        libc::ESTALE => "ESTALE",
        other => return format!("errno {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_numbers() {
        let full = io::Error::from(ErrorKind::StorageFull);
        let error = from_io("writing", "/data/x".to_owned(), &full, Some(10), Some(3));
        assert_eq!(error.kind(), Kind::InsufficientStorage);
        assert_eq!((&error.details()["required_bytes"], &error.details()["available_bytes"]), (&10.into(), &3.into()));
    }

    #[test]
    fn a_denied_folder_is_told_as_a_matter_of_permissions() {
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        let error = from_io("writing", "/data/x".to_owned(), &denied, None, None);
        assert_eq!(error.details()["permissions_issue"], true);
        assert_eq!(error.details()["error_code"], "EACCES");
        assert_eq!(error.details()["storage_path"], "/data/x");
    }

    #[test]
    fn signatures_in_urls_are_left_out() {
        let text = without_queries("GET https://host/key?sig=SECRET&x=1 failed (https://host/?a=SECRET)");
        assert_eq!(text, "GET https://host/key failed (https://host/)");
    }

    #[test]
    fn what_a_service_says_in_xml_becomes_words() {
        let said = "<Error><Code>NoSuchBucket</Code><Message>The bucket does not exist</Message></Error>";
        let error = ObjectError::Generic { store: "S3", source: said.into() };
        let error = from_object("listing", "s3://b/x".to_owned(), &error, None, None);
        assert!(error.message().contains("The bucket does not exist (NoSuchBucket); check the name"), "{error}");
        assert!(!error.is_temporary());
    }

    #[test]
    fn only_what_may_pass_and_was_not_repeated_enough_is_repeated() {
        let said = |text: &str| ObjectError::Generic { store: "S3", source: text.to_owned().into() };
        assert!(may_pass(&said("connection reset")));
        assert!(may_pass(&said(
            "Error performing PUT x in 1s, after 1 retries, max_retries: 5, retry_timeout: 180s - reset"
        )));
        assert!(!may_pass(&said(
            "Error performing PUT x in 1s, after 5 retries, max_retries: 5, retry_timeout: 180s - reset"
        )));
        assert!(!may_pass(&said(
            "Error performing PUT x in 181.5s, after 2 retries, max_retries: 5, retry_timeout: 180s - reset"
        )));
        assert!(!may_pass(&said("<Error><Code>InvalidRequest</Code></Error>")));
        let denied = ObjectError::PermissionDenied { path: String::new(), source: "no".into() };
        assert!(!may_pass(&denied));
    }

    #[test]
    fn a_store_that_is_full_is_told_as_such_whatever_its_words() {
        for said in [
            "<Error><Code>QuotaExceeded</Code><Message>no more</Message></Error>",
            "<Error><Code>XMinioStorageFull</Code><Message>no more</Message></Error>",
            "Server returned non-2xx status code: 507 Insufficient Storage: ",
        ] {
            let error = ObjectError::Generic { store: "S3", source: said.into() };
            let error = from_object("writing", "s3://b/x".to_owned(), &error, Some(7), None);
            assert_eq!(error.kind(), Kind::InsufficientStorage, "{said}");
            assert_eq!(
                (&error.details()["required_bytes"], &error.details()["storage_path"]),
                (&7.into(), &"s3://b/x".into())
            );
            assert!(error.message().contains("another repository") && !error.is_temporary(), "{error}");
        }
    }
}
