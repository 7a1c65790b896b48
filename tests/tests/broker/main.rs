//! What every broker promises, checked for each of them, and what is special to one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests say what they expect by failing")]

mod conformance;
mod embedded_only;
mod fit;
mod fixture;
mod link;
mod nats_only;
mod outage;
mod three_nodes;
mod throughput;
mod together;

/// One test for each promise and broker.
macro_rules! conformance {
    ($($module:ident: $fixture:ty),+ ; $($test:path => $name:ident),+ $(,)?) => {
        conformance!(@brokers [$($module: $fixture),+] [$($test => $name),+]);
    };
    (@brokers [$module:ident: $fixture:ty $(, $more:ident: $more_fixture:ty)*] $tests:tt) => {
        conformance!(@tests $module $fixture; $tests);
        conformance!(@brokers [$($more: $more_fixture),*] $tests);
    };
    (@brokers [] $tests:tt) => {};
    (@tests $module:ident $fixture:ty; [$($test:path => $name:ident),+]) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let test = $test(<$fixture as fixture::Fixture>::start().await);
                    tokio::time::timeout(std::time::Duration::from_mins(1), test).await.expect("a test that ends");
                }
            )+
        }
    };
}

conformance! {
    embedded: fixture::Embedded, nats: fixture::Nats, nats_together: fixture::Together;
    conformance::order::delivers_in_one_order_with_the_previous_position => delivers_in_one_order_with_the_previous_position,
    conformance::order::a_second_copy_is_neither_stored_nor_delivered => a_second_copy_is_neither_stored_nor_delivered,
    conformance::order::a_missed_event_shows_in_the_previous_position => a_missed_event_shows_in_the_previous_position,
    conformance::order::an_event_stored_long_after_it_was_made_is_void => an_event_stored_long_after_it_was_made_is_void,
    conformance::live::nothing_after_a_fence_is_missed => nothing_after_a_fence_is_missed,
    conformance::live::users_of_a_shard_come_on_one_subscription => users_of_a_shard_come_on_one_subscription,
    conformance::live::ephemera_pass_and_are_not_stored => ephemera_pass_and_are_not_stored,
    conformance::live::a_slow_subscriber_raises_the_generation => a_slow_subscriber_raises_the_generation,
    conformance::live::what_is_of_the_moment_and_finds_no_room_raises_no_generation => what_is_of_the_moment_and_finds_no_room_raises_no_generation,
    conformance::log::reads_in_order_from_a_checkpoint => reads_in_order_from_a_checkpoint,
    conformance::log::replays_a_topic_from_a_position => replays_a_topic_from_a_position,
    conformance::log::tails_tell_which_topics_changed => tails_tell_which_topics_changed,
    conformance::log::a_shard_without_a_log_says_so => a_shard_without_a_log_says_so,
    conformance::epoch::goes_on_in_a_new_epoch => goes_on_in_a_new_epoch,
    conformance::epoch::an_event_is_stored_in_its_epoch_or_not_at_all => an_event_is_stored_in_its_epoch_or_not_at_all,
    conformance::epoch::a_retired_epoch_is_read_to_its_end => a_retired_epoch_is_read_to_its_end,
    conformance::call::answers_calls => answers_calls,
    conformance::call::announces => announces,
    outage::what_was_acked_is_there_after_a_crash => what_was_acked_is_there_after_a_crash,
    outage::a_reader_goes_on_after_a_crash => a_reader_goes_on_after_a_crash,
    outage::a_wiped_store_shows => a_wiped_store_shows,
    outage::a_wiped_store_goes_on_in_a_new_epoch => a_wiped_store_goes_on_in_a_new_epoch,
}
