//! One fetch of a key set, from the one place that the config names: bounded in time and size, no
//! redirects followed.

use std::{error::Error, time::Duration};

use axum::http::{Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// Why there is no key set.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL.
    #[error("the URL cannot be used: {0}")]
    Url(String),
    /// This machine trusts no certificate authority.
    #[error("no certificate authorities to trust on this machine: {0}")]
    Roots(String),
    /// Not done in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// No connection, no TLS, or no HTTP.
    #[error("{0}")]
    Transport(String),
    /// Anything but 200: redirects too, which could lead anywhere.
    #[error("answered {0}")]
    Status(StatusCode),
    /// Longer than `auth.jwks_max_bytes`.
    #[error("longer than {0} bytes")]
    TooLarge(usize),
    /// Not `{"keys": […]}`.
    #[error("not a JWK set: {0}")]
    NotASet(#[source] serde_json::Error),
}

/// Fetches from one URL.
pub(super) struct Fetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    url: Uri,
    timeout: Duration,
    max_bytes: usize,
}

impl Fetcher {
    pub(super) fn new(url: &str, timeout: Duration, max_bytes: usize) -> Result<Self, FetchError> {
        let url: Uri = url.parse().map_err(|_| FetchError::Url(url.to_owned()))?;
        let tls = HttpsConnectorBuilder::new();
        let connector = if url.scheme_str() == Some("https") {
            let trusting = tls.with_provider_and_native_roots(ring::default_provider());
            trusting.map_err(|error| FetchError::Roots(error.to_string()))?.https_only().enable_http1().build()
        } else {
            // On loopback only; nobody to trust.
            let config = ClientConfig::builder_with_provider(ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .map_err(|error| FetchError::Roots(error.to_string()))?;
            let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
            tls.with_tls_config(config).https_or_http().enable_http1().build()
        };
        // The next fetch is minutes away.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { client, url, timeout, max_bytes })
    }

    pub(super) async fn fetch(&self) -> Result<Bytes, FetchError> {
        tokio::time::timeout(self.timeout, self.get()).await.unwrap_or(Err(FetchError::Late(self.timeout)))
    }

    async fn get(&self) -> Result<Bytes, FetchError> {
        let request = Request::get(self.url.clone())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("natter/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| FetchError::Url(error.to_string()))?;
        let answer = self.client.request(request).await.map_err(|error| FetchError::Transport(whole(&error)))?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        match Limited::new(answer.into_body(), self.max_bytes).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge(self.max_bytes)),
            Err(error) => Err(FetchError::Transport(whole(&*error))),
        }
    }
}

/// An error with its sources: the client's own text says only that something failed.
fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.extend([": ", &error.to_string()]);
        source = error.source();
    }
    text
}
