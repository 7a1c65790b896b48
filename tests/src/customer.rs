//! A customer's web server: it serves a page of its own and passes `/chat/`, `/ws/` and `/api/` on
//! to one gateway, all on one host, as a reverse proxy does.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A file: its type and its bytes.
type File = (&'static str, Vec<u8>);

/// A running web server; ends with its value.
pub struct Customer {
    /// Where it serves.
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Customer {
    /// Serves `files` by path, and passes all else on to `gateway`.
    pub async fn start(gateway: SocketAddr, files: HashMap<String, File>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let files = Arc::new(files);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let files = files.clone();
                // A browser that goes away is no concern of ours.
                tokio::spawn(async move { serve(stream, gateway, &files).await.ok() });
            }
        });
        Ok(Self { addr, task })
    }
}

impl Drop for Customer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request per connection, so that each finds its own way.
async fn serve(mut stream: TcpStream, gateway: SocketAddr, files: &HashMap<String, File>) -> Result<()> {
    let mut received = Vec::new();
    let end = loop {
        if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        anyhow::ensure!(stream.read_buf(&mut received).await? > 0, "ended within the head");
    };
    let (head, rest) = received.split_at(end);
    let head = std::str::from_utf8(head)?;
    let path = head.split(' ').nth(1).context("a request line")?;
    if let Some((kind, body)) = files.get(path.split('?').next().unwrap_or(path)) {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        stream.write_all(answer.as_bytes()).await?;
        stream.write_all(body).await?;
        return Ok(stream.shutdown().await?);
    }
    let mut upstream = TcpStream::connect(gateway).await?;
    let is_upgrade = head.to_ascii_lowercase().contains("\r\nupgrade: websocket");
    let is_connection = |line: &&str| !line.to_ascii_lowercase().starts_with("connection:");
    let head = if is_upgrade {
        head.to_owned()
    } else {
        head.split("\r\n").filter(is_connection).collect::<Vec<_>>().join("\r\n") + "\r\nConnection: close"
    };
    upstream.write_all(head.as_bytes()).await?;
    upstream.write_all(rest).await?;
    copy_bidirectional(&mut stream, &mut upstream).await?;
    Ok(())
}
