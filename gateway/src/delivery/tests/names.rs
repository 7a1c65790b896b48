//! What a group is called in the frames of the chat-room protocol, whoever's knowledge its task began with.

use natter_shared::event::GroupRenamed;

use super::*;

fn renaming(display_name: &str) -> Event {
    Event::GroupRenamed(GroupRenamed { group: group(), display_name: display_name.to_owned(), by: None })
}

async fn chat_room(name: &str) -> Member {
    let member = Member::of(name, Protocol::ChatRoom).await;
    member.session.outlet.release(Bytes::new());
    member
}

/// Joins by what SQL said at `at`.
async fn join(stage: &Stage, member: &Member, display_name: &str, at: Position, start: Start) {
    let meta = GroupMeta { kind: GroupKind::Group, display_name: display_name.into(), at };
    let known = stage.script.fence_now();
    stage.hub.join_group(&member.session, group(), &meta, start, known, Telling::Nothing).await.unwrap();
}

/// What the group is called where something is said in it now.
async fn called(stage: &Stage, member: &mut Member, body: &str) -> String {
    stage.say(body);
    member.until(&format!("\"{body}\"")).await;
    let told = member.said().await;
    let (_, frame) = told.split_once(&format!("\"{body}\"")).unwrap();
    let (_, name) = frame.split_once("\"display_name\":\"").unwrap();
    name.split_once('"').unwrap().0.to_owned()
}

#[tokio::test]
async fn the_newest_name_that_anybody_knows_holds() {
    let stage = Stage::new().await;
    let mut ann = chat_room("ann").await;
    let old = stage.script.fence_now();
    // A name that SQL did not know yet when ann was looked up, from before the task follows the group.
    let renamed = stage.script.store(Topic::Group(group()), &renaming("launch"), true);
    join(&stage, &ann, "lobby", old, Start::Now).await;
    assert_eq!(called(&stage, &mut ann, "one").await, "lobby", "nobody knows better");
    join(&stage, &chat_room("bob").await, "launch", renamed, Start::Now).await;
    assert_eq!(called(&stage, &mut ann, "two").await, "launch");
    join(&stage, &chat_room("cid").await, "lobby", old, Start::Now).await;
    assert_eq!(called(&stage, &mut ann, "three").await, "launch", "that was long ago");
    let before = stage.script.fence_now();
    stage.script.store(Topic::Group(group()), &renaming("landing"), false);
    assert_eq!(called(&stage, &mut ann, "four").await, "landing");
    join(&stage, &chat_room("dot").await, "launch", before, Start::Now).await;
    assert_eq!(called(&stage, &mut ann, "five").await, "landing");
}

#[tokio::test]
async fn a_name_that_was_given_in_what_delivery_lost_holds_afterwards() {
    let stage = Stage::new().await;
    let mut ann = chat_room("ann").await;
    let old = stage.script.fence_now();
    join(&stage, &ann, "lobby", old, Start::Now).await;
    assert_eq!(called(&stage, &mut ann, "one").await, "lobby");
    for (is_sql_incomplete, name) in [(false, "launch"), (true, "landing")] {
        stage.script.is_sql_incomplete.store(is_sql_incomplete, std::sync::atomic::Ordering::Relaxed);
        *stage.script.called.lock() = name.to_owned();
        stage.script.store(Topic::Group(group()), &renaming(name), true);
        stage.script.evict();
        stage.say("lost");
        let after = ann.lost().await;
        join(&stage, &ann, "lobby", old, Start::After(after)).await;
        assert_eq!(called(&stage, &mut ann, &format!("after {name}")).await, name);
    }
}
