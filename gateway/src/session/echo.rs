//! A session that sends back what it is sent, for judges of the WebSocket protocol: only in tests,
//! and everything but the answer is what every session has.

use std::sync::Arc;

use natter_shared::{id::UserId, timestamp::Timestamp};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use super::{
    Protocol, SessionHandle,
    open::Live,
    run::{self, Guard, Running, Serving, Step},
};
use crate::{
    app::App,
    auth::Identity,
    socket::{self, Outlet},
};

/// Opens a session from its 101 on.
pub(crate) async fn open_echo(app: Arc<App>, stream: TcpStream, read: Vec<u8>) -> Option<Serving> {
    let outlet = Arc::new(Outlet::held(app.outlet_limits()));
    outlet.attach(stream);
    let socket = socket::websocket(&app, &outlet, read).await;
    let user = UserId::new("echo").unwrap();
    let seat = app.connections.sit(&user.key(), usize::MAX).unwrap();
    let identity = Identity { expires_at: Timestamp(u64::MAX / 2), ..Identity::of(user) };
    let session = SessionHandle::new(&identity, Protocol::ChatRoom, Arc::clone(&outlet));
    let guard = Guard::register(Arc::clone(&app), session, seat);
    outlet.release(bytes::Bytes::new());
    Some(Box::pin(run::run(app, Live { guard, room: None, echo: true }, socket)))
}

impl Running {
    pub(super) fn echo_back(&self, message: Message) -> Step {
        let opcode = if message.is_text() { Data::Text } else { Data::Binary };
        let mut frame = Vec::new();
        Frame::message(message.into_data(), OpCode::Data(opcode), true).format(&mut frame).unwrap();
        self.session.outlet.push(&frame.into(), 1);
        Step::Continue
    }
}
