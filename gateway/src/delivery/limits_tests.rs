//! The limits of delivery that nothing else tries, at their edges.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use natter_shared::{
    broker::{Broker, Outgoing},
    event::{Event, GroupKind, Seen, SeenWhat},
    id::{EventId, GroupId, UserId},
    position::{Epoch, Position},
    subject::{Shard, Topic},
    timestamp::Timestamp,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    GroupMeta, Insistence, Start, Telling, fill, flights,
    recover::{self, Whose},
};
use crate::{
    auth::Identity,
    network_tests::Edge,
    session::{Protocol, SessionHandle},
    socket::Outlet,
};

#[tokio::test(start_paused = true)]
async fn recoveries_at_the_edge() {
    let edge = Edge::start(|config| config.limits.recoveries = 2).await;
    let hub = &edge.app.hub;
    let outlet = Arc::new(Outlet::held(edge.app.outlet_limits()));
    let session = SessionHandle::new(&Identity::of(UserId::new("ann").unwrap()), Protocol::V1, outlet);
    let (from, floor) = (Position::new(Epoch(1), 1), Position::new(Epoch(1), 3));
    let meta = GroupMeta { kind: GroupKind::Open, display_name: "lobby".into(), at: Position::START };
    // All of one shard, which are not those that hold places.
    let shards = edge.broker.shards();
    let shard = shards.of(Topic::User(session.key));
    let (first, second) = (Shard((shard.0 + 1) % shards.count()), Shard((shard.0 + 2) % shards.count()));
    let groups: Vec<_> =
        (0..).map(|number| GroupId(Uuid::from_u128(number))).filter(|group| shards.of(Topic::Group(*group)) == shard).take(2).collect();
    // The broker has nothing for them; that it is asked is what counts.
    let of_group = |number: usize| flights::missed(hub, groups[number], &meta, from, floor);
    let of_inbox = async || {
        let (insistence, start) = (Insistence::of(&session), Start::After(from));
        recover::recover(hub, &insistence, &mut Whose::Inbox, start, from, floor, &mut Telling::Nothing).await
    };
    let begun = || edge.app.metrics.recoveries.get();
    let one = hub.recoveries.begin(first).now_or_never().expect("nothing is recovered yet");
    assert!(of_group(0).await.is_err());
    assert_eq!(begun(), 1, "there is a second place");
    let _other = hub.recoveries.begin(second).now_or_never().expect("it is free again");
    let waits = async {
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(begun(), 1, "a third one waits, of a group or of an inbox");
        drop(one);
    };
    let (group, inbox, ()) = tokio::join!(of_group(1), of_inbox(), waits);
    assert!(group.is_err() && inbox.is_err());
    assert_eq!(begun(), 3, "each in its turn");
}

#[tokio::test(start_paused = true)]
async fn gap_fill_timeout_at_the_edge() {
    let (limit, little) = (Duration::from_secs(2), Duration::from_millis(100));
    let edge = Edge::start(|config| config.limits.gap_fill_timeout = limit).await;
    let user = UserId::new("ann").unwrap();
    let topic = Topic::User(user.key());
    for _ in 0..3 {
        let event = Event::Seen(Seen { user: user.clone(), what: SeenWhat::Ids(Vec::new()), read: true, archived: false });
        let id = EventId(Uuid::nil());
        edge.broker
            .publish(Outgoing { topic, id, made_at: Timestamp::now(), epoch: None, payload: event.encode().unwrap() })
            .await
            .unwrap();
    }
    let missed = || fill::missed(&edge.app.hub, topic, Position::new(Epoch(1), 1), 3);
    let readable_after = |late| *edge.broker.readable_from.lock() = Some(Instant::now() + late);
    readable_after(limit.checked_sub(little).unwrap());
    let events = missed().await.expect("just in time");
    assert_eq!(events.iter().map(|stored| stored.position.seq).collect::<Vec<_>>(), [2, 3]);
    readable_after(limit + little);
    let begun = Instant::now();
    assert!(missed().await.is_none(), "too late");
    assert!(begun.elapsed() >= limit && begun.elapsed() < limit + little, "{:?}", begun.elapsed());
}
