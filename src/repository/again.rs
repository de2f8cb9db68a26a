//! Trying again where an object store's client does not: an answer that broke off in the middle, and requests that are
//! unsafe to repeat in general and safe here. A conditional put finds what its earlier try has written, and to delete
//! what is gone already is no error.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::{Error as ObjectError, GetOptions, GetRange, ObjectStoreExt, Result as ObjectResult};
use tokio::time::sleep;

use crate::error::Result;

use super::names::RelativePath;
use super::remote::Remote;
use super::storage_error;
use super::store::{Backend, Store};

/// How often a request is made at most; each time, the client has repeats of its own.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });

/// Makes a request until it succeeds, or fails in a way that trying again does not cure.
pub(super) async fn again<T, F: Future<Output = ObjectResult<T>>>(mut request: impl FnMut() -> F) -> ObjectResult<T> {
    for tried in 1..TRIES {
        match request().await {
            Err(error) if storage_error::may_pass(&error) => pause(tried, &error).await,
            outcome => return outcome,
        }
    }
    request().await
}

async fn pause(tried: u32, error: &ObjectError) {
    tracing::debug!(%error, tried, "a request to the store failed and is made again");
    sleep(FIRST_PAUSE * 2_u32.pow(tried - 1)).await;
}

/// An object being read from its beginning to its end. Where the connection breaks, or the body ends before it is whole,
/// the rest is asked for, of the same version; only failures without a byte between them count.
struct Reader {
    store: Store,
    path: RelativePath,
    version: Option<String>,
    at: u64,
    length: u64,
    blocks: Option<BoxStream<'static, ObjectResult<Bytes>>>,
    failures: u32,
}

/// The blocks of an object. An error at once where there is none, or where it cannot be read.
pub(super) async fn blocks(
    store: &Store,
    remote: &Remote,
    path: &RelativePath,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let key = remote.key(path.as_str())?;
    let result = again(|| remote.store.get(&key)).await;
    let result = result.map_err(|error| store.object_error("reading", path.as_str(), &error, None))?;
    let reader = Reader {
        store: store.clone(),
        path: path.clone(),
        version: result.meta.e_tag.clone(),
        at: 0,
        length: result.meta.size,
        blocks: Some(result.into_stream()),
        failures: 0,
    };
    Ok(futures::stream::try_unfold(reader, |mut reader| async move {
        Ok(reader.next().await?.map(|block| (block, reader)))
    })
    .boxed())
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.step().await {
                Ok(None) => return Ok(None),
                Ok(Some(block)) => {
                    self.failures = 0;
                    self.at += block.len() as u64;
                    return Ok(Some(block));
                }
                Err(error) => {
                    self.blocks = None;
                    self.failures += 1;
                    if self.failures >= TRIES || !storage_error::may_pass(&error) {
                        return Err(self.store.object_error("reading", self.path.as_str(), &error, None));
                    }
                    pause(self.failures, &error).await;
                }
            }
        }
    }

    async fn step(&mut self) -> ObjectResult<Option<Bytes>> {
        if self.blocks.is_none() {
            self.blocks = Some(self.rest().await?);
        }
        let Some(blocks) = &mut self.blocks else { return Ok(None) };
        match blocks.try_next().await? {
            None if self.at < self.length => Err(storage_error::cut(self.at, self.length)),
            block => Ok(block),
        }
    }

    async fn rest(&mut self) -> ObjectResult<BoxStream<'static, ObjectResult<Bytes>>> {
        let Backend::Remote(remote) = &self.store.inner.backend else { return Ok(futures::stream::empty().boxed()) };
        let key = remote.key(self.path.as_str()).map_err(|error| storage_error::other(error.to_string()))?;
        let mut options = GetOptions { if_match: self.version.clone(), ..GetOptions::default() };
        if self.at > 0 {
            options.range = Some(GetRange::Offset(self.at));
        }
        Ok(remote.store.get_opts(&key, options).await?.into_stream())
    }
}
