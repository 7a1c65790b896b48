//! Whether each issuer has a key, one key, and one that its algorithm can use.

use std::net::IpAddr;

use crate::config::{Algorithm, Auth, Issuer, Role, Secret, source::Values};

/// HS256 keys shorter than the hash are weak (RFC 7518, section 3.2).
const MIN_SECRET: usize = 32;

pub(super) fn check(auth: &Auth, role: Role, values: &mut Values) {
    if let Some(secret) = &auth.secret
        && let Some(problem) = weak(secret)
    {
        values.problem("auth.secret", &format!("the value {problem}"));
    }
    check_first(auth, values);
    for issuer in &auth.issuers {
        let name = &issuer.issuer;
        if let Some(problem) = of_issuer(issuer) {
            values.problem("auth.issuers", &format!("{name:?} {problem}"));
        }
        let same = auth.issuers.iter().filter(|other| other.issuer == issuer.issuer).count();
        if same > 1 || auth.issuer.as_ref() == Some(name) {
            values.problem("auth.issuers", &format!("{name:?} is there twice (auth.issuer counts)"));
        }
    }
    if role == Role::Gateway && auth.secret.is_none() {
        let message = "is not set; a gateway needs it for tokens and cookies, the same one in all gateways: \
            openssl rand -base64 48 makes one";
        values.problem("auth.secret", message);
    }
    if auth.jwks_max_stale < auth.jwks_refresh {
        values.problem("auth.jwks_max_stale", "is shorter than auth.jwks_refresh: the keys would not hold until the next fetch");
    }
    if auth.jwks_max_stale < auth.jwks_cooldown.saturating_add(auth.jwks_timeout) {
        let message = "is shorter than auth.jwks_cooldown and auth.jwks_timeout together: the keys would not hold until the next try";
        values.problem("auth.jwks_max_stale", message);
    }
    if auth.dev_login && !auth.signs_with_secret() {
        let message = "needs auth.algorithm HS256, and neither auth.public_key nor auth.jwks_url: it signs tokens of auth.issuer itself";
        values.problem("auth.dev_login", message);
    }
}

/// The issuer that the section's own keys describe.
fn check_first(auth: &Auth, values: &mut Values) {
    if auth.public_key.is_some() && auth.jwks_url.is_some() {
        return values.problem("auth.public_key", "is set, and auth.jwks_url too: give one of them");
    }
    if let Some(problem) = auth.jwks_url.as_deref().and_then(of_url) {
        values.problem("auth.jwks_url", &problem);
    }
    let key = if auth.public_key.is_some() { "auth.public_key" } else { "auth.jwks_url" };
    match (auth.algorithm, auth.public_key.is_some() || auth.jwks_url.is_some()) {
        (Algorithm::HS256, false) => {}
        (Algorithm::HS256, true) => values.problem(key, "is of no use to HS256: set auth.algorithm to RS256, ES256 or EdDSA"),
        (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, true) => {
            if !values.is_set("auth.issuer") {
                values.problem("auth.issuer", &format!("is not set; it has to be what the tokens of {key} say as `iss`"));
            }
        }
        (algorithm @ (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA), false) => {
            let message = format!("{} needs auth.public_key, auth.public_key_file or auth.jwks_url", algorithm.as_str());
            values.problem("auth.algorithm", &message);
        }
    }
}

/// What is wrong with an entry of `[[auth.issuers]]`, to be put after its name.
fn of_issuer(issuer: &Issuer) -> Option<String> {
    let Issuer { algorithm, secret, public_key, jwks_url, .. } = issuer;
    match (algorithm, secret, public_key, jwks_url) {
        (Algorithm::HS256, Some(secret), None, None) => weak(secret).map(|problem| format!("has a secret that {problem}")),
        (Algorithm::HS256, None, None, None) => {
            Some("has no secret; or give its algorithm (RS256, ES256, EdDSA) and its public_key or jwks_url".to_owned())
        }
        (Algorithm::HS256, _, Some(_), _) | (Algorithm::HS256, _, _, Some(_)) => {
            Some("has a public_key or jwks_url, which are of no use to HS256: set its algorithm to RS256, ES256 or EdDSA".to_owned())
        }
        (_, Some(_), _, _) => Some(format!("has a secret, which is of no use to {}", algorithm.as_str())),
        (_, None, None, None) => Some(format!("has neither public_key nor jwks_url, and {} needs one", algorithm.as_str())),
        (_, None, Some(_), Some(_)) => Some("has both public_key and jwks_url: give one of them".to_owned()),
        (_, None, Some(_), None) => None,
        (_, None, None, Some(url)) => of_url(url).map(|problem| format!("has a jwks_url that {problem}")),
    }
}

fn weak(secret: &Secret) -> Option<String> {
    let bytes = secret.expose().len();
    (bytes < MIN_SECRET).then(|| format!("has {bytes} bytes; HS256 needs {MIN_SECRET}: openssl rand -base64 48 makes one"))
}

/// Whoever can change the answer can sign in as anybody: so nothing but https, unless the bytes
/// never leave the machine.
fn of_url(url: &str) -> Option<String> {
    let shaped = url.chars().all(|c| c.is_ascii_graphic()) && !url.contains(['#', '@', '\\']);
    let authority = |rest: &str| rest.split(['/', '?']).next().unwrap_or_default().to_owned();
    let fine = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => !authority(rest).is_empty(),
        (None, Some(rest)) => is_loopback(&authority(rest)),
        (None, None) => false,
    };
    // What stands before an `@` may be a password.
    let shown = if url.contains('@') { "the value, with an @ in it,".to_owned() } else { format!("{url:?}") };
    (!shaped || !fine).then(|| format!("{shown} is not an https URL (http only where the host is a loopback address)"))
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _port)) => host,
        None => authority.split_once(':').map_or(authority, |(host, _port)| host),
    };
    host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
