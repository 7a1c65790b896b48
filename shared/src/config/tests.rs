//! The config as its users meet it: files, variables, mistakes.

use std::{collections::HashMap, fs, path::PathBuf, time::Duration};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const DEFAULT_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/natter.toml");

fn env(variables: &[(&str, &str)]) -> HashMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn standalone(variables: &[(&str, &str)]) -> Config {
    Config::load_from(None, &env(variables), Role::Standalone).unwrap()
}

/// The mistakes, one string each.
fn mistakes(file: Option<&Path>, variables: &[(&str, &str)], role: Role) -> Vec<String> {
    let errors = Config::load_from(file, &env(variables), role).unwrap_err();
    errors.0.iter().map(ToString::to_string).collect()
}

/// A file with this text, in a folder that lives as long as the first of the pair.
fn file(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("natter.toml");
    fs::write(&path, text).unwrap();
    (folder, path)
}

/// Asserts that there is exactly this mistake: all parts are in it.
fn assert_one(mistakes: &[String], parts: &[&str]) {
    let [mistake] = mistakes else { panic!("not one mistake: {mistakes:#?}") };
    for part in parts {
        assert!(mistake.contains(part), "{part:?} is not in {mistake:?}");
    }
}

#[test]
fn the_default_file_holds_the_defaults() {
    let from_file = Config::load_from(Some(Path::new(DEFAULT_FILE)), &env(&[]), Role::Standalone).unwrap();
    assert_eq!(from_file, standalone(&[]));
}

#[test]
fn the_default_file_holds_every_key_and_no_other() {
    let mut keys = BTreeSet::new();
    let mut section = String::new();
    for line in fs::read_to_string(DEFAULT_FILE).unwrap().lines() {
        // A key without a default is there as a comment without a space: `#url = …`.
        let line = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{}.", name.trim_matches(['[', ']']));
        } else if let Some((key, _)) = line.split_once(" = ")
            && !line.starts_with("# ")
        {
            assert!(keys.insert(format!("{section}{key}")), "{key} is there twice");
        }
    }
    keys.retain(|key| !key.starts_with("auth.issuers."));
    keys.insert("auth.issuers".to_owned());
    assert_eq!(keys, known_keys());
}

#[test]
fn every_key_is_described() {
    let described = Config::describe().into_iter().flat_map(|section| section.keys).flat_map(|key| {
        let path = if key.section.is_empty() { key.name.to_owned() } else { format!("{}.{}", key.section, key.name) };
        let file = key.secret.then(|| format!("{path}_file"));
        [path].into_iter().chain(file)
    });
    assert_eq!(described.collect::<BTreeSet<_>>(), known_keys());
}

#[test]
fn what_is_set_in_the_default_file_is_shown_the_same() {
    // A key that is shown in the file with a value must be set, not commented out, and vice versa:
    // else the first test would compare nothing.
    let text = fs::read_to_string(DEFAULT_FILE).unwrap();
    let set = text.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).count();
    let optional = Config::default().effective_toml().lines().filter(|line| line.ends_with("is not set")).count();
    // Plus issuers, which are tables at the end, and dev_login, which depends on the role.
    let files = known_keys().iter().filter(|key| key.ends_with("_file") && known_keys().contains(key.trim_end_matches("_file"))).count();
    assert_eq!(set, known_keys().len() - optional - files - 2);
}

#[test]
fn environment_wins_over_the_file() {
    let (_folder, path) = file("[http]\nlisten = \"127.0.0.1:9000\"\n[limits]\nframe_bytes = \"128KiB\"\n");
    let config = Config::load_from(Some(&path), &env(&[("NATTER_HTTP__LISTEN", "127.0.0.1:9001")]), Role::Standalone).unwrap();
    assert_eq!(config.http.listen.port(), 9001);
    assert_eq!(config.limits.frame_bytes, 128 * 1024);
}

