//! Sessions over a broker that does what it is told, in front of an SQL that comes as far as it is told.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use natter_shared::{
    config::{Config, Secret},
    frame::ReplyBody,
    id::{GroupId, GroupRef},
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
        tests::{Member, group, message, notification, script::Script},
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

/// The client was told of it elsewhere.
#[tokio::test]
async fn a_membership_that_sql_does_not_know_of_yet_is_resumed() {
    let stage = Stage::new().await;
    let ann = Member::new("ann").await;
    let before = stage.script.fence_now();
    let since = stage.script.store(Topic::Group(group()), &message("welcome"), false);
    *stage.script.member_since.lock() = since;
    *stage.script.sql_is_at.lock() = Some(before);
    let resume = |position| stage.app.resume(&ann.session, BTreeMap::from([(GroupRef::Id(group()), position)]));
    let resumed = |outcome| match outcome {
        Ok(ReplyBody::Resumed { groups }) => groups.len(),
        _ => panic!("not resumed"),
    };
    for position in [before, Position::new(Epoch(1), 999_999)] {
        assert_eq!(resumed(resume(position).await), 0, "nothing shows that SQL is behind");
    }
    assert!(stage.script.asked_behind.lock().is_empty());
    let catches_up = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        *stage.script.sql_is_at.lock() = None;
    };
    let (outcome, ()) = tokio::join!(resume(since), catches_up);
    assert_eq!(resumed(outcome), 1);
}
