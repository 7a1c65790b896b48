//! A copy made while natter runs brings everything back that was accepted before.

use std::{collections::HashSet, os::unix::fs::PermissionsExt, process::Command};

use anyhow::{Context, Result};
use natter_shared::id::{MessageId, Nonce};
use natter_tests::{
    client::Client,
    http::HttpSession,
    node::Node,
    postgres::Postgres,
    process::{Folder, PATIENCE, Process, binary, command, free_port},
    standalone::Standalone,
};
use tokio_util::sync::CancellationToken;

use super::chat::wait_until;

fn natter(data: &std::path::Path, args: &[&str]) -> Command {
    let mut natter = command(&binary("natter"));
    natter.args(args).env("NATTER_DATA_DIR", data);
    natter
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_in_the_middle_of_traffic_has_all_that_was_accepted_before() -> Result<()> {
    let natter_process = Standalone::start(&[]).await?;
    let addrs = [natter_process.node.addr];
    let session = HttpSession::signed_in(natter_process.node.addr, "ann").await?;
    let token = session.token.clone().context("a token")?;
    let user = session.user()?;
    let mut ann = Client::with_token(&user, token.clone());
    ann.reconnect(natter_process.node.addr).await?;
    let group = ann.join("lobby").await?;
    let (accepted, stop) = (std::sync::Arc::new(std::sync::Mutex::new(Vec::new())), CancellationToken::new());
    let talking = tokio::spawn({
        let (accepted, stop) = (accepted.clone(), stop.clone());
        async move {
            while !stop.is_cancelled() {
                let fact = ann.send_until_accepted(Nonce::now(), group, "x", &addrs, PATIENCE).await?;
                accepted.lock().unwrap().push(fact);
            }
            anyhow::Ok(())
        }
    });
    wait_until("some traffic", async || accepted.lock().unwrap().len() > 100).await;
    let folder = Folder::new()?;
    let copy = folder.path().join("copy");
    let before: Vec<_> = accepted.lock().unwrap().clone();
    let mut backup = natter(&natter_process.data, &["backup", copy.to_str().context("a path")?]);
    let said = tokio::task::spawn_blocking(move || backup.output()).await??;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let more = accepted.lock().unwrap().len() + 20;
    wait_until("traffic after it", async || accepted.lock().unwrap().len() > more).await;
    // The machine is lost in the middle of it.
    let mut natter_process = natter_process;
    natter_process.node.process.kill()?;
    stop.cancel();
    talking.abort();
    for file in ["natter.db", "events.db", "auth.key"] {
        let permissions = std::fs::metadata(copy.join(file)).with_context(|| file.to_owned())?.permissions();
        assert_eq!(permissions.mode() & 0o777, 0o600, "{file}");
    }
    // A second one does not overwrite it.
    let again = natter(&natter_process.data, &["backup", copy.to_str().context("a path")?]).output()?;
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("not empty"));
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let env = [("NATTER_HTTP__LISTEN".to_owned(), addr.to_string()), ("NATTER_DATA_DIR".to_owned(), copy.display().to_string())];
    let process = Process::start("restored", &binary("natter"), &[], &env, folder.path())?;
    let mut restored = Node::new(process, addr);
    restored.wait_ready().await?;
    let sql = natter_tests::sql::Sql::connect(&format!("sqlite://{}", copy.join("natter.db").display())).await?;
    let wanted: HashSet<MessageId> = before.iter().map(|fact| fact.message).collect();
    wait_until("all that was accepted", async || {
        let rows = sql.messages().await.unwrap_or_default();
        let found: HashSet<MessageId> = rows.iter().map(|fact| fact.message).collect();
        assert_eq!(found.len(), rows.len(), "each once");
        wanted.is_subset(&found)
    })
    .await;
    // The token is still good; and no position comes again that a client may have seen.
    let mut ann = Client::with_token(&user, token);
    ann.reconnect(addr).await?;
    ann.join("lobby").await?;
    let next = ann.send(group, "again").await?;
    let last = before.last().context("a message")?.position;
    assert!(next.position.epoch > last.epoch, "{} after {last}", next.position);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_left_to_its_own_tools_and_what_is_beside_it_is_copied() -> Result<()> {
    let folder = Folder::new()?;
    let backup = |data: &std::path::Path, url: &str| {
        natter(data, &["backup", "copy"]).env("NATTER_DATABASE__URL", url).current_dir(folder.path()).output()
    };
    let said = backup(folder.path(), "postgres://natter@localhost/natter")?;
    assert!(!said.status.success() && String::from_utf8_lossy(&said.stderr).contains("pg_dump"));
    assert!(!folder.path().join("copy").exists());

    let postgres = Postgres::start()?;
    let url = postgres.create_database()?;
    let natter = Standalone::start(&[("NATTER_DATABASE__URL", &url)]).await?;
    let said = backup(&natter.data, &url)?;
    assert!(said.status.success() && String::from_utf8_lossy(&said.stderr).contains("pg_dump"), "{said:?}");
    let mut files: Vec<_> = std::fs::read_dir(folder.path().join("copy"))?.map(|file| Ok(file?.file_name())).collect::<Result<_>>()?;
    files.sort();
    assert_eq!(files, ["auth.key", "events.db"]);
    Ok(())
}

#[test]
fn any_folder_can_be_copied_to_any_other() -> Result<()> {
    let folder = Folder::new()?;
    let data = std::path::Path::new("chat data/100%");
    std::fs::create_dir_all(folder.path().join(data))?;
    std::fs::write(folder.path().join(data).join("natter.db"), "")?;
    let run = |args: &[&str]| natter(data, args).current_dir(folder.path()).output();
    let made = run(&["apikey", "create", "--name", "shop"])?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(std::fs::metadata(folder.path().join(data).join("natter.db"))?.len() > 0, "the one that was meant");
    let said = run(&["backup", "2026-11-24T10:00:00"])?;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let copied = natter("2026-11-24T10:00:00".as_ref(), &["apikey", "list"]).current_dir(folder.path()).output()?;
    assert!(String::from_utf8_lossy(&copied.stdout).contains("shop"));
    Ok(())
}
