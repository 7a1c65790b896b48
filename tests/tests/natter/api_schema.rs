//! The HTTP API against its own OpenAPI document: Schemathesis makes up requests, good and bad, of
//! all that the document allows and forbids. No answer may be a 5xx, and each has to be as the
//! document says.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use natter_tests::{
    cluster::{Cluster, Store},
    http::HttpSession,
    process::command,
    token::User,
};
use serde_json::json;

/// How long one run goes on making up requests, and what it may take in all.
const SEARCH: Duration = Duration::from_secs(40);
const PATIENCE: Duration = Duration::from_mins(3);

/// What every answer is checked for. Whether bad data is always refused is not asked: unknown fields
/// are ignored on purpose.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,unsupported_method,ignored_auth";

fn schemathesis() -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/schemathesis/bin/schemathesis");
    ensure!(path.exists(), "{} is missing: `make setup` installs it", path.display());
    Ok(path)
}

/// A cluster in which there are users, groups, messages and notifications to be found.
async fn lived_in() -> Result<Cluster> {
    // As many requests as this machine can make are no abuse here.
    let cluster = Cluster::builder().gateways(1).store(Store::Postgres).env("NATTER_LIMITS__HTTP_REQUESTS_PER_SECOND", "1000000");
    let cluster = cluster.env("NATTER_LIMITS__HTTP_REQUESTS_BURST", "1000000").start().await?;
    let alice = HttpSession::signed_in(cluster.gateway(0), "alice").await?;
    HttpSession::signed_in(cluster.gateway(0), "bob").await?;
    let http = reqwest::Client::new();
    let posts = [
        ("groups/open", json!({"name": "lobby"})),
        ("groups/single", json!({"user": "bob"})),
        ("groups", json!({"display_name": "Launch", "members": ["bob"]})),
        ("groups/lobby/messages", json!({"body": "Good morning"})),
        ("notifications", json!({"to": {"user": "bob"}, "body": "Lunch at noon?"})),
    ];
    for (path, body) in posts {
        let url = format!("http://{}/api/v1/{path}", cluster.gateway(0));
        let answer = http.post(url).bearer_auth(alice.token.as_deref().context("a token")?).json(&body).send().await?;
        ensure!(answer.status().is_success(), "{path}: {} {}", answer.status(), answer.text().await?);
    }
    Ok(cluster)
}

/// Tries the operations whose paths match, as who `authorization` says.
async fn try_all(cluster: &Cluster, paths: &str, authorization: &str) -> Result<()> {
    let url = format!("http://{}/api/openapi.json", cluster.gateway(0));
    let header = format!("Authorization:{authorization}");
    let seconds = SEARCH.as_secs().to_string();
    let folder = natter_tests::process::Folder::new()?;
    let mut run = tokio::process::Command::from(command(&schemathesis()?));
    run.args(["run", &url, "--include-path-regex", paths, "--header", &header, "--checks", CHECKS]);
    // The same requests in each run; --max-examples would cut the same off each time.
    run.args(["--phases", "coverage,fuzzing", "--max-time", &seconds, "--seed", "20261124", "--continue-on-failure", "--no-color"]);
    run.args(["--request-timeout", "20", "--suppress-health-check", "all"]);
    run.current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    let Ok(output) = tokio::time::timeout(PATIENCE, run.output()).await else { bail!("not done within {PATIENCE:?}") };
    let output = output?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{said}\nthe gateway's log:\n{}", cluster.gateways[0].process.log());
    ensure!(said.contains("passed"), "nothing was tried:\n{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_api_answers_as_its_document_says() -> Result<()> {
    let cluster = lived_in().await?;
    let token = User { id: "alice".into(), handle: "alice".into(), name: "alice".into() }.token();
    try_all(&cluster, "^/api/v1/(?!server/|dev/)", &format!("Bearer {token}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_api_answers_as_its_document_says() -> Result<()> {
    let cluster = lived_in().await?;
    try_all(&cluster, "^/api/v1/server/", &format!("Bearer {}", cluster.api_key("schemathesis")?)).await
}
