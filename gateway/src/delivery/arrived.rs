//! What lies in a subscription already, taken without waiting for more.

use natter_shared::broker::{Delivery, Subscription};
use tokio::task::{coop::has_budget_remaining, yield_now};

/// Appends what has arrived, `max` at most; false where nothing has.
pub(super) async fn next(subscription: &mut Subscription, batch: &mut Vec<Delivery>, max: usize) -> bool {
    // To a task that has used up its turn a queue looks empty.
    if !has_budget_remaining() {
        yield_now().await;
    }
    subscription.next_ready(batch, max)
}
