//! The limits of delivery that nothing else tries, at their edges.

use std::time::Duration;

use natter_shared::{
    broker::{Broker, Outgoing},
    event::{Event, Seen, SeenWhat},
    id::{EventId, UserId},
    position::{Epoch, Position},
    subject::Topic,
    timestamp::Timestamp,
};
use tokio::time::Instant;

use super::fill;
use crate::edge::Edge;

#[tokio::test]
async fn recoveries_at_the_edge() {
    let edge = Edge::start(|config| config.limits.recoveries = 2).await;
    let recoveries = &edge.app.hub.recoveries;
    let both = [recoveries.try_acquire().unwrap(), recoveries.try_acquire().unwrap()];
    assert!(recoveries.try_acquire().is_err(), "a third one waits");
    drop(both);
    assert!(recoveries.try_acquire().is_ok());
}

#[tokio::test(start_paused = true)]
async fn gap_fill_timeout_at_the_edge() {
    let (limit, little) = (Duration::from_secs(2), Duration::from_millis(100));
    let edge = Edge::start(|config| config.limits.gap_fill_timeout = limit).await;
    let user = UserId::new("ann").unwrap();
    let topic = Topic::User(user.key());
    for _ in 0..3 {
        let event = Event::Seen(Seen { user: user.clone(), what: SeenWhat::Ids(Vec::new()), read: true, archived: false });
        let id = EventId(uuid::Uuid::nil());
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
