//! Sessions over a broker that does what it is told, in front of an SQL that comes as far as it is told.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{sync::Arc, time::Duration};

use natter_shared::{
    config::{Config, Secret},
    id::GroupId,
    position::{Epoch, Position},
    subject::Topic,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::Notice;
use crate::{
    app::App,
    delivery::{
        Start,
        tests::{Member, message, notification, script::Script},
    },
    edge,
    memory::Memory,
};

struct Stage {
    script: Arc<Script>,
    app: Arc<App>,
    _ends: DropGuard,
}

impl Stage {
    async fn new() -> Self {
        let (script, stop, tasks) = (Script::new(), CancellationToken::new(), TaskTracker::new());
        // Nothing is ever at position 0.
        script.store(Topic::Group(GroupId(uuid::Uuid::nil())), &message("before"), true);
        let mut config = Config::default();
        config.auth.secret = Some(Secret::new("0123456789abcdef0123456789abcdef"));
        let app = edge::app(script.clone(), config, &Arc::new(Memory::new(1 << 60)), &tasks, &stop);
        while !app.hub.is_live() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Self { script, app, _ends: stop.drop_guard() }
    }
}

/// Its user's delivery was lost before its sign-in found that no log has come so far.
#[tokio::test]
async fn an_inbox_position_that_was_never_given_out_does_not_come_back() {
    let stage = Stage::new().await;
    let mut ann = Member::new("ann").await;
    let never = Position::new(Epoch(1), 999_999);
    stage.app.hub.join_inbox(&ann.session, Start::Now).await.unwrap();
    stage.app.follow(&ann.session, Notice::InboxLost { after: never }).await;
    stage.script.store(Topic::User(ann.session.key), &notification("ann", "hello"), false);
    let told = ann.until("hello").await;
    assert!(told.contains("\"reset\""), "{told}");
}
