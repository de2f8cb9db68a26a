//! The repository on an object store: how each kind is opened, and how its keys are made.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::error::{Error, Kind, Result, chain, internal};

/// An object store, and the prefix in it that is the repository.
pub(super) struct Remote {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The bucket and how it is reached, where another store with the same is known to be the same place.
    pub(super) origin: Option<String>,
    prefix: String,
}

impl Remote {
    pub(super) fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { store, origin: None, prefix: prefix.trim_matches('/').to_owned() }
    }

    /// The key of `path`; the prefix itself for the empty path.
    pub(super) fn key(&self, path: &str) -> Result<Path> {
        let text = match (self.prefix.is_empty(), path.is_empty()) {
            (true, _) => path.to_owned(),
            (false, true) => self.prefix.clone(),
            (false, false) => format!("{}/{path}", self.prefix),
        };
        Path::parse(&text).map_err(|error| internal(format!("{text:?} is no key of an object: {error}")))
    }

    /// The path whose key this is.
    pub(super) fn path(&self, key: &Path) -> Option<String> {
        let rest = key.as_ref().strip_prefix(&self.prefix)?;
        let rest = if self.prefix.is_empty() { rest } else { rest.strip_prefix('/')? };
        (!rest.is_empty()).then(|| rest.to_owned())
    }

    /// Opens what `url` names.
    pub(super) fn open(url: &Url, options: &BTreeMap<String, String>) -> Result<Self> {
        crate::tls::install_provider();
        let host = url.host_str().unwrap_or_default();
        if host.is_empty() && url.scheme() != "memory" {
            return Err(invalid(format!("{url} names no bucket: write {}://bucket/prefix", url.scheme())));
        }
        let prefix =
            Path::from_url_path(url.path()).map_err(|error| invalid(format!("{url} is no prefix of keys: {error}")))?;
        let store: Arc<dyn ObjectStore> = match url.scheme() {
            "s3" | "s3a" => {
                let mut builder = AmazonS3Builder::from_env().with_bucket_name(host).with_retry(retry());
                for (key, value) in time_limits(|key| builder.get_config_value(&AmazonS3ConfigKey::Client(key))) {
                    builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
                }
                for (key, value) in options {
                    builder = builder.with_config(option(key)?, value);
                }
                Arc::new(builder.build().map_err(|error| unusable(url, &error))?)
            }
            "gs" => {
                let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(host).with_retry(retry());
                for (key, value) in time_limits(|key| builder.get_config_value(&GoogleConfigKey::Client(key))) {
                    builder = builder.with_config(GoogleConfigKey::Client(key), value);
                }
                for (key, value) in options {
                    builder = builder.with_config(option(key)?, value);
                }
                Arc::new(builder.build().map_err(|error| unusable(url, &error))?)
            }
            "az" | "azure" => {
                let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(host).with_retry(retry());
                for (key, value) in time_limits(|key| builder.get_config_value(&AzureConfigKey::Client(key))) {
                    builder = builder.with_config(AzureConfigKey::Client(key), value);
                }
                for (key, value) in options {
                    builder = builder.with_config(option(key)?, value);
                }
                Arc::new(builder.build().map_err(|error| unusable(url, &error))?)
            }
            "memory" => memory(host),
            scheme => {
                return Err(invalid(format!(
                    "a repository cannot be at {scheme}://: use a folder, file://, s3://, gs:// or az://"
                )));
            }
        };
        // Options hold secrets: this is compared, never shown.
        let origin = format!("{}://{host} {options:?}", url.scheme());
        Ok(Self { origin: Some(origin), ..Self::new(store, prefix.as_ref()) })
    }
}

/// Long enough for a store that is busy, short enough for a person who mistyped the endpoint.
fn retry() -> RetryConfig {
    RetryConfig { max_retries: 5, retry_timeout: Duration::from_secs(180), ..RetryConfig::default() }
}

/// Silence ends a request, not its length: a large file may be read as slowly as a limit on the bandwidth wants. What
/// the environment says, `value` knows, and it holds; options hold in any case.
fn time_limits(value: impl Fn(ClientConfigKey) -> Option<String>) -> Vec<(ClientConfigKey, &'static str)> {
    let defaults = ClientOptions::default();
    [(ClientConfigKey::ReadTimeout, "30 seconds"), (ClientConfigKey::Timeout, "1 day")]
        .into_iter()
        .filter(|(key, _)| value(*key) == defaults.get_config_value(key))
        .collect()
}

fn option<K: std::str::FromStr>(key: &str) -> Result<K> {
    key.to_ascii_lowercase().parse().map_err(|_| invalid(format!("{key:?} is not an option of this kind of storage")))
}

fn unusable(url: &Url, error: &object_store::Error) -> Error {
    Error::new(Kind::Storage, format!("{url} cannot be used as a repository: {}", chain(error)))
        .with("storage_path", url.as_str())
}

/// Memory that lasts as long as the process, one for each name: for tests.
fn memory(name: &str) -> Arc<dyn ObjectStore> {
    static STORES: Mutex<Option<HashMap<String, Arc<InMemory>>>> = Mutex::new(None);
    let mut stores = STORES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let store = stores.get_or_insert_with(HashMap::new).entry(name.to_owned()).or_default();
    Arc::<InMemory>::clone(store)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_ends_a_request_and_its_length_does_not_unless_somebody_says_so() {
        let limits = |given: &[(&str, &str)]| {
            let mut builder = AmazonS3Builder::new();
            for (name, value) in given {
                builder = builder.with_config(option(name).unwrap(), *value);
            }
            time_limits(|key| builder.get_config_value(&AmazonS3ConfigKey::Client(key)))
        };
        let (silence, whole) = ((ClientConfigKey::ReadTimeout, "30 seconds"), (ClientConfigKey::Timeout, "1 day"));
        assert_eq!(limits(&[]), [silence, whole]);
        assert_eq!(limits(&[("aws_read_timeout", "90 seconds")]), [whole]);
        assert_eq!(limits(&[("aws_timeout", "10 minutes")]), [silence]);
    }
}
