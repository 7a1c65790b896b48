//! The binaries as an operator meets them before anything runs: what they say of themselves, of a
//! config, and of a database.

use std::path::Path;

use anyhow::Result;
use natter_tests::{
    process::{Folder, binary, command},
    sql::Sql,
    token::SECRET,
};

const BINARIES: [&str; 3] = ["natter", "natter-gateway", "natter-persister"];

/// What a binary says on stdout and stderr, and its exit status.
struct Said {
    status: Option<i32>,
    out: String,
    all: String,
}

/// Runs a binary to its end, in `folder`.
fn run(name: &str, args: &[&str], env: &[(&str, &str)], folder: &Path) -> Result<Said> {
    let output = command(&binary(name)).args(args).envs(env.iter().copied()).current_dir(folder).output()?;
    let out = String::from_utf8(output.stdout)?;
    let all = format!("{name} {args:?}:\n{out}{}", String::from_utf8(output.stderr)?);
    Ok(Said { status: output.status.code(), out, all })
}

#[test]
fn the_binaries_say_who_they_are_and_how_they_are_used() -> Result<()> {
    let folder = Folder::new()?;
    for name in BINARIES {
        let version = run(name, &["--version"], &[], folder.path())?;
        assert_eq!((version.status, version.out), (Some(0), format!("{name} {}\n", env!("CARGO_PKG_VERSION"))));
        let help = run(name, &["--help"], &[], folder.path())?;
        assert_eq!(help.status, Some(0), "{}", help.all);
        for part in ["--check-config", "Examples:", "NATTER_HTTP__LISTEN"] {
            assert!(help.out.contains(part), "{part} is not in {}", help.all);
        }
        let wrong = run(name, &["--no-such-option"], &[], folder.path())?;
        assert_eq!(wrong.status, Some(2), "{}", wrong.all);
    }
    Ok(())
}

#[test]
fn every_mistake_of_a_config_is_named_at_once() -> Result<()> {
    let folder = Folder::new()?;
    let mistakes = [
        ("NATTER_HTTP__LISTEN", "nonsense", "http.listen"),
        ("NATTER_HTTP__ALLOWED_ORIGINS", "Not An Origin", "http.allowed_origins"),
        ("NATTER_NATS__SHARDS", "0", "nats.shards"),
        ("NATTER_NATS__URL", "http://n1:4222", "nats.url"),
        ("NATTER_DATABASE__URL", "mysql://root:hunter2@localhost/natter", "database.url"),
        ("NATTER_AUTH__SECRET", "hunter2", "auth.secret"),
        ("NATTER_AUTH__DEV_LOGIN", "perhaps", "auth.dev_login"),
        ("NATTER_LIMITS__HISTORY_PAGE", "100000", "limits.history_page"),
        ("NATTER_LIMITS__HEARTBEAT_INTERVAL", "soon", "limits.heartbeat_interval"),
        ("NATTER_HTTP__LISTN", "127.0.0.1:9000", "NATTER_HTTP__LISTN"),
    ];
    let env = mistakes.map(|(variable, value, _)| (variable, value));
    for name in BINARIES {
        for args in [&["--check-config"][..], &[]] {
            let said = run(name, args, &env, folder.path())?;
            assert_eq!(said.status, Some(1), "{}", said.all);
            for (variable, _, key) in mistakes {
                assert!(said.all.contains(&format!("  {key}: ")) && said.all.contains(variable), "{key} is not in {}", said.all);
            }
            assert!(!said.all.contains("hunter2"), "a secret is shown: {}", said.all);
        }
    }
    let missing = run("natter-gateway", &["--check-config"], &[], folder.path())?;
    assert!(missing.status == Some(1) && missing.all.contains("auth.secret"), "{}", missing.all);
    let missing = run("natter-persister", &["--check-config"], &[], folder.path())?;
    assert!(missing.status == Some(1) && missing.all.contains("database.url"), "{}", missing.all);
    Ok(())
}

#[test]
fn a_good_config_is_shown_without_its_secrets() -> Result<()> {
    let folder = Folder::new()?;
    let env = [
        ("NATTER_HTTP__LISTEN", "127.0.0.1:9123"),
        ("NATTER_AUTH__SECRET", SECRET),
        ("NATTER_DATABASE__URL", "postgres://natter:hunter2@localhost/natter"),
        ("NATTER_NATS__USER", "natter"),
        ("NATTER_NATS__PASSWORD", "hunter3"),
    ];
    for name in BINARIES {
        let said = run(name, &["--check-config"], &env, folder.path())?;
        assert_eq!(said.status, Some(0), "{}", said.all);
        assert!(said.out.contains("127.0.0.1:9123") && said.out.contains("********"), "{}", said.all);
        for secret in [SECRET, "hunter2", "hunter3"] {
            assert!(!said.all.contains(secret), "{secret} is shown: {}", said.all);
        }
    }
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 0, "looking at a config makes no files");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_twice_is_migrating_once() -> Result<()> {
    let folder = Folder::new()?;
    let url = format!("sqlite://{}", folder.path().join("natter.db").display());
    let env = [("NATTER_DATABASE__URL", url.as_str())];
    let mut schemas = Vec::new();
    for _ in 0..2 {
        let said = run("natter-persister", &["migrate"], &env, folder.path())?;
        assert_eq!(said.status, Some(0), "{}", said.all);
        let sql = Sql::connect(&url).await?;
        assert!(sql.has_messages().await, "the tables are there");
        let rows = sql.rows("SELECT type || name || COALESCE(sql, '') AS line FROM sqlite_master ORDER BY name").await?;
        let lines: Vec<String> = rows.iter().map(|row| row.try_get("", "line")).collect::<Result<_, _>>()?;
        schemas.push((lines, sql.count("SELECT COUNT(*) FROM seaql_migrations").await?));
    }
    assert_eq!(schemas[0], schemas[1]);
    Ok(())
}

