//! A connection: address, credentials, database, deadlines, and retries of what is safe to repeat.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Deserialize;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use super::channel::{Credentials, endpoint};
use super::making::Making;
use super::proto;
use super::proto::milvus_service_client::MilvusServiceClient;
use super::status;
use crate::error::{Error, Kind, Result};

/// The largest answer taken. 2.3.5 sends at most 64 MiB, Milvus Lite 256 MiB.
const MAX_ANSWER_BYTES: usize = 512 << 20;

/// Where a server is and how to talk to it.
#[derive(Clone, Deserialize)]
pub struct ServerConfig {
    /// `http://host:port`, or `https://` for TLS.
    pub uri: String,
    /// What people call it, and what journals know it by: the address, or the path of a Milvus Lite file.
    pub label: String,
    /// An API key, or `user:password`.
    #[serde(default)]
    pub token: Option<String>,
    /// User name, where no token is given.
    #[serde(default)]
    pub user: Option<String>,
    /// The user's password.
    #[serde(default)]
    pub password: Option<String>,
    /// The database; `default` where unsaid.
    #[serde(default = "default_database")]
    pub db_name: String,
    /// A PEM file with the authority to trust instead of the system's.
    #[serde(default)]
    pub ca_file: Option<String>,
    /// A PEM file with our certificate, where the server wants one.
    #[serde(default)]
    pub cert_file: Option<String>,
    /// The PEM file of its key.
    #[serde(default)]
    pub key_file: Option<String>,
    /// The name that the server's certificate must bear, where it is not the host's.
    #[serde(default)]
    pub server_name: Option<String>,
    /// How long connecting may take, in seconds.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout_seconds: f64,
    /// How long one call may take, in seconds.
    #[serde(default = "default_request_timeout")]
    pub request_timeout_seconds: f64,
}

fn default_database() -> String {
    "default".to_owned()
}
fn default_connect_timeout() -> f64 {
    10.0
}
fn default_request_timeout() -> f64 {
    120.0
}

/// How many times as often as others a call is repeated that the server refused as too much at once: it is there, and
/// each pause lets it catch up.
const THROTTLED_PATIENCE: u32 = 4;
/// After so many doublings, pauses for such a call grow no longer.
const THROTTLED_DOUBLINGS: u32 = 3;

/// How often, and after what pause, a call that may succeed on repetition is repeated.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Repetitions after the first attempt.
    pub max_retries: u32,
    /// The first pause; doubled each time, at most 60 s, with jitter of ±50 %.
    pub delay: Duration,
}

impl Retry {
    /// The pause before repetition number `attempt` (from 0).
    pub(crate) fn pause(&self, attempt: u32) -> Duration {
        let full = self.delay.saturating_mul(1 << attempt.min(10)).min(Duration::from_secs(60));
        full.mul_f64(rand::random_range(0.5..1.5))
    }

    /// The pause before a call that failed so is repeated, after `attempt` repetitions; `None` where it is not to be.
    pub(super) fn after(&self, attempt: u32, error: &Error) -> Option<Duration> {
        let throttled = status::throttled(error);
        let most = if throttled { self.max_retries.saturating_mul(THROTTLED_PATIENCE) } else { self.max_retries };
        let doublings = if throttled { attempt.min(THROTTLED_DOUBLINGS) } else { attempt };
        (error.is_temporary() && attempt < most).then(|| self.pause(doublings))
    }

    /// Attempts something, and again after a pause where it failed in a way that may pass. Other failures end it at
    /// once.
    async fn repeat<T, F: Future<Output = Result<T>>>(&self, mut attempt: impl FnMut() -> F) -> Result<T> {
        let mut number = 0;
        loop {
            match attempt().await {
                Err(error) => {
                    let Some(pause) = self.after(number, &error) else { return Err(error) };
                    tracing::warn!(error = %error, pause_ms = pause.as_millis(), "a call failed and will be repeated");
                    tokio::time::sleep(pause).await;
                    number += 1;
                }
                done => return done,
            }
        }
    }
}

/// Which sort of server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// Milvus Lite: in-process or over TCP.
    Lite,
    /// Milvus standalone or cluster.
    Server,
}

impl ServerKind {
    /// The word for it in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lite => "lite",
            Self::Server => "server",
        }
    }
}

