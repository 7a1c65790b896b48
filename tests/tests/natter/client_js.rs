//! natter.js in Node against live gateways: tests/js/live is run as it is, and may order gateways
//! to be killed, stopped and started.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use natter_tests::{
    cluster::Cluster,
    process::command,
    token::{AUDIENCE, ISSUER, SECRET},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const PATIENCE: Duration = Duration::from_mins(2);

/// Does what one request orders: `POST /<kill|stop|start>/<gateway>`.
async fn obey(cluster: &mut Cluster, mut stream: TcpStream) -> Result<()> {
    let mut received = Vec::new();
    while !received.windows(4).any(|four| four == b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut received).await? > 0, "ended within the head");
    }
    let head = std::str::from_utf8(&received)?;
    let mut path = head.split(' ').nth(1).context("a request line")?.split('/').skip(1);
    let (what, which) = (path.next().context("an order")?, path.next().context("a gateway")?);
    let gateway = cluster.gateways.get_mut(which.parse::<usize>()?).context("no such gateway")?;
    match what {
        "kill" => gateway.process.kill()?,
        "stop" => ensure!(gateway.process.terminate()?.success(), "a graceful end"),
        "start" => {
            gateway.process.start_again()?;
            gateway.wait_ready().await?;
        }
        other => bail!("no such order: {other}"),
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn natter_js_keeps_its_promises_in_node_against_live_gateways() -> Result<()> {
    // A token that is over ends its connection at once.
    let mut cluster = Cluster::builder().env("NATTER_AUTH__LEEWAY", "0s").start().await?;
    let control = TcpListener::bind("127.0.0.1:0").await?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("js");
    ensure!(folder.join("node_modules/ws").exists(), "tests/js/node_modules is missing: `make setup` installs it");
    let gateways: Vec<String> = cluster.addrs().iter().map(ToString::to_string).collect();
    let mut node = tokio::process::Command::from(command(Path::new("node")));
    node.args(["--test-reporter=tap", "live/client.test.js"]).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    node.env("GATEWAYS", gateways.join(",")).env("CONTROL", control.local_addr()?.to_string());
    node.envs([("SECRET", SECRET), ("ISSUER", ISSUER), ("AUDIENCE", AUDIENCE)]);
    let ended = tokio::time::timeout(PATIENCE, node.output());
    tokio::pin!(ended);
    let output = loop {
        tokio::select! {
            output = &mut ended => break output.context("not done in time")??,
            order = control.accept() => obey(&mut cluster, order?.0).await?,
        }
    };
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{said}");
    ensure!(said.contains("# pass 5") && said.contains("# fail 0"), "not all was tried:\n{said}");
    Ok(())
}