#[test]
fn migrating_what_is_not_there_fails_and_says_why() -> Result<()> {
    let folder = Folder::new()?;
    let url = format!("sqlite://{}", folder.path().join("no/such/folder/natter.db").display());
    let said = run("natter-persister", &["migrate"], &[("NATTER_DATABASE__URL", &url)], folder.path())?;
    assert!(said.status == Some(1) && said.all.contains("database.url"), "{}", said.all);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_listed_and_revoked_while_natter_runs() -> Result<()> {
    let natter = natter_tests::standalone::Standalone::start(&[]).await?;
    let data = natter.data.display().to_string();
    let url = format!("sqlite://{}", natter.data.join("natter.db").display());
    let folder = Folder::new()?;
    // Either binary, on the same database.
    let ways = [("natter", ("NATTER_DATA_DIR", data.as_str())), ("natter-persister", ("NATTER_DATABASE__URL", url.as_str()))];
    for (name, env) in ways {
        let made = run(name, &["apikey", "create", "--name", "shop", "--json"], &[env], folder.path())?;
        assert_eq!(made.status, Some(0), "{}", made.all);
        let made: serde_json::Value = serde_json::from_str(&made.out)?;
        let (id, key) = (made["id"].as_str().unwrap_or_default(), made["key"].as_str().unwrap_or_default());
        assert!(key.starts_with("ntr_") && key.len() == 4 + 43, "{made}");
        let sql = Sql::connect(&url).await?;
        let hash = sql.rows("SELECT sha256 FROM api_keys ORDER BY created_at DESC LIMIT 1").await?[0].try_get::<String>("", "sha256")?;
        assert!(hash.len() == 64 && !hash.contains(key), "only the hash is kept");
        let listed = run(name, &["apikey", "list"], &[env], folder.path())?;
        assert!(listed.out.contains(id) && listed.out.contains("shop") && !listed.all.contains(key), "{}", listed.all);
        let revoked = run(name, &["apikey", "revoke", id], &[env], folder.path())?;
        assert_eq!(revoked.status, Some(0), "{}", revoked.all);
        let listed = run(name, &["apikey", "list", "--json"], &[env], folder.path())?;
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed.out)?;
        let listed = listed.iter().find(|listed| listed["id"] == id).expect("the key is listed");
        assert!(listed["revoked_at"].is_string(), "{listed}");
    }
    let unknown = run("natter", &["apikey", "revoke", "00000000-0000-4000-8000-000000000000"], &[ways[0].1], folder.path())?;
    assert!(unknown.status == Some(1) && unknown.all.contains("no key"), "{}", unknown.all);
    let nameless = run("natter", &["apikey", "create", "--name", " "], &[ways[0].1], folder.path())?;
    assert!(nameless.status == Some(1) && nameless.all.contains("name"), "{}", nameless.all);
    let nowhere = run("natter", &["apikey", "list"], &[], folder.path())?;
    assert!(nowhere.status == Some(1) && nowhere.all.contains("NATTER_DATA_DIR"), "{}", nowhere.all);
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 0, "a mistyped folder makes no database");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_exported_and_erased_while_natter_runs() -> Result<()> {
    let natter = natter_tests::standalone::Standalone::start(&[]).await?;
    let data = natter.data.display().to_string();
    let env = [("NATTER_DATA_DIR", data.as_str())];
    let folder = Folder::new()?;
    let session = natter_tests::http::HttpSession::signed_in(natter.node.addr, "ann").await?;
    let user = session.user()?;
    let mut ann = natter_tests::client::Client::with_token(&user, session.token.clone().unwrap_or_default());
    ann.reconnect(natter.node.addr).await?;
    let group = ann.join("lobby").await?;
    ann.send(group, "my secret").await?;
    let sql = natter.sql().await?;
    super::chat::wait_until("the row", async || sql.message_count().await.unwrap_or_default() == 1).await;
    let id = user.id.clone();
    let exported = run("natter", &["user", "export", &id], &env, folder.path())?;
    assert_eq!(exported.status, Some(0), "{}", exported.all);
    assert!(exported.out.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{}", exported.all);
    assert!(exported.out.contains("my secret") && exported.out.contains("\"profile\""), "{}", exported.all);
    let erased = run("natter", &["user", "erase", &id], &env, folder.path())?;
    assert_eq!(erased.status, Some(0), "{}", erased.all);
    assert!(erased.all.contains("Erased: 1 messages"), "{}", erased.all);
    assert_eq!(sql.count("SELECT COUNT(*) FROM messages WHERE body <> ''").await?, 0);
    assert_eq!(sql.count("SELECT COUNT(*) FROM members WHERE until_epoch IS NULL").await?, 0);
    let unknown = run("natter", &["user", "erase", "nobody"], &env, folder.path())?;
    assert!(unknown.status == Some(1) && unknown.all.contains("no user"), "{}", unknown.all);
    Ok(())
}