/// A closure that makes one call with a copy of the request, for [`Client::ask`] and its sisters.
macro_rules! rpc {
    ($method:ident, $request:expr) => {
        |mut service| {
            let request = $request.clone();
            async move { service.$method(request).await }
        }
    };
}
pub(super) use rpc;

pub(super) type Service = InterceptedService<Channel, Credentials>;

/// A connection to one database of a Milvus server. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    service: RwLock<MilvusServiceClient<Service>>,
    endpoint: Endpoint,
    credentials: Credentials,
    config: ServerConfig,
    retry: Retry,
    version: String,
    kind: ServerKind,
    allocates_timestamps: AtomicBool,
    making: Making,
}

impl Client {
    /// Connects, says who we are, and asks for the version. A server that is just starting is waited for, as long as
    /// `retry` allows.
    ///
    /// # Errors
    /// [`Kind::Server`] where nothing answers, TLS fails or the credentials are refused; [`Kind::InvalidArgument`] for
    /// an address or certificate that cannot be read.
    pub async fn connect(config: ServerConfig, retry: Retry) -> Result<Self> {
        retry.repeat(|| Self::connect_once(config.clone(), retry)).await
    }

    async fn connect_once(config: ServerConfig, retry: Retry) -> Result<Self> {
        let endpoint = endpoint(&config).await?;
        let doing = "connecting";
        let limit = Duration::from_secs_f64(config.connect_timeout_seconds);
        let channel = tokio::time::timeout(limit, endpoint.connect())
            .await
            .map_err(|_| unreachable_server(&config, "no answer in time").temporary())?
            .map_err(|error| {
                let failure = unreachable_server(&config, &crate::error::chain(&error));
                if may_start_yet(&error) { failure.temporary() } else { failure }
            })?;
        let credentials = Credentials::new(&config)?;
        let service = service_on(channel, credentials.clone());
        let mut first = service.clone();
        let hello = proto::ConnectRequest { client_info: Some(client_info(&config)) };
        let answer = deadline(&config, doing, first.connect(hello)).await?;
        status::check(answer.status.as_ref(), doing)?;
        let version = deadline(&config, doing, first.get_version(proto::Empty {})).await?;
        status::check(version.status.as_ref(), doing)?;
        let embedded = answer.server_info.is_some_and(|info| info.deploy_mode == "embedded");
        let kind =
            if embedded || version.version.starts_with("milvus_lite") { ServerKind::Lite } else { ServerKind::Server };
        let inner = Inner {
            service: RwLock::new(service),
            endpoint,
            credentials,
            config,
            retry,
            version: version.version,
            kind,
            allocates_timestamps: AtomicBool::new(true),
            making: Making::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same connection, working in another database.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] with `available_databases` where there is none of that name.
    pub async fn in_database(&self, name: &str) -> Result<Self> {
        if name == self.database() {
            return Ok(self.clone());
        }
        let known = self.databases().await?;
        if !known.iter().any(|database| database == name) {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!(
                    "{} has no database '{name}', and none was created; it has: {}",
                    self.label(),
                    known.join(", ")
                ),
            )
            .with("available_databases", known));
        }
        let config = ServerConfig { db_name: name.to_owned(), ..self.inner.config.clone() };
        let credentials = Credentials::new(&config)?;
        let inner = Inner {
            service: RwLock::new(service_on(self.inner.endpoint.connect_lazy(), credentials.clone())),
            endpoint: self.inner.endpoint.clone(),
            credentials,
            config,
            retry: self.inner.retry,
            version: self.inner.version.clone(),
            kind: self.inner.kind,
            making: Making::default(),
            allocates_timestamps: AtomicBool::new(self.inner.allocates_timestamps.load(Ordering::Relaxed)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The version that the server told.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.inner.version
    }

    /// Which sort of server it is.
    #[must_use]
    pub fn kind(&self) -> ServerKind {
        self.inner.kind
    }

    /// The database that this connection works in.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.inner.config.db_name
    }

