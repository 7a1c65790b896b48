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
