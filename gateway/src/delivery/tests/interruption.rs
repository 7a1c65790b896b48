//! What is delivered after an interruption, and what is not.

use std::sync::atomic::Ordering;

use natter_shared::{event::Ephemeral, frame::CloseCode};
use tokio::time::Instant;

use super::*;
use crate::socket::OutletState;

#[tokio::test]
async fn nothing_overtakes_a_removal_that_was_missed_and_evicted() {
    let stage = Stage::new().await;
    let (mut ann, mut ben) = (stage.member("ann").await, stage.member("ben").await);
    let last = stage.say("hello");
    ann.until("hello").await;
    ben.until("hello").await;
    stage.script.interrupt();
    stage.script.store(Topic::Group(group()), &removal("ben"), true);
    stage.script.evict();
    stage.say("not for ben");
    assert!(!ben.said().await.contains("not for ben"));
    stage.script.notice();
    // Both are told to look whether they are still members, and to recover.
    assert_eq!((ann.lost().await, ben.lost().await), (last, last));
    assert!(!ben.said().await.contains("not for ben"));
}

#[tokio::test]
async fn the_first_event_that_is_left_is_not_taken_for_the_next() {
    let stage = Stage::new().await;
    let mut ben = stage.member("ben").await;
    let last = stage.say("hello");
    ben.until("hello").await;
    // Nobody noticed anything: a leader died before it sent this on.
    stage.script.store(Topic::Group(group()), &removal("ben"), true);
    stage.script.evict();
    stage.say("not for ben");
    assert_eq!(ben.lost().await, last);
    assert!(!ben.said().await.contains("not for ben"));
}

#[tokio::test]
async fn what_was_missed_and_evicted_without_a_trace_is_looked_for() {
    let stage = Stage::new().await;
    let mut ann = stage.member("ann").await;
    let last = stage.say("hello");
    ann.until("hello").await;
    stage.script.store(Topic::Group(group()), &message("evicted"), true);
    stage.script.evict();
    stage.script.notice();
    assert_eq!(ann.lost().await, last);
}

#[tokio::test]
async fn a_quiet_groups_first_event_is_the_next_while_nothing_is_evicted() {
    let stage = Stage::new().await;
    let mut ben = stage.member("ben").await;
    stage.say("the first of all");
    ben.until("the first of all").await;
    assert!(ben.session.pop_notice().is_none());
}

#[tokio::test]
async fn what_is_held_comes_after_what_was_missed() {
    let stage = Stage::new().await;
    let mut ann = stage.member("ann").await;
    stage.say("one");
    ann.until("one").await;
    stage.script.unfenced.store(true, std::sync::atomic::Ordering::Relaxed);
    stage.script.interrupt();
    stage.script.store(Topic::Group(group()), &message("two"), true);
    stage.say("three");
    stage.say("four");
    stage.script.notice();
    let said = ann.said().await;
    assert!(!said.contains("three") && !said.contains("four"), "held until the check is done: {said}");
    assert_eq!(stage.metrics.holds.get(), 1);
    stage.script.unfenced.store(false, std::sync::atomic::Ordering::Relaxed);
    let said = ann.until("four").await;
    let places = ["two", "three", "four"].map(|body| said.find(body).unwrap());
    assert!(places.is_sorted(), "{said}");
    assert_eq!(said.matches("\"three\"").count(), 1, "{said}");
    stage.say("five");
    ann.until("five").await;
}

#[tokio::test]
async fn ephemera_do_not_reach_who_may_be_no_member_any_more() {
    let stage = Stage::new().await;
    let mut ben = stage.member("ben").await;
    let typing = |name: &str| Ephemeral::Typing { group: group(), user: user(name) };
    stage.script.pass(Topic::Group(group()), &typing("cid"));
    ben.until("cid").await;
    stage.script.interrupt();
    stage.script.store(Topic::Group(group()), &removal("ben"), true);
    stage.script.pass(Topic::Group(group()), &typing("dot"));
    assert!(!ben.said().await.contains("dot"));
    stage.script.notice();
    ben.until("member_removed").await;
    stage.script.pass(Topic::Group(group()), &typing("eve"));
    assert!(!ben.said().await.contains("eve"));
}

#[tokio::test]
async fn who_is_not_checked_in_time_is_closed_and_comes_back() {
    let stage = Stage::new().await;
    let ann = stage.member("ann").await;
    stage.script.unfenced.store(true, std::sync::atomic::Ordering::Relaxed);
    stage.script.interrupt();
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    stage.say("held");
    while ann.session.outlet.state() == OutletState::Open {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "never closed");
    }
    assert_eq!(ann.session.outlet.state(), OutletState::Sealed(CloseCode::TryAgain));
    assert!(begun.elapsed() >= super::super::hold::HOLD);
    assert_eq!(stage.metrics.hold_timeouts.get(), 1);
}

