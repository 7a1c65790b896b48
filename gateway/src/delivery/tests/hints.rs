//! Hints of memberships that are not in SQL yet.

use super::*;

/// Its rows may be under way for as long as the database takes to answer.
#[tokio::test]
async fn a_hint_is_told_until_its_rows_are_in_sql() {
    let stage = Stage::new().await;
    let members = [Member::new("bob").await, Member::new("bob").await];
    let since = stage.say("it begins");
    *stage.script.sql_is_at.lock() = Some(Position::new(since.epoch, since.seq - 1));
    tokio::time::pause();
    stage.script.store(Topic::User(members[0].session.key), &hint_of("bob", since), false);
    for (bob, is_in_sql) in members.iter().zip([false, true]) {
        if is_in_sql {
            *stage.script.sql_is_at.lock() = None;
        }
        stage.script.announce();
        tokio::time::sleep(Duration::from_secs(30)).await;
        // Nothing else comes.
        stage.hub.join_inbox(&bob.session, Start::Now).await.unwrap();
        // What is told comes right after the answer.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(matches!(bob.session.pop_notice(), Some(Notice::Joined(_))), !is_in_sql);
    }
}
