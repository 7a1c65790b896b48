//! From which pages a request may come (RFC 6454): our own, and those on the list.
//!
//! A browser sends a user's cookie along with whatever a page asks for, and lets any page open a
//! WebSocket anywhere; the Origin header is what tells a foreign page.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, header, uri::Authority};
use natter_shared::config::Http;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginVerdict {
    /// A page of this host.
    Own,
    /// A page of an origin on the list.
    Listed,
    /// No page says so. Not a browser, or a plain navigation: an upgrade needs a bearer token,
    /// a cookie alone does not sign it in.
    Absent,
}

/// A foreign page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this origin is not allowed")]
pub struct Forbidden;

/// Judges a request's Origin: its own (scheme and Host) and the `allowed` ones pass, compared
/// exactly; another, `null` or an unreadable one does not.
pub fn check(headers: &HeaderMap, allowed: &[String], https: bool) -> Result<OriginVerdict, Forbidden> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return Ok(OriginVerdict::Absent) };
    if origins.next().is_some() {
        return Err(Forbidden);
    }
    let origin = origin.to_str().map_err(|_| Forbidden)?;
    if is_own(origin, headers, https) {
        return Ok(OriginVerdict::Own);
    }
    if allowed.iter().any(|listed| listed.trim_end_matches('/') == origin) { Ok(OriginVerdict::Listed) } else { Err(Forbidden) }
}

/// [`check`] with all that the config says: the list, and [`Http::public_url`] as our own. `peer`
/// is the other end of the TCP connection.
pub fn of_request(headers: &HeaderMap, peer: Option<IpAddr>, config: &Http) -> Result<OriginVerdict, Forbidden> {
    check(headers, &config.allowed_origins, is_https(headers, peer, config)).or_else(|forbidden| {
        let origin = headers.get(header::ORIGIN).and_then(|value| value.to_str().ok());
        let public = config.public_url.as_deref().map(origin_of);
        if public.is_some() && origin == public && headers.get_all(header::ORIGIN).iter().count() == 1 {
            Ok(OriginVerdict::Own)
        } else {
            Err(forbidden)
        }
    })
}

/// Whether the user's side of a request is encrypted: by [`Http::public_url`], else by the word of
/// a trusted proxy.
pub fn is_https(headers: &HeaderMap, peer: Option<IpAddr>, config: &Http) -> bool {
    if let Some(url) = &config.public_url {
        return url.starts_with("https://");
    }
    let trusted = peer.is_some_and(|peer| config.trusted_proxies.iter().any(|range| range.contains(peer)));
    // With several proxies in a row the first value is the browser's.
    let proto = headers.get(FORWARDED_PROTO).and_then(|value| value.to_str().ok());
    trusted && proto.and_then(|list| list.split(',').next()).is_some_and(|first| first.trim().eq_ignore_ascii_case("https"))
}

/// Whether the request was sent to this machine by its address or as `localhost`. By another name a foreign page may have sent it, that
/// lets its own name lead here (DNS rebinding): to the browser the two are one origin.
pub fn is_by_address(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let Ok(host) = host.parse::<Authority>() else { return false };
    let name = host.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

/// Whether the request came from a page of the origin that the config says is ours.
pub fn is_of_public_url(headers: &HeaderMap, config: &Http) -> bool {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    origin.zip(config.public_url.as_deref()).is_some_and(|(origin, url)| origin.eq_ignore_ascii_case(origin_of(url)))
}

fn is_own(origin: &str, headers: &HeaderMap, https: bool) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let (scheme, default_port) = if https { ("https://", ":443") } else { ("http://", ":80") };
    // Browsers leave the scheme's own port out of both; other clients may not.
    let bare = |host: &str| host.strip_suffix(default_port).unwrap_or(host).to_ascii_lowercase();
    origin.strip_prefix(scheme).is_some_and(|of| !of.is_empty() && bare(of) == bare(host))
}