#[test]
fn values_from_the_environment() {
    let config = standalone(&[
        ("NATTER_DATA_DIR", "/srv/natter"),
        ("NATTER_HTTP__ALLOWED_ORIGINS", "https://a.example, http://b.example:8080,https://[::1]:444,http://[fe80::1]"),
        ("NATTER_HTTP__TRUSTED_PROXIES", "10.0.0.0/8"),
        ("NATTER_NATS__URL", "nats://n1:4222,nats://n2:4222"),
        ("NATTER_NATS__SHARDS", "8"),
        ("NATTER_NATS__MAX_BYTES_PER_SHARD", "2GiB"),
        ("NATTER_GROUPS__OPEN", "false"),
        ("NATTER_LIMITS__HEARTBEAT_INTERVAL", "500s"),
        ("NATTER_PERSISTER__HTTP_LISTEN", ""),
        ("NATTER_TELEMETRY__FORMAT", "json"),
    ]);
    assert_eq!(config.data_dir, PathBuf::from("/srv/natter"));
    assert_eq!(config.http.allowed_origins, ["https://a.example", "http://b.example:8080", "https://[::1]:444", "http://[fe80::1]"]);
    assert!(config.http.trusted_proxies[0].contains("10.1.2.3".parse().unwrap()));
    assert_eq!(config.nats.url.as_deref(), Some("nats://n1:4222,nats://n2:4222"));
    assert_eq!((config.nats.shards, config.nats.max_bytes_per_shard), (8, 2 << 30));
    assert!(!config.groups.open);
    assert_eq!(config.limits.heartbeat_interval, Duration::from_secs(500));
    assert_eq!(config.persister.http_listen, None);
    assert_eq!(config.telemetry.format, LogFormat::Json);
    assert_eq!(config.database.url.unwrap().expose(), "sqlite:///srv/natter/natter.db");
}

#[test]
fn the_own_database_is_known_however_it_is_written() {
    for (url, own) in [
        ("sqlite://./chat%20data/natter.db", true),
        ("sqlite:chat%20data/natter.db?mode=rwc", true),
        ("sqlite:natter.db", false),
        ("postgres://natter@db/natter", false),
    ] {
        let config = standalone(&[("NATTER_DATA_DIR", "chat data"), ("NATTER_DATABASE__URL", url)]);
        assert_eq!(config.has_own_database(), own, "{url}");
    }
    assert!(standalone(&[("NATTER_DATA_DIR", "chat data")]).has_own_database());
}

#[test]
fn all_mistakes_are_named_at_once() {
    let (_folder, path) = file("colour = 1\n[http]\nlisten = \"here\"\n[limit]\nframes = 3\n[limits]\nbody_bytes = \"32kb\"\n");
    let variables = [
        ("NATTER_LIMITS__HEARTBEAT_INTERVAL", "soon"),
        ("NATTER_NATS__SHARDS", "65"),
        ("NATTER_HTTP__PORT", "80"),
        ("NATTER_HTTP_LISTEN", "127.0.0.1:1"),
        ("NATTER_AUTH__DEV_LOGIN", "perhaps"),
        ("NATTER_AUTH__SECRET", "short"),
    ];
    let mistakes = mistakes(Some(&path), &variables, Role::Persister);
    let path = path.display();
    for expected in [
        format!("http.listen: \"here\" is not an address and port, such as 127.0.0.1:8080 (from {path})"),
        format!("limits.body_bytes: \"32kb\" is not a number of bytes, such as 65536, 64KiB, 1MiB or 1GiB (from {path})"),
        format!("colour: is not a key of the config (from {path})"),
        format!("limit.frames: is not a key of the config (from {path})"),
        "limits.heartbeat_interval: \"soon\" is not a duration, such as 500ms, 25s, 10m, 72h or 7d \
         (from NATTER_LIMITS__HEARTBEAT_INTERVAL)"
            .to_owned(),
        "nats.shards: \"65\" is not from 1 to 64 (from NATTER_NATS__SHARDS)".to_owned(),
        "NATTER_HTTP__PORT: is not a key of the config".to_owned(),
        "NATTER_HTTP_LISTEN: is not a key of the config".to_owned(),
        "auth.dev_login: \"perhaps\" is not true or false (from NATTER_AUTH__DEV_LOGIN)".to_owned(),
        "database.url: is not set; the persister needs it, as postgres://… or sqlite://…".to_owned(),
    ] {
        assert!(mistakes.contains(&expected), "{expected:?} is not in {mistakes:#?}");
    }
    assert_eq!(mistakes.len(), 11, "{mistakes:#?}");
    assert!(!mistakes.concat().contains("short"));
}

