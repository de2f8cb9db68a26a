//! What counts as a failure: a panic that comes out, one in Milvault's own code, memory beyond what the input is worth,
//! and an error that does not say enough.

use std::alloc::System;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};

use cap::Cap;
use milvault::error::{Error, Kind};

/// Beyond its limit an allocation fails, which ends the process.
#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, 2 << 30);

/// What may be allocated whatever the input.
const BASE_MEMORY: usize = 64 << 20;
/// What may be allocated for each byte of input: as much as zstd makes of one at most, since pages are unpacked whole.
const MEMORY_PER_BYTE: usize = 32 << 10;

/// The last panic: whether it was in Milvault's own code or in the target's, and what it said.
struct Panic {
    own: bool,
    text: String,
}

thread_local! {
    static LAST: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// Notes panics from here on instead of ending the process at the first, as libFuzzer's own hook does.
pub fn start() {
    panic::set_hook(Box::new(|info| {
        let file = info.location().map_or("", |location| location.file());
        // Other people's crates lie in the registry, the standard library in the toolchain.
        let own = !file.contains("/registry/") && !file.contains("/rustc/") && !file.contains("/rustlib/");
        // Looking the frames up takes longer than an input does.
        let frames = if std::env::var_os("FUZZ_BACKTRACE").is_some() {
            std::backtrace::Backtrace::force_capture().to_string()
        } else {
            String::new()
        };
        LAST.set(Some(Panic { own, text: format!("{info}\n{frames}") }));
    }));
}

/// Runs an input of `length` bytes; where that fails, the process ends, and libFuzzer keeps the input.
pub fn run(length: usize, input: impl FnOnce()) {
    LAST.set(None);
    let (before, most) = (MEMORY.allocated(), MEMORY.max_allocated());
    let outcome = panic::catch_unwind(AssertUnwindSafe(input));
    if let Some(seen) = LAST.take().filter(|seen| outcome.is_err() || seen.own) {
        let how = if outcome.is_err() { "came out of" } else { "was caught within" };
        fail(&format!("a panic {how} the reader: {}", seen.text));
    }
    // The most is that of all inputs so far: of those that stay below it nothing is known, but that it was enough for one.
    let now = MEMORY.max_allocated();
    let worth = BASE_MEMORY + MEMORY_PER_BYTE * length;
    if now > most && now - before > worth {
        fail(&format!(
            "{} bytes were allocated at once, of which an input of {length} bytes is worth {worth}",
            now - before
        ));
    }
}

fn fail(what: &str) -> ! {
    eprintln!("{what}");
    std::process::abort();
}

/// Panics unless the error is one that whatever is in a file may lead to, and tells what a person needs.
pub fn check(error: &Error) {
    match error.kind() {
        Kind::SchemaIncompatible => {}
        Kind::BackupCorrupted => {
            let files = error.details().get("failed_files").and_then(|files| files.as_array());
            assert!(files.is_some_and(|files| !files.is_empty()), "an error names no files: {error:?}");
        }
        kind => panic!("bytes led to an error of kind {kind:?}: {error:?}"),
    }
}
