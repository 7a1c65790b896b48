//! What a delivery allocates does not depend on how many it is for.

use tokio::runtime;

use super::*;

/// Deliveries measured; the least of them counts, for other tasks allocate now and then.
const TRIES: usize = 20;

/// The least that one delivery to so many members allocates, on all of its way through the hub.
fn allocations_of_a_delivery(members: u64) -> u64 {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (stage, _members) = runtime.block_on(async {
        let stage = Stage::new().await;
        let mut all = Vec::new();
        for number in 0..members {
            all.push(stage.member(&format!("u{number}")).await);
        }
        (stage, all)
    });
    let deliver = || {
        let before = stage.metrics.deliveries.get();
        allocation_counter::measure(|| {
            runtime.block_on(async {
                stage.say("hello");
                stage.until("the delivery", || stage.metrics.deliveries.get() == before + members).await;
            });
        })
    };
    (0..TRIES).map(|_| deliver().count_total).min().unwrap()
}

#[test]
fn a_delivery_to_many_allocates_no_more_than_one_to_few() {
    let (few, many) = (allocations_of_a_delivery(2), allocations_of_a_delivery(200));
    assert!(few > 0, "nothing was counted");
    assert!(many <= few + 4, "{few} for 2 members, {many} for 200");
}