#[test]
fn each_mistake_of_meaning_is_named() {
    let origin = "http.allowed_origins: \"https://a.example/\" is not an origin";
    let cases: &[(&str, &str, &str)] = &[
        ("NATTER_HTTP__ALLOWED_ORIGINS", "https://a.example/", origin),
        ("NATTER_HTTP__ALLOWED_ORIGINS", "*", "http.allowed_origins"),
        ("NATTER_HTTP__ALLOWED_ORIGINS", "https://a.example:443", "http.allowed_origins"),
        ("NATTER_HTTP__ALLOWED_ORIGINS", "http://[::1]:80", "http.allowed_origins"),
        ("NATTER_HTTP__ALLOWED_ORIGINS", "https://a.example:", "http.allowed_origins"),
        ("NATTER_HTTP__ALLOWED_ORIGINS", "https://:8080", "http.allowed_origins"),
        ("NATTER_HTTP__ALLOWED_ORIGINS", "https://a:b:c", "http.allowed_origins"),
        ("NATTER_HTTP__ALLOWED_ORIGINS", "https://a.example:99999", "http.allowed_origins"),
        ("NATTER_HTTP__ALLOWED_ORIGINS", "https://a.example:08080", "http.allowed_origins"),
        ("NATTER_HTTP__ALLOWED_ORIGINS", "https://[::g]", "http.allowed_origins"),
        ("NATTER_HTTP__PUBLIC_URL", "https://chat.example.com:443/", "http.public_url"),
        ("NATTER_HTTP__TRUSTED_PROXIES", "10.0.0.0/8,proxy", "has \"proxy\", which is not an address range"),
        ("NATTER_HTTP__PUBLIC_URL", "chat.example.com", "http.public_url"),
        ("NATTER_HTTP__PAGES_DIR", "/no/such/folder", "http.pages_dir: \"/no/such/folder/chat.html\" cannot be read"),
        ("NATTER_HTTP__PAGES_CSP", "script-src\n*", "http.pages_csp"),
        ("NATTER_NATS__URL", "nats://me:hidden@n1:4222", "set nats.user and nats.password"),
        ("NATTER_NATS__URL", "http://n1:4222", "nats.url"),
        ("NATTER_NATS__REPLICAS", "2", "is even"),
        ("NATTER_NATS__USER", "me", "come together"),
        ("NATTER_NATS__CREDS_FILE", "/no/such/file", "nats.creds_file"),
        ("NATTER_DATABASE__URL", "mysql://hidden", "does not begin with postgres:// or sqlite://"),
        ("NATTER_DATABASE__URL", "postgres://natter:hid/hidden@db/natter", "database.url: the value is not a URL: percent-encode"),
        ("NATTER_AUTH__SECRET", "hidden", "has 6 bytes; HS256 needs 32"),
        ("NATTER_AUTH__SECRET_FILE", "/no/such/file", "auth.secret_file: \"/no/such/file\" cannot be read"),
        ("NATTER_AUTH__JWKS_URL", "https://id.example/keys", "auth.jwks_url: is of no use to HS256"),
        ("NATTER_AUTH__ALGORITHM", "RS256", "auth.algorithm: RS256 needs auth.public_key"),
        ("NATTER_AUTH__ALGORITHM", "none", "is not one of HS256, RS256, ES256, EdDSA"),
        ("NATTER_AUTH__ALGORITHM", "RS384", "is not one of HS256, RS256, ES256, EdDSA"),
        ("NATTER_AUTH__PUBLIC_KEY", "-----BEGIN PRIVATE KEY-----hidden", "auth.public_key: the value is a private key"),
        ("NATTER_AUTH__PUBLIC_KEY", "-----BEGIN CERTIFICATE-----hidden", "auth.public_key: the value is a certificate"),
        ("NATTER_AUTH__PUBLIC_KEY", "hidden", "is not a public key in PEM"),
        ("NATTER_AUTH__PUBLIC_KEY_FILE", "/no/such/file", "auth.public_key_file: \"/no/such/file\" cannot be read"),
        ("NATTER_AUTH__JWKS_MAX_STALE", "5m", "is shorter than auth.jwks_refresh"),
        ("NATTER_AUTH__ISSUERS", "a", "auth.issuers: \"a\" is not a list of tables"),
        ("NATTER_AUTH__LEEWAY", "1d", "is not from \"0s\" to \"10m\""),
        ("NATTER_RETENTION__MESSAGES", "59m", "retention.messages: is shorter than an hour"),
        ("NATTER_RETENTION__NOTIFICATIONS", "999999999999d", "retention.notifications: is longer than a hundred years"),
        ("NATTER_LIMITS__BODY_BYTES", "64KiB", "limits.frame_bytes"),
        ("NATTER_LIMITS__BACKLOG_BYTES", "4KiB", "limits.backlog_bytes"),
        ("NATTER_LIMITS__FRAMES_BURST", "28", "limits.frames_burst: is smaller than 29"),
        ("NATTER_LIMITS__FRAMES_PER_SECOND", "1000", "limits.frames_burst: is smaller than 254"),
        ("NATTER_LIMITS__USER_FRAMES_BURST", "50", "limits.user_frames_burst: is smaller than 51"),
        ("NATTER_LIMITS__BYTES_BURST", "575KiB", "limits.bytes_burst: is smaller than 589824 bytes"),
        ("NATTER_LIMITS__HEADER_TIMEOUT", "11s", "limits.handshake_timeout"),
        (
            "NATTER_LIMITS__GROUPS_PER_CONNECTION",
            "5000",
            "limits.groups_per_connection: to resume 5000 groups takes up to 320000 bytes, more than limits.connect_frame_bytes",
        ),
        ("NATTER_LIMITS__CONNECT_FRAME_BYTES", "32KiB", "limits.groups_per_connection: to resume 1000 groups"),
        ("NATTER_LIMITS__CONNECTIONS", "-1", "is not a whole number in range"),
        ("NATTER_TELEMETRY__FILTER", "info,=", "telemetry.filter"),
        ("NATTER_TELEMETRY__FORMAT", "xml", "is not one of auto, human, json"),
        ("NATTER_HTTP__", "x", "NATTER_HTTP__: is not a key"),
        ("NATTER_http__listen", "127.0.0.1:1", "is not a key"),
    ];
    for (name, value, part) in cases {
        let mistakes = mistakes(None, &[(name, value)], Role::Standalone);
        assert_one(&mistakes, &[part]);
        assert!(!mistakes.concat().contains("hidden"), "{mistakes:?}");
    }
}

