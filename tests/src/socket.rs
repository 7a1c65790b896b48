//! One WebSocket connection of a protocol v1 client: a task that reads into the record, and one
//! that writes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest, http::HeaderValue},
};

use crate::record::Record;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Frames that wait to be sent at most.
const QUEUE: usize = 4096;

/// Opens a WebSocket on loopback with further headers.
///
/// # Errors
/// tungstenite's; a refusal is `Error::Http` with the response.
pub async fn upgrade(addr: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Result<WebSocketStream<TcpStream>, Error> {
    let mut request = format!("ws://{addr}{path}").into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value)?);
    }
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(client_async(request, stream).await?.0)
}

/// The path and subprotocol of protocol v1.
pub async fn upgrade_v1(addr: SocketAddr, headers: &[(&'static str, &str)]) -> Result<WebSocketStream<TcpStream>, Error> {
    let mut all = vec![("Sec-WebSocket-Protocol", "natter.v1.json")];
    all.extend_from_slice(headers);
    upgrade(addr, "/ws", &all).await
}

/// An open connection; dropped, it is gone without a Close.
pub struct Socket {
    out: mpsc::Sender<Message>,
    /// Its end of the connection.
    pub port: u16,
    tasks: [JoinHandle<()>; 2],
}

impl Socket {
    /// Opens connection number `connection`, reading into `record` and telling `news`.
    /// While `reading` is false it reads nothing.
    pub async fn open(
        addr: SocketAddr,
        connection: u64,
        record: Arc<Mutex<Record>>,
        news: watch::Sender<u64>,
        mut reading: watch::Receiver<bool>,
    ) -> Result<Self> {
        let stream = timeout(HANDSHAKE, upgrade_v1(addr, &[])).await.context("the handshake takes too long")??;
        let port = stream.get_ref().local_addr()?.port();
        let (mut sink, mut frames) = stream.split();
        let (out, mut queue) = mpsc::channel::<Message>(QUEUE);
        let answers = out.clone();
        let writer = tokio::spawn(async move {
            while let Some(message) = queue.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        });
        let reader = tokio::spawn(async move {
            let (code, reason) = loop {
                // An error: the client is gone, and this with it.
                let _ = reading.wait_for(|reading| *reading).await;
                match frames.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let frame = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
                        if let Some(answer) = record.lock().take_in(connection, frame) {
                            let _ = answers.try_send(Message::text(answer));
                        }
                        news.send_modify(|count| *count += 1);
                    }
                    Some(Ok(Message::Close(Some(close)))) => break (close.code.into(), close.reason.to_string()),
                    // 1005: none given.
                    Some(Ok(Message::Close(None))) => break (1005, String::new()),
                    Some(Ok(_)) => {}
                    // 1006: no Close at all.
                    Some(Err(error)) => break (1006, error.to_string()),
                    None => break (1006, String::new()),
                }
            };
            record.lock().end_connection(connection, code, reason);
            news.send_modify(|count| *count += 1);
        });
        Ok(Self { out, port, tasks: [reader, writer] })
    }

    /// Sends a text.
    pub fn send_text(&self, text: &str) -> Result<()> {
        self.out.try_send(Message::text(text)).map_err(|error| anyhow!("not sent: {error}"))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
