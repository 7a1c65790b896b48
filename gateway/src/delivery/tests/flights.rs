//! Who is served by which reading, and how long it is kept.

use std::sync::atomic::Ordering::Relaxed;

use futures::future::join_all;
use natter_shared::position::Epoch;

use super::{super::flights, *};
use crate::delivery::missed::Missed;

fn at(seq: u64) -> Position {
    Position::new(Epoch(1), seq)
}

/// Said so often: 900 events, so that readings are of SQL.
async fn stage(limits: &Limits) -> Stage {
    let stage = Stage::with(limits).await;
    for number in 0..900 {
        stage.say(&format!("say {number}."));
    }
    stage
}

async fn missed(stage: &Stage, from: Position, floor: Position) -> Option<Arc<Missed>> {
    let meta = GroupMeta { kind: GroupKind::Group, display_name: "lobby".into(), at: Position::START };
    flights::missed(&stage.hub, group(), &meta, from, floor).await.unwrap()
}

fn reads(stage: &Stage) -> usize {
    stage.script.sql_reads.load(Relaxed)
}

/// All that is told to one who has everything up to `from`.
async fn told(missed: &Missed, from: Position, floor: Position) -> Vec<u64> {
    let mut member = Member::new("ann").await;
    assert!(missed.tell(&member.session, from, floor, floor, &mut Telling::Nothing).complete);
    let said = member.said().await;
    said.split("say ").skip(1).map(|rest| rest.split_once('.').unwrap().0.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_reading_serves_all_who_missed_no_more() {
    let stage = stage(&Limits::default()).await;
    let floor = at(800);
    let first = missed(&stage, at(100), floor).await.unwrap();
    for from in [100, 101, 500, 770, 799] {
        let next = missed(&stage, at(from), floor).await.unwrap();
        assert!(Arc::ptr_eq(&first, &next), "from {from}");
        // The first was said at 2.
        assert_eq!(told(&next, at(from), floor).await, (from - 1..799).collect::<Vec<_>>(), "from {from}");
    }
    // Nor need it be up to there.
    assert!(Arc::ptr_eq(&first, &missed(&stage, at(100), at(700)).await.unwrap()));
    assert_eq!(reads(&stage), 1);
}

#[tokio::test]
async fn whom_it_does_not_reach_it_does_not_serve() {
    let stage = stage(&Limits::default()).await;
    missed(&stage, at(500), at(800)).await.unwrap();
    for (from, floor, so_far) in [(499, 800, 2), (500, 801, 3)] {
        let more = missed(&stage, at(from), at(floor)).await.unwrap();
        assert_eq!(told(&more, at(from), at(floor)).await, (from - 1..floor - 1).collect::<Vec<_>>());
        assert_eq!(reads(&stage), so_far);
    }
}

#[tokio::test]
async fn those_who_come_together_wait_for_one_reading_unless_one_missed_far_more() {
    let stage = stage(&Limits::default()).await;
    let floor = at(900);
    join_all((600..620).rev().map(|from| missed(&stage, at(from), floor))).await.into_iter().for_each(|missed| assert!(missed.is_some()));
    assert_eq!(reads(&stage), 1);
    let stage = self::stage(&Limits::default()).await;
    let (ancient, recent) = tokio::join!(missed(&stage, at(10), floor), missed(&stage, at(870), floor));
    assert!(!Arc::ptr_eq(&ancient.unwrap(), &recent.unwrap()));
    assert_eq!(reads(&stage), 2);
}

#[tokio::test]
async fn the_second_reading_goes_farther_than_asked_but_not_to_what_is_not_there() {
    for (begins, is_shared) in [(0, true), (650, false)] {
        let stage = stage(&Limits::default()).await;
        stage.script.sql_begins.store(begins, Relaxed);
        let floor = at(900);
        missed(&stage, at(800), floor).await.unwrap();
        assert_eq!(reads(&stage), 1);
        // By the powers of four it goes to 646.
        let second = missed(&stage, at(750), floor).await.unwrap();
        assert_eq!(told(&second, at(750), floor).await, (749..899).collect::<Vec<_>>());
        assert_eq!(reads(&stage), if is_shared { 2 } else { 3 });
        let third = missed(&stage, at(700), floor).await.unwrap();
        assert_eq!(Arc::ptr_eq(&second, &third), is_shared);
        assert_eq!(told(&third, at(700), floor).await, (699..899).collect::<Vec<_>>());
        assert!(Arc::ptr_eq(&third, &missed(&stage, at(720), floor).await.unwrap()), "it is kept all the same");
        assert!(missed(&stage, at(begins.saturating_sub(1)), floor).await.is_none_or(|_| begins == 0));
    }
}

#[tokio::test]
async fn who_counted_on_a_reading_that_went_too_far_has_one_alone() {
    let stage = stage(&Limits::default()).await;
    stage.script.sql_begins.store(650, Relaxed);
    let floor = at(900);
    missed(&stage, at(800), floor).await.unwrap();
    tokio::time::pause();
    let late = async {
        // It reads from 646.
        stage.until("the second reading", || reads(&stage) == 2).await;
        missed(&stage, at(700), floor).await
    };
    let (_, late) = tokio::join!(missed(&stage, at(750), floor), late);
    tokio::time::resume();
    assert_eq!(told(&late.unwrap(), at(700), floor).await, (699..899).collect::<Vec<_>>());
    assert_eq!(reads(&stage), 4);
}

#[tokio::test]
async fn positions_of_another_epoch_are_read_for_one_by_one() {
    let stage = stage(&Limits::default()).await;
    let (floor, before) = (at(900), |seq| Position::new(Epoch(0), seq));
    let first = missed(&stage, before(5), floor).await.unwrap();
    assert!(Arc::ptr_eq(&first, &missed(&stage, before(5), floor).await.unwrap()));
    assert_eq!(reads(&stage), 1);
    // It may be one that its log never came to.
    assert!(!Arc::ptr_eq(&first, &missed(&stage, before(6), floor).await.unwrap()));
    stage.script.sql_begins.store(7, Relaxed);
    assert!(missed(&stage, before(4), floor).await.is_none());
    // Those of the floor's own are no worse for it.
    assert!(Arc::ptr_eq(&first, &missed(&stage, at(10), floor).await.unwrap()));
}

#[tokio::test]
async fn what_is_not_sure_to_be_all_is_not_kept() {
    let stage = stage(&Limits::default()).await;
    stage.script.is_sql_incomplete.store(true, Relaxed);
    assert!(missed(&stage, at(100), at(800)).await.is_none());
    stage.script.is_sql_incomplete.store(false, Relaxed);
    assert!(missed(&stage, at(100), at(800)).await.is_some());
}

#[tokio::test]
async fn a_reading_is_kept_while_it_is_of_use_and_no_longer_than_a_minute() {
    let stage = stage(&Limits::default()).await;
    tokio::time::pause();
    let (second, ask) = (Duration::from_secs(1), || missed(&stage, at(100), at(800)));
    ask().await;
    tokio::time::sleep(9 * second).await;
    ask().await;
    tokio::time::sleep(9 * second).await;
    ask().await;
    assert_eq!(reads(&stage), 1);
    tokio::time::sleep(11 * second).await;
    assert_eq!(stage.hub.ring_budget.used(), 0);
    for _ in 0..9 {
        ask().await;
        tokio::time::sleep(8 * second).await;
    }
    assert_eq!(reads(&stage), 3);
    tokio::time::sleep(61 * second).await;
    assert_eq!(stage.hub.ring_budget.used(), 0);
}

#[tokio::test]
async fn a_reading_without_room_is_not_kept_and_one_that_brings_more_takes_the_place() {
    let stage = stage(&Limits { ring_bytes: 4096, ..Limits::default() }).await;
    for so_far in 1..3 {
        missed(&stage, at(100), at(800)).await.unwrap();
        assert_eq!(reads(&stage), so_far);
    }
    assert_eq!(stage.hub.ring_budget.used(), 0);
    let stage = self::stage(&Limits::default()).await;
    let mut used = Vec::new();
    for from in [600, 700, 100] {
        missed(&stage, at(from), at(800)).await.unwrap();
        used.push(stage.hub.ring_budget.used());
    }
    assert!(used[0] > 0 && used[1] == used[0] && used[2] > 2 * used[0] && used[2] < 5 * used[0], "{used:?}");
}