#[test]
fn roles_have_their_own_defaults_and_needs() {
    let gateway = Config::load_from(None, &env(&[("NATTER_AUTH__SECRET", SECRET)]), Role::Gateway).unwrap();
    assert_eq!(gateway.nats.url.as_deref(), Some(DEFAULT_NATS_URL));
    assert_eq!((gateway.auth.issuer.as_deref(), gateway.auth.audience.as_deref()), (Some("natter"), Some("natter")));
    assert!(!gateway.auth.dev_login && gateway.database.url.is_none());
    assert_one(&mistakes(None, &[], Role::Gateway), &["auth.secret: is not set"]);
    assert_one(&mistakes(None, &[], Role::Persister), &["database.url: is not set"]);
    let persister = Config::load_from(None, &env(&[("NATTER_DATABASE__URL", "postgres://db/natter")]), Role::Persister).unwrap();
    assert_eq!(persister.nats.url.as_deref(), Some(DEFAULT_NATS_URL));
    // As the gateways have it, without the frame that only they read.
    let many = [("NATTER_DATABASE__URL", "postgres://db/natter"), ("NATTER_LIMITS__GROUPS_PER_CONNECTION", "8000")];
    assert_eq!(Config::load_from(None, &env(&many), Role::Persister).unwrap().limits.groups_per_connection, 8000);
    assert_eq!(standalone(&[]).nats.url, None);
}