/// The scheme, host and port of a URL.
fn origin_of(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    match url.get(start..).and_then(|rest| rest.find('/')) {
        Some(end) => url.get(..start + end).unwrap_or(url),
        None => url,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use natter_shared::config::Config;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn addresses_and_localhost_are_no_names() {
        for host in ["127.0.0.1:8080", "[::1]:8080", "[::1]", "localhost", "LOCALHOST:80", "chat.localhost:8080", "192.0.2.7"] {
            assert!(is_by_address(&headers(&[("host", host)])), "{host}");
        }
        for host in ["evil.test:8080", "localhost.evil.test", "127.0.0.1.evil.test", "", "notlocalhost"] {
            assert!(!is_by_address(&headers(&[("host", host)])), "{host}");
        }
        assert!(!is_by_address(&HeaderMap::new()));
        for (url, origin, expected) in [
            ("https://chat.test/", "https://chat.test", true),
            ("http://chat.test:8080", "http://chat.test:8080", true),
            ("http://chat.test:8080", "http://evil.test:8080", false),
            ("http://chat.test:8080", "http://chat.test", false),
        ] {
            let config = Http { public_url: Some(url.to_owned()), ..Config::default().http };
            assert_eq!(is_of_public_url(&headers(&[("origin", origin)]), &config), expected, "{url} {origin}");
        }
        assert!(!is_of_public_url(&headers(&[("origin", "http://chat.test")]), &Config::default().http));
    }

    #[test]
    fn matrix() {
        let listed = ["https://chat.example.com".to_owned(), "http://localhost:3000/".to_owned()];
        let own = Ok(OriginVerdict::Own);
        let allowed = Ok(OriginVerdict::Listed);
        for (origin, host, https, expected) in [
            ("http://natter.test", "natter.test", false, own),
            ("http://natter.test:8080", "natter.test:8080", false, own),
            ("http://natter.test", "natter.test:80", false, own),
            ("http://natter.test", "Natter.Test", false, own),
            ("https://natter.test", "natter.test", true, own),
            ("https://natter.test", "natter.test:443", true, own),
            ("http://[::1]:8080", "[::1]:8080", false, own),
            ("https://chat.example.com", "natter.test", false, allowed),
            ("http://localhost:3000", "natter.test", false, allowed),
            // The other scheme or port is another origin.
            ("https://natter.test", "natter.test", false, Err(Forbidden)),
            ("http://natter.test", "natter.test", true, Err(Forbidden)),
            ("http://natter.test:8081", "natter.test:8080", false, Err(Forbidden)),
            ("http://natter.test:443", "natter.test", false, Err(Forbidden)),
            // Likeness is nothing.
            ("http://natter.test.evil.test", "natter.test", false, Err(Forbidden)),
            ("http://evil.test/natter.test", "natter.test", false, Err(Forbidden)),
            ("http://evilnatter.test", "natter.test", false, Err(Forbidden)),
            ("https://chat.example.com.evil.test", "natter.test", false, Err(Forbidden)),
            ("https://CHAT.example.com", "natter.test", false, Err(Forbidden)),
            ("http://chat.example.com", "natter.test", false, Err(Forbidden)),
            ("null", "natter.test", false, Err(Forbidden)),
            ("", "natter.test", false, Err(Forbidden)),
            ("http://", "", false, Err(Forbidden)),
            ("natter.test", "natter.test", false, Err(Forbidden)),
        ] {
            let request = headers(&[("origin", origin), ("host", host)]);
            assert_eq!(check(&request, &listed, https), expected, "{origin} at {host}, https {https}");
        }
    }

    #[test]
    fn none_is_told_apart_and_two_are_foreign() {
        assert_eq!(check(&headers(&[("host", "natter.test")]), &[], false), Ok(OriginVerdict::Absent));
        assert_eq!(check(&headers(&[("origin", "http://natter.test")]), &[], false), Err(Forbidden));
        let mut two = headers(&[("host", "natter.test"), ("origin", "http://natter.test")]);
        two.append(header::ORIGIN, "http://evil.test".parse().unwrap());
        assert_eq!(check(&two, &[], false), Err(Forbidden));
    }

    #[test]
    fn the_scheme_is_the_public_urls_or_a_trusted_proxys() {
        let forwarded = headers(&[("x-forwarded-proto", "https, http")]);
        let plain = headers(&[]);
        let (proxy, stranger) = ("10.1.2.3".parse().ok(), "192.0.2.1".parse().ok());
        let mut config = Http { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..Http::default() };
        assert!(is_https(&forwarded, proxy, &config));
        assert!(!is_https(&plain, proxy, &config));
        assert!(!is_https(&forwarded, stranger, &config));
        assert!(!is_https(&forwarded, None, &config));
        config.public_url = Some("https://chat.example.com/x".to_owned());
        assert!(is_https(&plain, stranger, &config));
        let request = headers(&[("host", "inner:8080"), ("origin", "https://chat.example.com")]);
        assert_eq!(of_request(&request, stranger, &config), Ok(OriginVerdict::Own));
        let request = headers(&[("host", "inner:8080"), ("origin", "https://chat.example.com.evil")]);
        assert_eq!(of_request(&request, stranger, &config), Err(Forbidden));
    }
}
