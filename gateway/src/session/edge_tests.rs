//! The limits of a session, at their edges.

use std::sync::Arc;

use natter_shared::{
    id::{GroupId, UserId},
    position::Position,
    timestamp::Timestamp,
};
use uuid::Uuid;

use super::{Protocol, SessionHandle};
use crate::{delivery::JoinError, edge::Edge, socket::Outlet};

fn session(edge: &Edge) -> Arc<SessionHandle> {
    let outlet = Arc::new(Outlet::held(edge.app.outlet_limits()));
    SessionHandle::new(UserId::new("ann").unwrap(), Protocol::V1, outlet, Timestamp::now()).0
}

#[tokio::test]
async fn groups_per_connection_at_the_edge() {
    let edge = Edge::start(|config| config.limits.groups_per_connection = 3).await;
    let session = session(&edge);
    let begin = |group: u128| edge.app.begin_join(&session, GroupId(Uuid::from_u128(group)), Position::START);
    assert!((1..=3).all(|group| begin(group).is_ok()));
    assert!(matches!(begin(4), Err(JoinError::TooMany(3))));
    assert_eq!(edge.refused("groups_per_connection"), 1);
    assert!(begin(1).is_ok(), "one that it has already");
    session.groups.lock().remove(&GroupId(Uuid::from_u128(1)));
    assert!(begin(4).is_ok());
}

#[tokio::test]
async fn in_flight_sends_at_the_edge() {
    let edge = Edge::start(|_| ()).await;
    let session = session(&edge);
    assert!((0..3).all(|_| session.enter(3)));
    assert!(!session.enter(3) && !session.enter(3));
    session.leave_flight();
    assert!(session.enter(3) && !session.enter(3), "one for one");
}