#[test]
fn dev_login_is_on_by_default_only_on_loopback() {
    assert!(standalone(&[]).auth.dev_login);
    assert!(standalone(&[]).warnings().is_empty());
    let public = standalone(&[("NATTER_HTTP__LISTEN", "0.0.0.0:8080")]);
    assert!(!public.auth.dev_login && public.warnings().is_empty());
    let wanted = standalone(&[("NATTER_HTTP__LISTEN", "0.0.0.0:8080"), ("NATTER_AUTH__DEV_LOGIN", "true")]);
    assert!(wanted.auth.dev_login);
    assert!(wanted.warnings()[0].contains("auth.dev_login"));
    assert!(!standalone(&[("NATTER_AUTH__DEV_LOGIN", "false")]).auth.dev_login);
    for proxied in [("NATTER_HTTP__PUBLIC_URL", "https://chat.test"), ("NATTER_HTTP__TRUSTED_PROXIES", "127.0.0.1")] {
        assert!(!standalone(&[proxied]).auth.dev_login, "{proxied:?}");
        let wanted = standalone(&[proxied, ("NATTER_AUTH__DEV_LOGIN", "true")]);
        assert!(wanted.auth.dev_login && wanted.warnings()[0].contains("a proxy is in front"), "{proxied:?}");
    }
}

#[test]
fn secrets_from_files_and_never_shown() {
    let (folder, path) = file(&format!("[auth]\nsecret = \"{SECRET}\"\n[database]\nurl = \"postgres://me:hidden@db/natter\"\n"));
    let config = Config::load_from(Some(&path), &env(&[]), Role::Gateway).unwrap();
    assert_eq!(config.auth.secret.as_ref().unwrap().expose(), SECRET);
    for shown in [config.effective_toml(), format!("{config:?}")] {
        assert!(!shown.contains(SECRET) && !shown.contains("hidden"), "{shown}");
    }
    assert!(config.to_string().contains("secret = \"********\""));

    let secret = folder.path().join("secret");
    fs::write(&secret, format!("{SECRET} \n")).unwrap();
    let secret = secret.to_str().unwrap();
    let config = Config::load_from(None, &env(&[("NATTER_AUTH__SECRET_FILE", secret)]), Role::Gateway).unwrap();
    assert_eq!(config.auth.secret.unwrap().expose(), format!("{SECRET} "), "only the newline goes");
    let both = mistakes(Some(&path), &[("NATTER_AUTH__SECRET_FILE", secret)], Role::Persister);
    assert_one(&both, &["auth.secret: is set, and auth.secret_file too"]);
}

#[test]
fn issuers_of_the_file() {
    let (_folder, path) = file(&format!(
        "[[auth.issuers]]\nissuer = \"https://id.example\"\naudience = \"chat\"\nsecret = \"{SECRET}\"\n\
         [[auth.issuers]]\nissuer = \"https://id2.example\"\naudience = \"chat\"\nsecret = \"{SECRET}2\"\n"
    ));
    let config = Config::load_from(Some(&path), &env(&[]), Role::Standalone).unwrap();
    assert_eq!(config.auth.issuers.len(), 2);
    assert_eq!(config.auth.issuers[1].secret.as_ref().unwrap().expose(), format!("{SECRET}2"));
    assert!(!config.effective_toml().contains(SECRET));

    for (entry, part) in [
        ("audience = \"chat\"", "has an entry without issuer"),
        ("issuer = \"a\"\nsecret = \"x\"", "has the issuer \"a\" without audience"),
        ("issuer = \"a\"\naudience = \"b\"", "\"a\" has no secret"),
        ("issuer = \"a\"\naudience = \"b\"\njwks_url = \"https://a/\"", "set its algorithm to RS256, ES256 or EdDSA"),
        ("issuer = \"a\"\naudience = \"b\"\nalgorithm = \"RS256\"", "\"a\" has neither public_key nor jwks_url, and RS256 needs one"),
        ("issuer = \"a\"\naudience = \"b\"\nalgorithm = \"rs256\"", "whose algorithm is not one of"),
        ("issuer = \"a\"\naudience = \"b\"\nalgorithm = \"ES256\"\nsecret = \"x\"", "has a secret, which is of no use to ES256"),
        ("issuer = \"a\"\naudience = \"b\"\nalgorithm = \"EdDSA\"\njwks_url = \"http://id.example/\"", "is not an https URL"),
        ("issuer = \"a\"\naudience = \"b\"\nalgorithm = \"EdDSA\"\npublic_key_file = \"/no/such\"", "cannot be read"),
        (
            "issuer = \"a\"\naudience = \"b\"\nalgorithm = \"EdDSA\"\njwks_url = \"https://a/\"\npublic_key = \"-----BEGIN PUBLIC KEY-----\"",
            "has both public_key and jwks_url",
        ),
        ("issuer = \"a\"\naudience = \"b\"\nsecret = \"short\"", "\"a\" has a secret that has 5 bytes"),
        ("issuer = \"a\"\naudience = \"b\"\nkey = \"c\"", "unknown key \"key\""),
        ("issuer = \"natter\"\naudience = \"b\"\nsecret = \"0123456789abcdef0123456789abcdef\"", "is there twice"),
    ] {
        let (_folder, path) = file(&format!("[[auth.issuers]]\n{entry}\n"));
        assert_one(&mistakes(Some(&path), &[], Role::Standalone), &["auth.issuers: ", part]);
    }
}

