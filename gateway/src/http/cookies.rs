//! The two cookies, as they are set and cleared.

use std::time::Duration;

use axum::http::HeaderValue;

use crate::auth::{CSRF_COOKIE, SESSION_COOKIE};

/// Sets the session: not for scripts, and not sent along by other sites' forms.
pub(super) fn session(value: &str, lifetime: Duration, https: bool) -> Option<HeaderValue> {
    set(SESSION_COOKIE, value, lifetime, "; HttpOnly", https)
}

/// Sets the CSRF token: for scripts to read and echo.
pub(super) fn csrf(token: &str, lifetime: Duration, https: bool) -> Option<HeaderValue> {
    set(CSRF_COOKIE, token, lifetime, "", https)
}

/// Clears both.
pub(super) fn cleared(https: bool) -> Vec<HeaderValue> {
    [session("", Duration::ZERO, https), csrf("", Duration::ZERO, https)].into_iter().flatten().collect()
}

/// None only for a value that no header can hold; ours are base64url.
fn set(name: &str, value: &str, lifetime: Duration, http_only: &str, https: bool) -> Option<HeaderValue> {
    let secure = if https { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; Path=/; Max-Age={}; SameSite=Lax{http_only}{secure}", lifetime.as_secs());
    HeaderValue::from_str(&cookie).ok()
}
