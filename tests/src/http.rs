//! HTTP calls to a gateway: signing in by name, pages and forms with their cookies.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use reqwest::{Client as Http, Response, StatusCode, redirect::Policy};
use serde_json::{Value, json};

use crate::token::User;

/// A browser's worth of HTTP: keeps cookies, follows no redirects.
pub struct HttpSession {
    http: Http,
    base: String,
    csrf: Mutex<Option<String>>,
    /// The token that signing in returned.
    pub token: Option<String>,
    /// The session cookie that signing in set, as a `Cookie` header says it.
    pub cookie: Option<String>,
}

impl HttpSession {
    /// One that is not signed in.
    pub fn anonymous(gateway: SocketAddr) -> Result<Self> {
        let http = Http::builder().cookie_store(true).redirect(Policy::none()).build()?;
        Ok(Self { http, base: format!("http://{gateway}"), csrf: Mutex::default(), token: None, cookie: None })
    }

    /// Signs in by name (`auth.dev_login`).
    pub async fn signed_in(gateway: SocketAddr, name: &str) -> Result<Self> {
        let mut session = Self::anonymous(gateway)?;
        let url = format!("{}/api/v1/dev/login", session.base);
        let answer = session.http.post(url).json(&json!({"name": name})).send().await?;
        session.keep_csrf(&answer);
        session.cookie = cookie_of(&answer, "natter_session").map(|value| format!("natter_session={value}"));
        let status = answer.status();
        let body = answer.text().await?;
        ensure!(status.is_success(), "signing in: {status}: {body}");
        let body: Value = serde_json::from_str(&body)?;
        session.token = Some(body["token"].as_str().context("a token")?.to_owned());
        Ok(session)
    }

    /// Who signed in, as the token says.
    pub fn user(&self) -> Result<User> {
        let token = self.token.as_deref().context("not signed in")?;
        let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(token)?.claims;
        let text = |key: &str| claims[key].as_str().map(str::to_owned);
        let id = text("sub").context("a token has a sub")?;
        let handle = text("preferred_username").unwrap_or_else(|| id.clone());
        let name = text("name").unwrap_or_else(|| handle.clone());
        Ok(User { id, handle, name })
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Response> {
        let answer = self.http.get(format!("{}{path}", self.base)).send().await?;
        self.keep_csrf(&answer);
        Ok(answer)
    }

    fn keep_csrf(&self, answer: &Response) {
        if let Some(token) = cookie_of(answer, "csrftoken") {
            *self.csrf.lock() = Some(token);
        }
    }

    /// GET of a page that must be there.
    pub async fn page(&self, path: &str) -> Result<String> {
        let answer = self.get(path).await?;
        ensure!(answer.status() == StatusCode::OK, "{path}: {}", answer.status());
        Ok(answer.text().await?)
    }

    /// POST of a form, with the CSRF token of the cookie, as the page's scripts do.
    pub async fn post_form(&self, path: &str, fields: &[(&str, &str)]) -> Result<Response> {
        self.get(path).await?;
        let csrf = self.csrf.lock().clone().context("sign-in and GET set the cookie csrftoken")?;
        let mut fields = fields.to_vec();
        fields.push(("csrfmiddlewaretoken", &csrf));
        self.post_as_is(path, &fields).await
    }

    /// POST of a form, of these fields only.
    pub async fn post_as_is(&self, path: &str, fields: &[(&str, &str)]) -> Result<Response> {
        let url = format!("{}{path}", self.base);
        Ok(self.http.post(url).header("Origin", &self.base).form(fields).send().await?)
    }
}

/// The value of a cookie that an answer sets.
pub fn cookie_of(answer: &Response, name: &str) -> Option<String> {
    let cookies = answer.headers().get_all("set-cookie");
    let value = |cookie: &str| Some(cookie.strip_prefix(name)?.strip_prefix('=')?.split(';').next()?.to_owned());
    cookies.iter().find_map(|cookie| value(cookie.to_str().ok()?))
}