#[test]
fn a_first_issuer_with_a_public_key() {
    let key = ("NATTER_AUTH__PUBLIC_KEY", "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----");
    let (secret, issuer) = (("NATTER_AUTH__SECRET", SECRET), ("NATTER_AUTH__ISSUER", "https://id.example"));
    let config = Config::load_from(None, &env(&[secret, issuer, key, ("NATTER_AUTH__ALGORITHM", "EdDSA")]), Role::Gateway).unwrap();
    let [first] = config.auth.all_issuers().try_into().unwrap();
    assert_eq!((first.algorithm, first.secret, first.public_key.unwrap().as_pem()), (Algorithm::EdDSA, None, key.1));
    assert_eq!((first.issuer.as_str(), first.audience.as_str()), ("https://id.example", "natter"));
    // Nobody could sign a bearer token of that issuer.
    assert!(!standalone(&[issuer, key, ("NATTER_AUTH__ALGORITHM", "EdDSA")]).auth.dev_login);

    let eddsa = ("NATTER_AUTH__ALGORITHM", "EdDSA");
    let url = ("NATTER_AUTH__JWKS_URL", "https://id.example/keys");
    assert_one(&mistakes(None, &[issuer, key, eddsa, url], Role::Standalone), &["auth.public_key: is set, and auth.jwks_url too"]);
    assert_one(&mistakes(None, &[key, eddsa], Role::Standalone), &["auth.issuer: is not set"]);
    let login = ("NATTER_AUTH__DEV_LOGIN", "true");
    assert_one(&mistakes(None, &[issuer, key, eddsa, login], Role::Standalone), &["auth.dev_login: needs auth.algorithm HS256"]);
    let hs256 = standalone(&[issuer]);
    assert!(hs256.auth.all_issuers().is_empty(), "the key is made later");
}

#[test]
fn keys_come_from_https_or_from_this_machine() {
    let load = |url: &str| {
        let all = [("NATTER_AUTH__ISSUER", "i"), ("NATTER_AUTH__ALGORITHM", "ES256"), ("NATTER_AUTH__JWKS_URL", url)];
        Config::load_from(None, &env(&all), Role::Standalone)
    };
    for fine in ["https://id.example/keys?a=b", "https://id.example:8443", "http://127.0.0.1:9/k", "http://[::1]:9/k", "http://127.0.0.2"] {
        assert!(load(fine).is_ok(), "{fine}");
    }
    for bad in [
        "http://id.example/keys",
        "http://127.0.0.1.evil.test/",
        "http://localhost.evil.test/",
        "http://127.0.0.1@evil.test/",
        "http://evil.test#@127.0.0.1/",
        "http://evil.test\\@127.0.0.1/",
        "https://",
        "https:///keys",
        "https://id.example/a b",
        "ftp://id.example/",
        "file:///etc/passwd",
        "id.example",
        "https://me:hidden@id.example/keys",
    ] {
        let mistakes: Vec<_> = load(bad).unwrap_err().0.iter().map(ToString::to_string).collect();
        assert_one(&mistakes, &["auth.jwks_url: ", "is not an https URL"]);
        assert!(!mistakes.concat().contains("hidden"), "{mistakes:?}");
    }
}

