//! What a server tells over plain HTTP and not over gRPC: JSON, at its own address or at its management port.

use std::time::Duration;

use reqwest::{Certificate, Identity, Method};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::channel::read_pem;
use super::client::ServerConfig;
use crate::error::{Error, Kind, Result, chain};

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest answer that is read: the files of a hundred segments take a few hundred kilobytes.
const LONGEST_ANSWER: usize = 64 << 20;

/// A place that answers with JSON.
pub(super) struct Http {
    client: reqwest::Client,
    base: Url,
    bearer: Option<String>,
}

/// What came back, of any status.
pub(super) struct Answer {
    pub(super) status: u16,
    body: Vec<u8>,
}

impl Http {
    /// A server's own address, with its certificates and credentials.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where they cannot be used.
    pub(super) async fn of_server(config: &ServerConfig) -> Result<Self> {
        let mut base = parse(&config.uri)?;
        let mut builder = builder();
        if base.scheme() == "https" {
            if let Some(path) = &config.ca_file {
                let roots = Certificate::from_pem_bundle(&read_pem(path).await?).map_err(|error| unusable(&error))?;
                builder = builder.tls_certs_only(roots);
            }
            if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
                let pem = [read_pem(cert).await?, read_pem(key).await?].concat();
                builder = builder.identity(Identity::from_pem(&pem).map_err(|error| unusable(&error))?);
            }
            if let Some(name) = &config.server_name {
                // Its certificate bears another name than its host: asked by that name, at the host's address.
                let port = base.port_or_known_default().unwrap_or(443);
                let host = base.host_str().unwrap_or_default().to_owned();
                let found = tokio::net::lookup_host((host.as_str(), port)).await;
                let addresses: Vec<_> = found.map_err(|error| unreachable(&base, &error.to_string()))?.collect();
                builder = builder.resolve_to_addrs(name, &addresses);
                base.set_host(Some(name)).map_err(|error| unusable(&error))?;
            }
        }
        let bearer = config.token.clone().or_else(|| {
            let user = config.user.as_ref()?;
            Some(format!("{user}:{}", config.password.as_deref().unwrap_or_default()))
        });
        Ok(Self { client: builder.build().map_err(|error| unusable(&error))?, base, bearer })
    }

    /// Another address, which takes no credentials.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where it is none.
    pub(super) fn at(address: &str) -> Result<Self> {
        let client = builder().build().map_err(|error| unusable(&error))?;
        Ok(Self { client, base: parse(address)?, bearer: None })
    }

    /// Its address.
    pub(super) fn address(&self) -> &Url {
        &self.base
    }

    /// Asks once.
    ///
    /// # Errors
    /// [`Kind::Server`] where nothing answers in time.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let url = self.base.join(path).map_err(|error| unusable(&error))?;
        let mut request = self.client.request(method, url).header("accept", "application/json");
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        if let Some(bearer) = &self.bearer {
            request = request.bearer_auth(bearer);
        }
        let failed = |error: reqwest::Error| unreachable(&self.base, &chain(&error.without_url()));
        let mut answer = request.send().await.map_err(failed)?;
        let (status, mut body) = (answer.status().as_u16(), Vec::new());
        while let Some(bytes) = answer.chunk().await.map_err(failed)? {
            if body.len() + bytes.len() > LONGEST_ANSWER {
                return Err(unreachable(&self.base, "its answer has no end"));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(Answer { status, body })
    }
}

impl Answer {
    /// The answer as JSON, where its status says that all went well.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        (200..300).contains(&self.status).then(|| serde_json::from_slice(&self.body).ok()).flatten()
    }
}

fn builder() -> reqwest::ClientBuilder {
    crate::tls::install_provider();
    // What speaks HTTP/2 at a server's address is taken for gRPC.
    reqwest::Client::builder().http1_only().timeout(LIMIT).redirect(reqwest::redirect::Policy::none())
}

fn parse(address: &str) -> Result<Url> {
    let url = Url::parse(address).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| {
        Error::new(
            Kind::InvalidArgument,
            format!("'{address}' is no address that can be asked: give http://host:port or https://host:port"),
        )
    })
}

fn unusable(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::new(Kind::InvalidArgument, format!("HTTP cannot be spoken with these settings: {}", chain(error)))
}

fn unreachable(address: &Url, why: &str) -> Error {
    Error::new(Kind::Server, format!("{address} does not answer over HTTP: {why}")).temporary()
}
