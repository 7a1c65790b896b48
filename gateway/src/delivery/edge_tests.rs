//! The limits of delivery that nothing else tries, at their edges.

use crate::edge::Edge;

#[tokio::test]
async fn recoveries_at_the_edge() {
    let edge = Edge::start(|config| config.limits.recoveries = 2).await;
    let recoveries = &edge.app.hub.recoveries;
    let both = [recoveries.try_acquire().unwrap(), recoveries.try_acquire().unwrap()];
    assert!(recoveries.try_acquire().is_err(), "a third one waits");
    drop(both);
    assert!(recoveries.try_acquire().is_ok());
}