#[test]
fn keys_hold_until_the_next_try_to_fetch_them() {
    let refresh = ("NATTER_AUTH__JWKS_REFRESH", "1s");
    let stale = |time| mistakes(None, &[refresh, ("NATTER_AUTH__JWKS_MAX_STALE", time)], Role::Standalone);
    assert_one(&stale("34s"), &["auth.jwks_max_stale: is shorter than auth.jwks_cooldown and auth.jwks_timeout together"]);
    standalone(&[refresh, ("NATTER_AUTH__JWKS_MAX_STALE", "35s")]);
}

#[test]
fn a_broken_file_is_named_without_its_secrets() {
    let (_folder, path) = file("[auth]\nsecret = hidden\n");
    let mistakes_of_broken = mistakes(Some(&path), &[("NATTER_NATS__SHARDS", "x")], Role::Standalone);
    assert_eq!(mistakes_of_broken.len(), 2, "{mistakes_of_broken:#?}");
    assert!(mistakes_of_broken[0].contains("natter.toml") && mistakes_of_broken[0].contains("line 2"), "{mistakes_of_broken:#?}");
    assert!(!mistakes_of_broken.concat().contains("hidden"), "{mistakes_of_broken:#?}");
    assert_one(&mistakes(Some(Path::new("/no/such/natter.toml")), &[], Role::Standalone), &["/no/such/natter.toml", "cannot be read"]);
}

#[test]
fn variables_that_are_not_ours_are_let_be() {
    standalone(&[
        ("NATTER_SERVICE_HOST", "10.96.0.7"),
        ("NATTER_SERVICE_PORT", "8080"),
        ("NATTER_SERVICE_PORT_HTTP", "8080"),
        ("NATTER_PORT", "tcp://10.96.0.7:8080"),
        ("NATTER_PORT_8080_TCP", "tcp://10.96.0.7:8080"),
        ("NATTER_PORT_8080_TCP_ADDR", "10.96.0.7"),
        ("NATTER_GATEWAY_SERVICE_HOST", "10.96.0.8"),
        ("NATTER_GATEWAY_PORT", "tcp://10.96.0.8:8080"),
        ("NATTER_GATEWAY_PORT_8080_TCP_PROTO", "tcp"),
        ("NATTER_TEST_NATS_SERVER", "/usr/bin/nats-server"),
        ("NATTER_CONFIG", "natter.toml"),
        ("NATTERING", "x"),
    ]);
    assert_one(&mistakes(None, &[("NATTER_PORT", "8080")], Role::Standalone), &["NATTER_PORT: is not a key"]);
}

#[test]
fn what_is_shown_can_be_read_back() {
    let config = standalone(&[("NATTER_HTTP__ALLOWED_ORIGINS", "https://a.example"), ("NATTER_NATS__URL", "nats://n1:4222")]);
    let url = config.database.url.as_ref().unwrap().expose();
    let shown = config.effective_toml().replace("url = \"********\"", &format!("url = \"{url}\""));
    let (_folder, path) = file(&shown);
    assert_eq!(Config::load_from(Some(&path), &env(&[]), Role::Standalone).unwrap(), config);
}

proptest! {
    /// Whatever is in a variable: a config or a mistake, never a panic.
    #[test]
    fn any_value_is_taken_or_named(key in prop::sample::select(known_keys().into_iter().collect::<Vec<_>>()), value in ".{0,40}") {
        let variable = source::variable(&key);
        if let Err(errors) = Config::load_from(None, &env(&[(&variable, &value)]), Role::Standalone) {
            prop_assert!(!errors.0.is_empty());
        }
    }
}
