//! A group's subscription outlives its last local member for a while.

use super::*;

#[tokio::test]
async fn a_group_is_followed_until_nobody_has_been_there_for_the_linger() {
    let stage = Stage::new().await;
    let (ann, mut bob) = (stage.member("ann").await, Member::new("bob").await);
    tokio::time::pause();
    let little = Duration::from_millis(1);
    let nearly = LINGER.checked_sub(little).unwrap();
    let is_followed = || stage.script.is_followed(Topic::Group(group()));
    stage.hub.leave_group(group(), ann.session.id).await;
    tokio::time::sleep(nearly).await;
    assert!(is_followed(), "nobody is there, but not for so long");
    bob.join(&stage, Start::Now, stage.script.fence_now()).await;
    tokio::time::sleep(LINGER * 2).await;
    assert!(is_followed(), "somebody is there again");
    stage.hub.leave_group(group(), bob.session.id).await;
    tokio::time::sleep(nearly).await;
    assert!(is_followed(), "it begins anew with whoever was the last");
    tokio::time::sleep(little * 2).await;
    assert!(!is_followed());
}
