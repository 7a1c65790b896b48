//! What a defect of ours does to those who are followed.

use std::sync::atomic::Ordering::Relaxed;

use natter_shared::frame::CloseCode;

use super::*;
use crate::socket::OutletState;

/// Else they would stay connected and hear nothing more of the group.
#[tokio::test]
async fn who_is_in_a_group_whose_task_breaks_off_comes_back() {
    let stage = Stage::new().await;
    let (ann, mut bob) = (stage.member("ann").await, Member::new("bob").await);
    // Ahead of what is delivered here.
    bob.join(&stage, Start::After(Position { seq: 1_000, ..stage.script.fence_now() }), stage.script.fence_now()).await;
    stage.script.is_defective.store(true, Relaxed);
    stage.script.store(Topic::Group(group()), &message("missed, so read back"), true);
    stage.say("and on");
    for member in [&ann, &bob] {
        let is_closed = || member.session.outlet.state() == OutletState::Sealed(CloseCode::TryAgain);
        stage.until("its close", is_closed).await;
    }
    let mut back = stage.member("ann").await;
    stage.say("heard again");
    back.until("heard again").await;
    assert_eq!((stage.hub.groups.len(), stage.metrics.groups.get()), (1, 1));
}
