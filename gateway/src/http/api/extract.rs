//! What handlers take from a request. Everything that does not fit is a problem, whatever axum
//! calls it.

use std::sync::Arc;

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderName, request::Parts},
};
use natter_shared::id::Nonce;
use serde::de::DeserializeOwned;

use super::Api;
use crate::http::{Problem, extract::JsonBody};

/// The header of a retry.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest idempotency key.
const LONGEST_KEY: usize = 255;

/// The parameters of the path.
pub(super) struct At<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(path)| Self(path)).map_err(|rejection| Problem::bad_request(rejection.body_text()))
    }
}

/// The query.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|rejection| Problem::bad_request(rejection.body_text()))
    }
}

/// A JSON body that may be left out.
pub(super) struct Perhaps<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for Perhaps<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        use axum::body::HttpBody;
        if request.body().is_end_stream() {
            return Ok(Self(T::default()));
        }
        JsonBody::from_request(request, state).await.map(|JsonBody(body)| Self(body))
    }
}

/// The nonce of what a request makes: its idempotency key's, else a fresh one.
pub(super) struct Once(pub(super) Nonce);

impl FromRequestParts<Arc<Api>> for Once {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let mut keys = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let wrong = || Problem::bad_request(format!("an Idempotency-Key is 1 to {LONGEST_KEY} visible ASCII characters"));
        let Some(key) = keys.next() else { return Ok(Self(Nonce::at(api.broker().now()))) };
        let key = key.to_str().map_err(|_| wrong())?;
        let fits = (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        if fits && keys.next().is_none() { Ok(Self(Nonce::of_key(key))) } else { Err(wrong()) }
    }
}
