//! A server's management port: it keeps the files of replaced segments for a while, if asked to.
//!
//! `GET /management/datacoord/garbage_collection/pause?pause_seconds=…&collection_id=…`, and `…/resume?ticket=…`, at the
//! port of metrics (9091 by default), without credentials. Read in the public sources of Milvus 2.4 and later and of
//! milvus-backup; 2.3.5 answers 404 (measured). A pause ends by itself, so that nothing has to be undone after a crash.

use reqwest::Method;
use serde::Deserialize;

use super::http::Http;
use crate::error::{Error, Kind, Result};

const FOLDER: &str = "/management/datacoord/garbage_collection";
const NOT_FOUND: u16 = 404;

/// A management port.
pub struct Management {
    http: Http,
}

/// What a pause is ended by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket(String);

#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    ticket: String,
}

impl Management {
    /// The management port at an address, such as `http://milvus:9091`.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where it is no address.
    pub fn at(address: &str) -> Result<Self> {
        Ok(Self { http: Http::at(address).map_err(|error| error.context("milvus_management"))? })
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> &str {
        self.http.address().as_str()
    }

    /// Has the server remove no files of a collection for so many seconds; `None` where it cannot. Older servers take it
    /// for all collections.
    ///
    /// # Errors
    /// [`Kind::Server`] where nothing answers, or the server refuses.
    pub async fn pause(&self, collection: i64, seconds: u64) -> Result<Option<Ticket>> {
        let path = format!("{FOLDER}/pause?pause_seconds={seconds}&collection_id={collection}");
        let answer = self.http.ask(Method::GET, &path, None).await?;
        match answer.status {
            NOT_FOUND => Ok(None),
            200..300 => Ok(Some(Ticket(answer.json::<Answer>().unwrap_or_default().ticket))),
            status => Err(self.refused("pausing", status)),
        }
    }

    /// Ends a pause.
    ///
    /// # Errors
    /// [`Kind::Server`] where nothing answers, or the server refuses: then it ends by itself.
    pub async fn resume(&self, ticket: &Ticket) -> Result<()> {
        let path = match ticket {
            Ticket(ticket) if ticket.is_empty() => format!("{FOLDER}/resume"),
            Ticket(ticket) => {
                let ticket: String = url::form_urlencoded::byte_serialize(ticket.as_bytes()).collect();
                format!("{FOLDER}/resume?ticket={ticket}")
            }
        };
        let answer = self.http.ask(Method::GET, &path, None).await?;
        if (200..300).contains(&answer.status) { Ok(()) } else { Err(self.refused("resuming", answer.status)) }
    }

    fn refused(&self, doing: &str, status: u16) -> Error {
        Error::new(
            Kind::Server,
            format!("{doing} the removal of files: {} answers with status {status}", self.address()),
        )
    }
}
