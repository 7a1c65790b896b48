//! docs/http.md: every command in it is run, in the order of the document, against a live cluster,
//! and answered with the status that stands before it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use natter_tests::{
    cluster::Cluster,
    http::HttpSession,
    process::{Folder, command},
    token::User,
};
use serde_json::{Value, json};

/// Says the status of each call on stderr, beside what the call prints.
const PRELUDE: &str = "set -eu\ncurl() { command curl --silent --show-error --max-time 30 -w '%{stderr}status=%{http_code}\\n' \"$@\"; }\n";

/// A fenced `sh` block that is preceded by `<!-- status: 200 -->`, or several statuses for several
/// calls.
struct Example<'a> {
    line: usize,
    statuses: Vec<&'a str>,
    script: String,
}

fn examples(document: &str) -> Result<Vec<Example<'_>>> {
    let mut found = Vec::new();
    let mut lines = document.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        ensure!(!line.starts_with("```sh"), "docs/http.md:{}: no status stands before this command", number + 1);
        let Some(statuses) = line.strip_prefix("<!-- status: ").and_then(|rest| rest.strip_suffix(" -->")) else { continue };
        let fence = lines.next().map(|(_, line)| line);
        ensure!(fence == Some("```sh"), "docs/http.md:{}: a ```sh block follows a status", number + 2);
        let body: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        found.push(Example { line: number + 2, statuses: statuses.split_whitespace().collect(), script: body.join("\n") });
    }
    Ok(found)
}

/// Runs an example; returns the statuses of its calls, and all that was said.
fn run(example: &Example<'_>, env: &[(&str, &str)], folder: &Path) -> Result<(Vec<String>, String)> {
    let script = format!("{PRELUDE}{}\n", example.script);
    let output = command(Path::new("/bin/sh")).args(["-c", &script]).envs(env.iter().copied()).current_dir(folder).output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let statuses = err.lines().filter_map(|line| line.strip_prefix("status=")).map(str::to_owned).collect();
    ensure!(output.status.success(), "docs/http.md:{}: {}\n{out}{err}", example.line, output.status);
    Ok((statuses, format!("{out}{err}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_command_is_answered_as_the_document_says() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/http.md");
    let document = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let cluster = Cluster::builder().gateways(1).start().await?;
    let natter = format!("http://{}", cluster.gateway(0));
    let alice = HttpSession::signed_in(cluster.gateway(0), "alice").await?;
    let token = alice.token.clone().context("a token")?;
    HttpSession::signed_in(cluster.gateway(0), "bob").await?;
    HttpSession::signed_in(cluster.gateway(0), "carol").await?;
    let call = |path: &str, body: Value| reqwest::Client::new().post(format!("{natter}/api/v1/{path}")).bearer_auth(&token).json(&body);
    let group: Value = call("groups", json!({"display_name": "Launch", "members": ["bob"]})).send().await?.json().await?;
    let group = group["id"].as_str().context("a group")?.to_owned();
    call("groups/open", json!({"name": "lobby"})).send().await?.error_for_status()?;
    let sent: Value = call(&format!("groups/{group}/messages"), json!({"body": "Good morning"})).send().await?.json().await?;
    let to_alice = reqwest::Client::new().post(format!("{natter}/api/v1/notifications")).bearer_auth(User::named("dave").token());
    let told: Value = to_alice.json(&json!({"to": {"user": "alice"}, "body": "Lunch at noon?"})).send().await?.json().await?;
    let key = cluster.api_key("documents")?;
    let text = |value: &Value, field: &str| value[field].as_str().map(str::to_owned).with_context(|| format!("{field} in {value}"));
    let (position, notification) = (text(&sent, "position")?, text(&told, "notification_id")?);
    let env = [
        ("NATTER", natter.as_str()),
        ("TOKEN", &token),
        ("API_KEY", &key),
        ("GROUP", &group),
        ("POSITION", &position),
        ("NOTIFICATION", &notification),
    ];
    let folder = Folder::new()?;
    let examples = examples(&document)?;
    ensure!(examples.len() >= 20, "only {} commands are documented", examples.len());
    let mut wrong = Vec::new();
    for example in &examples {
        let (statuses, said) = run(example, &env, folder.path())?;
        if statuses != example.statuses {
            wrong.push(format!("docs/http.md:{}: {:?}, not {:?}:\n{}\n{said}", example.line, statuses, example.statuses, example.script));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}