    /// What people call the server.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.inner.config.label
    }

    /// Where the server is.
    pub(super) fn config(&self) -> &ServerConfig {
        &self.inner.config
    }

    /// Collections that are being made.
    pub(super) fn making(&self) -> &Making {
        &self.inner.making
    }

    /// The rules for repetition.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.inner.retry
    }

    /// A timestamp of the server's own clock: reads that are to see at least it see all that was written before this
    /// call. 0, which means "strongly consistent" to Milvus, where the server gives out none (Milvus Lite).
    pub async fn read_timestamp(&self) -> Result<u64> {
        // Lite is not even asked: embedded, it would log the unknown call into its user's own process.
        if self.kind() == ServerKind::Lite || !self.inner.allocates_timestamps.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let doing = "asking for a timestamp";
        match self.call(doing, rpc!(alloc_timestamp, proto::Empty {})).await {
            Ok(answer) => {
                status::check(answer.status.as_ref(), doing)?;
                Ok(answer.timestamp)
            }
            Err(error) if status::unimplemented(&error) => {
                self.inner.allocates_timestamps.store(false, Ordering::Relaxed);
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// One attempt at a call, under its deadline. Where it runs out, later calls go over a new connection: one whose
    /// other end is gone without a word would hold up each of them as long.
    pub(super) async fn call_once<T, F>(
        &self,
        doing: &str,
        send: impl FnOnce(MilvusServiceClient<Service>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let service = self.inner.service.read().unwrap_or_else(PoisonError::into_inner).clone();
        let outcome = deadline(&self.inner.config, doing, send(service)).await;
        if outcome.as_ref().is_err_and(status::timed_out) {
            let fresh = service_on(self.inner.endpoint.connect_lazy(), self.inner.credentials.clone());
            *self.inner.service.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
        outcome
    }

    /// A call that is safe to repeat: transport failures are retried. What the answer's own status says is the
    /// caller's to check; use [`Client::ask`] to retry that too.
    pub(super) async fn call<T, F>(&self, doing: &str, send: impl Fn(MilvusServiceClient<Service>) -> F) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.retried(|| self.call_once(doing, &send)).await
    }

    /// A call that is safe to repeat and whose answer carries a status: both are checked, and retried where it may help.
    pub(super) async fn ask<T: HasStatus, F>(
        &self,
        doing: &str,
        send: impl Fn(MilvusServiceClient<Service>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.retried(|| self.ask_once(doing, &send)).await
    }

    /// As [`Client::ask`], of the rows of a collection that is known to be loaded: a server that was restarted, and
    /// says for a while that it is not, is asked again. Milvus Lite loads nothing by itself after a restart.
    pub(super) async fn ask_loaded<T: HasStatus, F>(
        &self,
        doing: &str,
        send: impl Fn(MilvusServiceClient<Service>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let passing = |error| if self.kind() == ServerKind::Lite { error } else { status::while_loaded(error) };
        self.retried(|| async { self.ask_once(doing, &send).await.map_err(passing) }).await
    }

    /// A call that must not be done twice. Where its answer is lost, `found` says whether it happened; only if it did not
    /// is it repeated.
    pub(super) async fn ask_for_once<'a, T: HasStatus, F>(
        &self,
        doing: &str,
        send: impl Fn(MilvusServiceClient<Service>) -> F,
        found: impl Fn() -> BoxFuture<'a, Result<bool>>,
    ) -> Result<()>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut number = 0;
        loop {
            let Err(error) = self.ask_once(doing, &send).await else { return Ok(()) };
            let Some(pause) = self.inner.retry.after(number, &error) else { return Err(error) };
            tracing::warn!(error = %error, pause_ms = pause.as_millis(), "a call failed: whether it was done is looked up");
            tokio::time::sleep(pause).await;
            number += 1;
            if found().await? {
                return Ok(());
            }
        }
    }

    /// One call that is never repeated: a second one would do it twice, and nothing shows whether the first did it.
    pub(super) async fn ask_single<T: HasStatus, F>(
        &self,
        doing: &str,
        send: impl Fn(MilvusServiceClient<Service>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_once(doing, send).await
    }

    async fn ask_once<T: HasStatus, F>(
        &self,
        doing: &str,
        send: impl Fn(MilvusServiceClient<Service>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let answer = self.call_once(doing, &send).await?;
        status::check(answer.status(), doing)?;
        Ok(answer)
    }

    async fn retried<T, F: Future<Output = Result<T>>>(&self, attempt: impl FnMut() -> F) -> Result<T> {
        self.inner.retry.repeat(attempt).await
    }
}

/// An answer that says how the call went.
pub(super) trait HasStatus {
    fn status(&self) -> Option<&proto::Status>;
}

impl HasStatus for proto::Status {
    fn status(&self) -> Option<&proto::Status> {
        Some(self)
    }
}

macro_rules! has_status {
    ($($answer:ident),* $(,)?) => {$(
        impl HasStatus for proto::$answer {
            fn status(&self) -> Option<&proto::Status> {
                self.status.as_ref()
            }
        }
    )*};
}
has_status!(
    DescribeCollectionResponse,
    DescribeIndexResponse,
    FlushResponse,
    GetFlushStateResponse,
    ImportResponse,
    ImportStateResponse,
    ListAliasesResponse,
    ListDatabasesResponse,
    ListUsersResponse,
    LoadStateResponse,
    LoadingProgressResponse,
    MutationResult,
    PersistentSegmentsResponse,
    QueryResults,
    SelectGrantResponse,
    SelectRoleResponse,
    ShowCollectionsResponse,
    ShowPartitionsResponse,
);

fn service_on(channel: Channel, credentials: Credentials) -> MilvusServiceClient<Service> {
    MilvusServiceClient::with_interceptor(channel, credentials)
        .max_decoding_message_size(MAX_ANSWER_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES)
}

async fn deadline<T>(
    config: &ServerConfig,
    doing: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(Duration::from_secs_f64(config.request_timeout_seconds), call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(failed)) => Err(status::call_failed(&failed, doing, &config.label)),
        Err(_) => Err(status::call_failed(&Status::deadline_exceeded("no answer in time"), doing, &config.label)),
    }
}

fn unreachable_server(config: &ServerConfig, why: &str) -> Error {
    Error::new(
        Kind::Server,
        format!(
            "cannot connect to Milvus at {} ({why}). Is the server running, and are address, port and TLS right?",
            config.label
        ),
    )
    .with("uri", config.label.as_str())
}

/// Whether a connection failed in a way in which it may succeed soon: nobody listens yet, or the way is cut for a
/// moment. A name that nobody knows, or a certificate that is not trusted, stays so.
fn may_start_yet(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind;
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            match error.kind() {
                ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::BrokenPipe
                | ErrorKind::TimedOut => return true,
                _ => {}
            }
        }
        source = error.source();
    }
    false
}

fn client_info(config: &ServerConfig) -> proto::ClientInfo {
    proto::ClientInfo {
        sdk_type: "Rust".to_owned(),
        sdk_version: concat!("milvault-", env!("CARGO_PKG_VERSION")).to_owned(),
        local_time: chrono::Utc::now().to_rfc3339(),
        user: config.user.clone().unwrap_or_default(),
        host: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(uri: &str) -> ServerConfig {
        serde_json::from_value(serde_json::json!({"uri": uri, "label": uri, "connect_timeout_seconds": 2.0})).unwrap()
    }

    #[tokio::test]
    async fn nobody_listening_is_told_with_the_address() {
        let error = Client::connect(config("http://127.0.0.1:9"), Retry { max_retries: 0, delay: Duration::ZERO })
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind(), Kind::Server);
        assert!(error.message().contains("http://127.0.0.1:9"), "{error}");
    }

    #[tokio::test]
    async fn an_address_without_scheme_is_refused_with_the_way_out() {
        let error = Client::connect(config("localhost:19530"), Retry { max_retries: 0, delay: Duration::ZERO })
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.message().contains("http://host:port"), "{error}");
    }

    #[test]
    fn pauses_double_and_end_at_a_minute() {
        let retry = Retry { max_retries: 9, delay: Duration::from_secs(5) };
        assert!(retry.pause(0) <= Duration::from_secs_f64(7.5));
        assert!(retry.pause(9) <= Duration::from_secs(90));
        assert!(retry.pause(1) >= Duration::from_secs(5));
    }

    #[test]
    fn a_server_that_asks_for_less_is_given_more_time() {
        let retry = Retry { max_retries: 3, delay: Duration::from_secs(5) };
        let limited = status::call_failed(&Status::resource_exhausted("rate limit"), "d", "l");
        let down = status::call_failed(&Status::unavailable("down"), "d", "l");
        assert!(retry.after(11, &limited).is_some_and(|pause| pause <= Duration::from_secs(60)));
        assert!(retry.after(12, &limited).is_none());
        assert!(retry.after(2, &down).is_some() && retry.after(3, &down).is_none());
        assert!(retry.after(0, &status::call_failed(&Status::invalid_argument("no"), "d", "l")).is_none());
        assert!(Retry { max_retries: 0, ..retry }.after(0, &limited).is_none());
    }
}