#[tokio::test]
async fn after_a_loss_everybodys_counts_are_told_again_once() {
    let stage = Stage::new().await;
    let (ann, bob) = (Member::new("ann").await, Member::new("bob").await);
    for session in [&ann.session, &bob.session] {
        stage.hub.join_inbox(session, Start::Now).await.unwrap();
    }
    let told = |times| {
        let told = stage.script.told_again.lock();
        told.len() == times && told.iter().all(|users| users.len() == 2)
    };
    assert!(told(0), "nothing was lost");
    // Dropped here, or lost with the connection: what is passed on is in no log.
    stage.script.notice();
    stage.until("both told", || told(1)).await;
    stage.script.interrupt();
    stage.script.notice();
    stage.until("both told again", || told(2)).await;
}

/// A subscription that is not read fast enough loses something all the time.
#[tokio::test]
async fn losses_without_end_are_checked_at_a_pace_and_an_interruption_at_once() {
    let stage = Stage::new().await;
    let ann = stage.member("ann").await;
    stage.hub.join_inbox(&ann.session, Start::Now).await.unwrap();
    tokio::time::pause();
    let lose = async |times| {
        for _ in 0..times {
            stage.say("lost");
            stage.script.notice();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let before = stage.script.checks();
    lose(500).await;
    let checks = stage.script.checks() - before;
    assert!((4..=7).contains(&checks), "{checks} checks in 5 s");
    let told = stage.script.told_again.lock().len();
    assert!((2..=4).contains(&told), "told again {told} times in 5 s");
    for _ in 0..3 {
        let before = stage.script.checks();
        stage.script.interrupt();
        lose(5).await;
        assert_eq!(stage.script.checks(), before + 1);
    }
}

#[tokio::test]
async fn counts_that_are_being_told_are_told_to_the_end_and_then_once_more() {
    let stage = Stage::new().await;
    let ann = Member::new("ann").await;
    stage.hub.join_inbox(&ann.session, Start::Now).await.unwrap();
    tokio::time::pause();
    let told = || stage.script.told_again.lock().len();
    stage.script.is_sql_held.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        stage.script.notice();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(told(), 1, "the first round is under way");
    }
    stage.script.is_sql_held.store(false, Ordering::Relaxed);
    // It took five or six seconds, and each round has a tenth of the time.
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(told(), 1);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(told(), 2, "for all that was lost meanwhile");
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(told(), 2);
}

#[tokio::test]
async fn a_check_asks_only_for_what_came_after_the_one_before() {
    let stage = Stage::new().await;
    let mut ann = stage.member("ann").await;
    for body in ["one", "two"] {
        let at = stage.say(body);
        ann.until(body).await;
        let before = stage.script.checks();
        stage.script.notice();
        stage.until("a check", || stage.script.checks() > before).await;
        // The next one begins where this one was fenced.
        let next = stage.script.checks();
        stage.say("more");
        stage.script.notice();
        stage.until("a check", || stage.script.checks() > next).await;
        assert_eq!(stage.script.tails.lock().last(), Some(&at.seq));
    }
}

#[tokio::test]
async fn a_check_finds_what_no_later_event_shows() {
    let stage = Stage::new().await;
    let mut ann = stage.member("ann").await;
    stage.script.store(Topic::Group(group()), &message("alone"), true);
    assert!(ann.said().await.is_empty());
    stage.script.notice();
    ann.until("alone").await;
}

/// A check that could not list the users, for their task was busy, knows nothing of them.
#[tokio::test]
async fn a_user_of_whom_a_check_did_not_hear_is_checked_by_the_next() {
    let stage = Stage::new().await;
    let _member = stage.member("cid").await;
    let (ann, bob) = (Member::new("ann").await, Member::new("bob").await);
    for session in [&ann.session, &bob.session] {
        stage.hub.join_inbox(session, Start::Now).await.unwrap();
    }
    // The first event of a user is delivered once it is sure that none came before.
    stage.script.is_state_unknown.store(true, Ordering::Relaxed);
    stage.script.store(Topic::User(ann.session.key), &message("first"), false);
    stage.script.store(Topic::User(bob.session.key), &message("missed"), true);
    let checks = stage.script.checks();
    stage.script.notice();
    stage.until("a check without users", || stage.script.checks() > checks).await;
    stage.script.is_state_unknown.store(false, Ordering::Relaxed);
    let told = tokio::time::timeout(PATIENCE, bob.session.next_notice()).await.expect("something was missed");
    assert!(matches!(told, Notice::InboxLost { .. }), "{told:?}");
}

/// Who comes while a check is under way is not asked about by it, nor by the next for what came before.
#[tokio::test]
async fn a_user_who_comes_during_a_check_misses_nothing_that_it_is_behind() {
    let stage = Stage::new().await;
    let mut bob = Member::new("bob").await;
    let before = stage.script.fence_now();
    // Of somebody else, so that there is something to check.
    let ann = Member::new("ann").await;
    stage.hub.join_inbox(&ann.session, Start::Now).await.unwrap();
    let lost = stage.script.store(Topic::User(bob.session.key), &message("lost"), true);
    stage.script.is_state_unknown.store(true, Ordering::Relaxed);
    let checks = stage.script.checks();
    stage.script.notice();
    // The users have been listed by then; what follows waits for the log's state.
    stage.until("a check that has asked", || stage.script.checks() > checks).await;
    let fresh = Member::new("bob").await;
    let joined = stage.hub.join_inbox(&fresh.session, Start::Now).await.unwrap();
    assert!(joined.position >= lost, "what came before is read from SQL, not waited for");
    assert!(!stage.has_listed_all(&fresh, Position::new(lost.epoch, lost.seq - 1)), "nobody was listening");
    let (session, recoveries) = (Arc::clone(&bob.session), stage.metrics.recoveries.get());
    let resuming = async {
        assert!(stage.hub.join_inbox(&session, Start::After(before)).await.unwrap().complete);
        bob.until("lost").await;
    };
    let released = async {
        stage.until("a recovery that waits for it", || stage.metrics.recoveries.get() > recoveries).await;
        stage.script.is_state_unknown.store(false, Ordering::Relaxed);
    };
    tokio::join!(resuming, released);
}

/// A quiet check asks nothing about who comes while it is under way; the next one does, from where they began.
#[tokio::test]
async fn a_user_who_comes_during_a_quiet_check_is_asked_about_by_the_next() {
    let stage = Stage::new().await;
    let _member = stage.member("cid").await;
    let bob = Member::new("bob").await;
    let lost = stage.script.store(Topic::User(bob.session.key), &message("lost"), true);
    stage.script.is_state_unknown.store(true, Ordering::Relaxed);
    let checks = stage.script.checks();
    tokio::time::pause();
    stage.until_within("a quiet check", Duration::from_secs(70), || stage.script.checks() > checks).await;
    let joined = stage.hub.join_inbox(&bob.session, Start::Now).await.unwrap();
    assert!(joined.position < lost);
    stage.script.is_state_unknown.store(false, Ordering::Relaxed);
    // Time stands still: this is over once the check is.
    tokio::time::sleep(PATIENCE).await;
    assert!(bob.session.pop_notice().is_none());
    let checks = stage.script.checks();
    stage.script.notice();
    let told = tokio::time::timeout(PATIENCE, bob.session.next_notice()).await.expect("something was missed");
    assert!(matches!(told, Notice::InboxLost { after } if after == joined.position), "{told:?}");
    assert!(stage.script.checks() > checks);
}

/// What is lost with a leader before a session came, and lies before an event of somebody else, shows in no cursor.
#[tokio::test]
async fn who_came_after_a_hint_that_was_lost_lists_the_groups_anew() {
    let stage = Stage::new().await;
    let (ann, bob) = (Member::new("ann").await, Member::new("bob").await);
    stage.hub.join_inbox(&ann.session, Start::Now).await.unwrap();
    let lost = stage.script.store(Topic::User(bob.session.key), &hint("bob"), true);
    let seen = stage.script.store(Topic::User(ann.session.key), &hint("ann"), false);
    let told = tokio::time::timeout(PATIENCE, ann.session.next_notice()).await.unwrap();
    assert!(matches!(told, Notice::Joined(_)), "{told:?}");
    let joined = stage.hub.join_inbox(&bob.session, Start::Now).await.unwrap();
    assert!(lost < joined.position && joined.position == seen, "it begins after what was lost");
    stage.script.notice();
    let told = tokio::time::timeout(PATIENCE, bob.session.next_notice()).await.expect("a hint was missed");
    assert!(matches!(told, Notice::InboxLost { after } if after >= seen), "{told:?}");
    stage.lists_behind(&bob, lost).await;
    // A later check knows that this has been done.
    stage.script.store(Topic::User(ann.session.key), &hint("ann"), false);
    assert!(stage.hub.join_inbox(&bob.session, Start::After(joined.position)).await.unwrap().complete);
    let checks = stage.script.checks();
    stage.script.notice();
    stage.until("another check", || stage.script.checks() > checks).await;
    assert!(tokio::time::timeout(SILENCE, bob.session.next_notice()).await.is_err());
}

/// The same where the disturbance is noticed when the check has listed the users already.
#[tokio::test]
async fn a_disturbance_that_is_noticed_late_has_groups_listed_behind_it() {
    let stage = Stage::new().await;
    let (ann, bob) = (Member::new("ann").await, Member::new("bob").await);
    stage.hub.join_inbox(&ann.session, Start::Now).await.unwrap();
    let lost = stage.script.store(Topic::User(bob.session.key), &hint("bob"), true);
    stage.script.store(Topic::User(ann.session.key), &hint("ann"), false);
    tokio::time::timeout(PATIENCE, ann.session.next_notice()).await.unwrap();
    stage.hub.join_inbox(&bob.session, Start::Now).await.unwrap();
    stage.script.is_state_unknown.store(true, Ordering::Relaxed);
    let checks = stage.script.checks();
    tokio::time::pause();
    stage.until_within("a quiet check", Duration::from_secs(70), || stage.script.checks() > checks).await;
    assert!(stage.has_listed_all(&bob, Position::new(lost.epoch, lost.seq - 1)), "long after the start");
    stage.script.notice();
    stage.script.is_state_unknown.store(false, Ordering::Relaxed);
    let told = tokio::time::timeout(PATIENCE, bob.session.next_notice()).await.expect("a hint was missed");
    assert!(matches!(told, Notice::InboxLost { .. }), "{told:?}");
    stage.lists_behind(&bob, lost).await;
}

/// A client that was told of a membership elsewhere resumes ahead of this gateway; SQL may have known nothing of it.
#[tokio::test]
async fn a_hint_is_followed_by_who_was_told_of_it_elsewhere() {
    let stage = Stage::new().await;
    let mut bob = Member::new("bob").await;
    let ahead = Position::new(stage.script.fence_now().epoch, 100);
    let joined = stage.hub.join_inbox(&bob.session, Start::After(ahead)).await.unwrap();
    assert_eq!(joined.position, ahead);
    stage.script.store(Topic::User(bob.session.key), &hint("bob"), false);
    let told = tokio::time::timeout(PATIENCE, bob.session.next_notice()).await.expect("the hint is followed");
    assert!(matches!(told, Notice::Joined(_)), "{told:?}");
    assert!(bob.said().await.is_empty(), "it is not told again");
}

/// As right after an election.
#[tokio::test]
async fn a_log_that_only_looks_shorter_has_come_to_all_that_it_was_said_to_have() {
    let stage = Stage::new().await;
    let said = ["0", "1", "2"].map(|body| stage.say(body));
    stage.script.looks_shorter_by.store(2, Ordering::Relaxed);
    let topic = Topic::Group(group());
    assert!(stage.hub.is_stored(topic, said[2], Instant::now()).await.unwrap());
    let next = Position::new(said[2].epoch, said[2].seq + 1);
    assert!(!stage.hub.is_stored(topic, next, Instant::now()).await.unwrap());
    let now = stage.say("next");
    assert_eq!(now, next);
    assert!(stage.hub.is_stored(topic, next, Instant::now()).await.unwrap(), "what was not there then may be now");
}

/// Each question of a log that does not answer would wait for the one before it.
#[tokio::test]
async fn first_events_that_cannot_be_judged_hold_up_a_shards_users_together_only() {
    let stage = Stage::new().await;
    let mut users = Vec::new();
    for number in 0..10 {
        let user = Member::new(&format!("user{number}")).await;
        stage.hub.join_inbox(&user.session, Start::Now).await.unwrap();
        users.push(user);
    }
    let late = Member::new("late").await;
    stage.script.is_state_unknown.store(true, Ordering::Relaxed);
    tokio::time::pause();
    let begun = Instant::now();
    for user in &users {
        stage.script.store(Topic::User(user.session.key), &message("first"), false);
    }
    // Its turn comes behind them.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(stage.hub.join_inbox(&late.session, Start::Now).await.is_ok());
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    for user in &users {
        assert!(matches!(user.session.pop_notice(), Some(Notice::InboxLost { .. })));
    }
}
