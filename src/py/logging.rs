//! Rust's tracing → Python's `logging`: events are kept here until Python fetches them, since a thread of ours may not
//! touch an interpreter that is going down.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// How many events are kept; of more, the oldest go.
const KEPT: usize = 1000;

static EVENTS: Mutex<VecDeque<(u8, String)>> = Mutex::new(VecDeque::new());

/// Takes the events that came since the last time: Python's number of the level, and the text.
pub(super) fn drain() -> Vec<(u8, String)> {
    EVENTS.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
}

/// Keeps this crate's events of level INFO and above for Python. Once a process; a subscriber that is there already stays.
pub(super) fn install() {
    let _ = tracing::subscriber::set_global_default(ToPython);
}

struct ToPython;

impl Subscriber for ToPython {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("milvault")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            _ => 20,
        };
        let mut events = EVENTS.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back((level, text.finish()));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message, then the fields as `name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn finish(self) -> String {
        if self.fields.is_empty() { self.message } else { format!("{} ({})", self.message, self.fields) }
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write;
        let written = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            let comma = if self.fields.is_empty() { "" } else { ", " };
            write!(self.fields, "{comma}{}={value:?}", field.name())
        };
        debug_assert!(written.is_ok(), "writing to a String does not fail");
    }
}
