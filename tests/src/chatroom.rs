//! A client of the chat-room protocol (PROTOCOL.md), on the socket of a page.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message},
};

use crate::{socket::upgrade, token::User};

/// An open page's socket.
pub struct ChatRoom {
    stream: WebSocketStream<TcpStream>,
}

impl ChatRoom {
    /// Opens the socket of a room, signed in by a bearer token. Returns when the session is live.
    pub async fn open(gateway: SocketAddr, user: &User, room: &str) -> Result<Self, Error> {
        let bearer = format!("Bearer {}", user.token());
        let path = format!("/ws/chat/{room}/");
        Ok(Self { stream: upgrade(gateway, &path, &[("Authorization", &bearer)]).await? })
    }

    /// Sends a text as it is.
    pub async fn send_text(&mut self, text: &str) -> Result<()> {
        Ok(self.stream.send(Message::text(text)).await?)
    }

    /// Says something in a group, or in the socket's room.
    pub async fn chat(&mut self, group: Option<&str>, message: &str) -> Result<()> {
        let mut frame = json!({"message": message, "type": "chat"});
        if let Some(group) = group {
            frame["groupname"] = json!(group);
        }
        self.send_text(&frame.to_string()).await
    }

    /// Notifies a user by handle.
    pub async fn notify(&mut self, handle: &str, message: &str) -> Result<()> {
        self.send_text(&json!({"message": message, "type": "notification", "user_name": handle}).to_string()).await
    }

    /// Closes the socket.
    pub async fn close(mut self) -> Result<()> {
        Ok(self.stream.close(None).await?)
    }

    /// The next text frame.
    pub async fn next(&mut self, patience: Duration) -> Result<Value> {
        loop {
            let message = timeout(patience, self.stream.next()).await.context("no frame in time")?;
            match message.context("the socket ended")?? {
                Message::Text(text) => return Ok(serde_json::from_str(&text)?),
                Message::Close(close) => anyhow::bail!("closed: {close:?}"),
                _ => {}
            }
        }
    }
}
