//! One process with nothing to install: it keeps what it accepted over kill -9, its sign-ins too,
//! guards its folder, and says what is wrong.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use anyhow::{Context, Result};
use natter_shared::id::Nonce;
use natter_tests::{
    checker::{Observation, check},
    client::{ANSWER, Client},
    http::HttpSession,
    nats::{NatsConfig, NatsServer},
    node::Node,
    postgres::Postgres,
    process::{Folder, PATIENCE, Process, binary, free_port},
    sql::Sql,
    standalone::Standalone,
};
use tokio_util::sync::CancellationToken;

use super::chat::wait_until;

async fn sign_in(natter: &Standalone, name: &str) -> Result<Client> {
    let session = HttpSession::signed_in(natter.node.addr, name).await?;
    let token = session.token.clone().context("a token")?;
    let mut client = Client::with_token(&session.user()?, token);
    client.reconnect(natter.node.addr).await?;
    Ok(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_chat_with_nothing_configured() -> Result<()> {
    let natter = Standalone::start(&[]).await?;
    let (ann, ben) = (sign_in(&natter, "ann").await?, sign_in(&natter, "ben").await?);
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    let mut sent = vec![ann.send(group, "hello").await?, ben.send(group, "hi").await?];
    ben.wait_for_body("hi").await?;
    ann.wait_for_body("hi").await?;
    assert_eq!(ann.bodies(group), ben.bodies(group));
    let sql = natter.sql().await?;
    wait_until("two rows", async || sql.message_count().await.unwrap_or_default() == 2).await;
    let mut rows = sql.messages().await?;
    rows.sort_by_key(|row| row.position);
    sent.sort_by_key(|fact| fact.position);
    assert_eq!(rows, sent);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_of_traffic_loses_and_doubles_nothing() -> Result<()> {
    let mut natter = Standalone::start(&[]).await?;
    let addrs = [natter.node.addr];
    let mut clients = Vec::new();
    for number in 0..8 {
        clients.push(sign_in(&natter, &format!("user{number}")).await?);
    }
    let mut group = None;
    for client in &clients {
        group = Some(client.join("lobby").await?);
    }
    let group = group.context("a group")?;
    let stop = CancellationToken::new();
    let mut talking = tokio::task::JoinSet::new();
    for mut client in clients {
        let stop = stop.clone();
        talking.spawn(async move {
            let (mut attempted, mut accepted) = (Vec::new(), Vec::new());
            while !stop.is_cancelled() {
                let nonce = Nonce::now();
                attempted.push(client.message_id(nonce));
                accepted.push(client.send_until_accepted(nonce, group, "x", &addrs, PATIENCE).await?);
            }
            anyhow::Ok((client, attempted, accepted))
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        natter.node.process.kill_and_start()?;
        natter.node.wait_ready().await?;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.cancel();
    let mut seen = Observation::default();
    let mut done = Vec::new();
    while let Some(talked) = talking.join_next().await {
        let (client, attempted, accepted) = talked??;
        seen.attempted.extend(attempted);
        seen.accepted.extend(accepted);
        done.push(client);
    }
    let last = seen.accepted.iter().map(|fact| fact.position).max();
    for client in &mut done {
        if client.record(|record| record.closed.is_some()) {
            client.reconnect_to_any(&addrs, PATIENCE).await?;
        }
        let here = |record: &natter_tests::record::Record| (record.position(group) >= last).then_some(());
        client.wait_until("the last message", PATIENCE, here).await?;
        seen.clients.push((client.user.handle.clone(), client.take_entries()));
    }
    let sql = natter.sql().await?;
    let count = seen.accepted.len();
    wait_until("all rows", async || sql.message_count().await.unwrap_or_default() as usize >= count).await;
    seen.rows = sql.messages().await?;
    let report = check(&seen);
    eprintln!("{} accepted, {} delivered, {} resets", report.accepted, report.deliveries, report.resets);
    report.assert_clean();
    assert_eq!(report.resets, 0);
    assert!(report.accepted > 50);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_ins_survive_a_restart_and_the_key_is_nobody_elses() -> Result<()> {
    let mut natter = Standalone::start(&[]).await?;
    let session = HttpSession::signed_in(natter.node.addr, "ann").await?;
    let token = session.token.clone().context("a token")?;
    natter.node.process.kill_and_start()?;
    natter.node.wait_ready().await?;
    Client::with_token(&session.user()?, token).reconnect(natter.node.addr).await?;
    session.page("/chat/lobby/").await.context("the cookie is still good")?;
    let secret = natter.data.join("auth.key");
    let mode = std::fs::metadata(&secret).context("the key's file")?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{}", secret.display());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_folder_is_refused() -> Result<()> {
    let mut natter = Standalone::start(&[]).await?;
    let mut second = natter.start_second(None, true)?;
    let status = second.wait(PATIENCE)?;
    let log = second.log();
    assert!(!status.success(), "{log}");
    assert!(log.contains(&natter.data.display().to_string()), "the folder is named: {log}");
    assert!(natter.node.is_ready().await && natter.node.process.is_running());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_said_so() -> Result<()> {
    let natter = Standalone::start(&[]).await?;
    let mut second = natter.start_second(Some(natter.node.addr), false)?;
    let status = second.wait(PATIENCE)?;
    let log = second.log();
    assert!(!status.success(), "{log}");
    assert!(log.contains(&natter.node.addr.port().to_string()), "the port is named: {log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_files_in_the_data_folder_are_left_alone() -> Result<()> {
    let mut natter = Standalone::start(&[]).await?;
    let foreign = natter.data.join("notes.txt");
    std::fs::write(&foreign, "mine")?;
    natter.node.process.terminate()?;
    natter.node.process.start_again()?;
    natter.node.wait_ready().await?;
    sign_in(&natter, "ann").await?.join("lobby").await?;
    assert_eq!(std::fs::read_to_string(foreign)?, "mine");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_well_while_clients_are_connected() -> Result<()> {
    let mut natter = Standalone::start(&[]).await?;
    let ann = sign_in(&natter, "ann").await?;
    natter.node.process.signal(libc::SIGTERM)?;
    let (code, _) = ann.wait_for_close(ANSWER).await?;
    assert_eq!(code, 1012);
    assert!(natter.node.process.wait(PATIENCE)?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_ready_while_its_database_is_away() -> Result<()> {
    let mut postgres = Postgres::start()?;
    let natter = Standalone::start(&[("NATTER_DATABASE__URL", &postgres.create_database()?)]).await?;
    postgres.stop()?;
    wait_until("it is not ready", async || !natter.node.is_ready().await).await;
    postgres.start_again()?;
    wait_until("it is ready again", async || natter.node.is_ready().await).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_where_nobody_can_read_its_welcome() -> Result<()> {
    let natter = Standalone::start_with_stdout("/dev/full").await?;
    sign_in(&natter, "ann").await?.join("lobby").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_well_while_it_opens_its_log() -> Result<()> {
    let folder = Folder::new()?;
    let data = folder.path().join("data");
    std::fs::create_dir(&data)?;
    let log = Sql::connect(&format!("sqlite://{}?mode=rwc", data.join("events.db").display())).await?;
    log.rows("PRAGMA journal_mode = WAL").await?;
    let _writing = log.hold("CREATE TABLE other (n INTEGER)").await?;
    let env = [
        ("NATTER_HTTP__LISTEN".to_owned(), format!("127.0.0.1:{}", free_port())),
        ("NATTER_DATA_DIR".to_owned(), data.display().to_string()),
    ];
    let mut natter = Process::start("natter", &binary("natter"), &[], &env, folder.path())?;
    // The last of what comes before the log.
    wait_until("its database's file", async || data.join("natter.db").exists()).await;
    natter.signal(libc::SIGTERM)?;
    let status = natter.wait(Duration::from_secs(5))?;
    assert!(status.success(), "{status}");
    Ok(())
}

/// Sends while nothing can come into the database, which goes on when the value is dropped.
async fn send_past_the_database(natter: &Standalone, ann: &Client, texts: &[&str]) -> Result<impl Drop + use<>> {
    let group = ann.join("lobby").await?;
    let held = natter.sql().await?.hold("UPDATE installation SET shards = shards").await?;
    for text in texts {
        ann.send(group, text).await?;
    }
    Ok(held)
}

#[tokio::test(flavor = "multi_thread")]
async fn from_its_own_broker_to_nats_nothing_is_left_behind() -> Result<()> {
    let mut natter = Standalone::start(&[]).await?;
    let mut ann = sign_in(&natter, "ann").await?;
    let held = send_past_the_database(&natter, &ann, &["one", "two", "three"]).await?;
    natter.node.process.kill()?;
    drop(held);

    let nats = NatsServer::start(&NatsConfig::default())?;
    let logs = Folder::new()?;
    let env = [
        ("NATTER_HTTP__LISTEN".to_owned(), natter.node.addr.to_string()),
        ("NATTER_DATA_DIR".to_owned(), natter.data.display().to_string()),
        ("NATTER_NATS__URL".to_owned(), nats.client_url()),
    ];
    let over_nats = || Process::start("over-nats", &binary("natter"), &[], &env, logs.path());
    let refused = || {
        let mut refused = over_nats()?;
        let status = refused.wait(PATIENCE)?;
        let log = refused.log();
        assert!(!status.success() && log.contains("has 3 events") && log.contains("once more without NATTER_NATS__URL"), "{log}");
        anyhow::Ok(())
    };
    refused()?;
    // Nor where a persister, which does not see the folder, has taken the database on.
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let database = natter.data.join("natter.db");
    let env_of_persister = [
        ("NATTER_NATS__URL".to_owned(), nats.client_url()),
        ("NATTER_DATABASE__URL".to_owned(), format!("sqlite://{}", database.display())),
        ("NATTER_PERSISTER__HTTP_LISTEN".to_owned(), addr.to_string()),
    ];
    let persister = Process::start("persister", &binary("natter-persister"), &["run"], &env_of_persister, logs.path())?;
    let mut persister = Node::new(persister, addr);
    persister.wait_ready().await?;
    assert!(persister.process.terminate()?.success());
    refused()?;

    // As it says; and what is sent meanwhile is not left behind either.
    natter.node.process.start_again()?;
    natter.node.wait_ready().await?;
    ann.reconnect(natter.node.addr).await?;
    let held = send_past_the_database(&natter, &ann, &["four"]).await?;
    natter.node.process.signal(libc::SIGTERM)?;
    ann.wait_for_close(ANSWER).await?;
    wait_until("nobody listens", async || natter.node.status("/healthz").await.is_none()).await;
    assert!(natter.node.process.is_running(), "it stays until all is in the database");
    drop(held);
    assert!(natter.node.process.wait(PATIENCE)?.success());

    let mut node = Node::new(over_nats()?, natter.node.addr);
    node.wait_ready().await?;
    ann.reconnect(node.addr).await?;
    let group = ann.join("lobby").await?;
    ann.send(group, "five").await?;
    let sql = natter.sql().await?;
    wait_until("all of them", async || sql.message_count().await.unwrap_or_default() == 5).await;
    // Another start over NATS is none from the built-in broker any more.
    assert!(node.process.terminate()?.success());
    node.process.start_again()?;
    node.wait_ready().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_nats_beside_a_log_it_waits_for_its_database_once() -> Result<()> {
    let mut postgres = Postgres::start()?;
    let url = postgres.create_database()?;
    let mut natter = Standalone::start(&[("NATTER_DATABASE__URL", &url)]).await?;
    assert!(natter.node.process.terminate()?.success());
    postgres.stop()?;
    let nats = NatsServer::start(&NatsConfig::default())?;
    let logs = Folder::new()?;
    let env = [
        ("NATTER_HTTP__LISTEN".to_owned(), natter.node.addr.to_string()),
        ("NATTER_DATA_DIR".to_owned(), natter.data.display().to_string()),
        ("NATTER_DATABASE__URL".to_owned(), url),
        ("NATTER_NATS__URL".to_owned(), nats.client_url()),
    ];
    let mut node = Node::new(Process::start("over-nats", &binary("natter"), &[], &env, logs.path())?, natter.node.addr);
    wait_until("it says so", async || node.process.log().contains("database_not_asked")).await;
    assert!(node.process.terminate()?.success(), "{}", node.process.log());
    node.process.start_again()?;
    postgres.start_again()?;
    node.wait_ready().await?;
    // Once the log is known to have nothing else, it serves without.
    assert!(node.process.terminate()?.success());
    postgres.stop()?;
    node.process.start_again()?;
    wait_until("it lives", async || node.status("/healthz").await == Some(200)).await;
    assert!(!natter.data.join("events.db").exists() && natter.data.join("events.db.moved").exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_nats_beside_a_log_a_database_that_does_not_fit_is_not_waited_for() -> Result<()> {
    let postgres = Postgres::start()?;
    let url = postgres.create_database()?;
    let create = "CREATE DATABASE latin1 ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
    Sql::connect(&url).await?.rows(create).await?;
    let (folder, nats) = (Folder::new()?, NatsServer::start(&NatsConfig::default())?);
    let data = folder.path().join("data");
    std::fs::create_dir(&data)?;
    std::fs::write(data.join("events.db"), "")?;
    let (server, _) = url.rsplit_once('/').context("a URL")?;
    let env = [
        ("NATTER_HTTP__LISTEN".to_owned(), format!("127.0.0.1:{}", free_port())),
        ("NATTER_DATA_DIR".to_owned(), data.display().to_string()),
        ("NATTER_DATABASE__URL".to_owned(), format!("{server}/latin1")),
        ("NATTER_NATS__URL".to_owned(), nats.client_url()),
    ];
    let mut natter = Process::start("natter", &binary("natter"), &[], &env, folder.path())?;
    let status = natter.wait(PATIENCE)?;
    assert!(!status.success() && natter.log().contains("createdb --encoding=UTF8"), "{}", natter.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_it_leaves_unapplied_before_its_time_to_drain_is_over() -> Result<()> {
    let mut natter = Standalone::start(&[("NATTER_GATEWAY__DRAIN_TIMEOUT", "2s")]).await?;
    let ann = sign_in(&natter, "ann").await?;
    let _held = send_past_the_database(&natter, &ann, &["one"]).await?;
    natter.node.process.signal(libc::SIGTERM)?;
    natter.node.process.wait(PATIENCE)?;
    let log = natter.node.process.log();
    assert!(log.contains("events_left_to_the_next_start"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_on_its_database_takes_nothing_over_though_its_folder_has_the_same_path() -> Result<()> {
    let postgres = Postgres::start()?;
    let url = postgres.create_database()?;
    let natter = Standalone::start(&[("NATTER_DATABASE__URL", &url)]).await?;
    let sql = Sql::connect(&url).await?;
    let epochs = sql.count("SELECT COUNT(*) FROM epochs").await?;
    // As another container has another volume there.
    std::fs::rename(&natter.data, natter.data.with_file_name("volume"))?;
    let (logs, addr) = (Folder::new()?, std::net::SocketAddr::from(([127, 0, 0, 1], free_port())));
    let env = [
        ("NATTER_HTTP__LISTEN".to_owned(), addr.to_string()),
        ("NATTER_DATA_DIR".to_owned(), natter.data.display().to_string()),
        ("NATTER_DATABASE__URL".to_owned(), url),
    ];
    let second = Node::new(Process::start("second", &binary("natter"), &[], &env, logs.path())?, addr);
    wait_until("it lives", async || second.status("/healthz").await == Some(200)).await;
    // For longer than a lease holds.
    let until = std::time::Instant::now() + Duration::from_secs(5);
    while std::time::Instant::now() < until {
        assert!(!second.is_ready().await && natter.node.is_ready().await);
        assert_eq!(sql.count("SELECT COUNT(*) FROM epochs").await?, epochs);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
