//! What a newcomer reads after the start.

use std::net::SocketAddr;

use natter_shared::config::Config;

/// Where it is, and what to try next.
pub(crate) fn text(config: &Config, listening: SocketAddr, folder: &str) -> String {
    let url = match &config.http.public_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://{}", reachable(listening)),
    };
    let broker = match &config.nats.url {
        Some(url) => format!("NATS at {url}"),
        None => "built in".to_owned(),
    };
    let try_it = if config.auth.dev_login {
        format!(
            "  1. Open {url}/chat/lobby/ in two browser windows, one of them private.\n\
             \x20 2. Sign in as alice in one and as bob in the other, and write.\n\n\
             A token for a program of your own:\n\
             \x20 curl -s {url}/api/v1/dev/login -H 'content-type: application/json' -d '{{\"name\":\"alice\"}}'\n\n\
             Signing in by a bare name is for trying things out. For real use set NATTER_AUTH__SECRET and\n\
             NATTER_AUTH__DEV_LOGIN=false.\n"
        )
    } else {
        // It signs tokens of the first issuer, and is refused where it cannot.
        let first_look = "  For a first look without one: NATTER_AUTH__DEV_LOGIN=true on 127.0.0.1.\n";
        format!(
            "  Sign in with a token of your issuer ({}), {}, `aud` {}; then open {url}/chat/lobby/.\n{}",
            config.auth.issuer.as_deref().unwrap_or_default(),
            config.auth.algorithm.as_str(),
            config.auth.audience.as_deref().unwrap_or_default(),
            if config.auth.signs_with_secret() { first_look } else { "" },
        )
    };
    format!(
        "\nNatter is at {url}\n  data    {folder}\n  broker  {broker}\n\nTry it:\n{try_it}\n\
         README.md goes on from here. Ctrl-C stops it; what was accepted stays.\n"
    )
}

/// An address that a browser on this machine can open.
fn reachable(listening: SocketAddr) -> String {
    if listening.ip().is_unspecified() { format!("localhost:{}", listening.port()) } else { listening.to_string() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use natter_shared::config::Role;

    use super::*;

    #[test]
    fn says_what_tokens_are_signed_with() {
        let said = |env: &[(&str, &str)]| {
            let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            text(&Config::load_from(None, &env, Role::Standalone).unwrap(), "127.0.0.1:8080".parse().unwrap(), "/srv/data")
        };
        let secret = said(&[("NATTER_AUTH__DEV_LOGIN", "false")]);
        assert!(secret.contains("HS256") && secret.contains("DEV_LOGIN=true"), "{secret}");
        let keys = [
            ("NATTER_AUTH__ALGORITHM", "ES256"),
            ("NATTER_AUTH__ISSUER", "https://id.example"),
            ("NATTER_AUTH__JWKS_URL", "https://id.example/keys"),
        ];
        let keys = said(&keys);
        assert!(keys.contains("(https://id.example), ES256,") && !keys.contains("DEV_LOGIN"), "{keys}");
    }

    #[test]
    fn says_where_and_what_next() {
        let config = Config::load_from(None, &HashMap::new(), Role::Standalone).unwrap();
        let text = text(&config, "127.0.0.1:8080".parse().unwrap(), "/srv/data");
        for part in ["http://127.0.0.1:8080/chat/lobby/", "alice", "curl -s http://127.0.0.1:8080/api/v1/dev/login", "/srv/data"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let address = "0.0.0.0:80".parse().unwrap();
        assert_eq!(reachable(address), "localhost:80");
    }
}
