//! One reading for all who missed the same: when thousands of a group's clients come back together,
//! what they missed is read once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use natter_shared::{id::GroupId, position::Position, subject::Topic};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{GroupMeta, JoinError, hub::Hub, missed::Missed, read::Reading};

/// How long those who come back are gathered before what they missed is read.
const GATHER: Duration = Duration::from_millis(10);

/// How long it is kept for those who come after, if it is small.
const KEEP: Duration = Duration::from_secs(2);
const SMALL: usize = 64 * 1024;

/// What came of a reading: none where it is not sure to be all.
type Outcome = Result<Option<Arc<Missed>>, String>;

/// A reading that is under way, or was a moment ago.
struct Flight {
    floor: Position,
    /// From where it reads, and whether that can still be changed.
    from: Mutex<(Position, bool)>,
    outcome: watch::Sender<Option<Outcome>>,
}

impl Flight {
    /// Whether it brings everything between `from` and `floor`; while it gathers, it is made to.
    fn takes(&self, from: Position, floor: Position) -> bool {
        let mut begins = self.from.lock();
        let (at, is_fixed) = *begins;
        if self.floor < floor || (is_fixed && at > from) {
            return false;
        }
        if !is_fixed {
            begins.0 = at.min(from);
        }
        !matches!(*self.outcome.borrow(), Some(Err(_) | Ok(None)))
    }
}

/// The readings of groups. Those who missed far more than others are read for apart.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<(GroupId, u32), Arc<Flight>>>);

/// How much was missed, roughly.
fn distance(from: Position, floor: Position) -> u32 {
    if from.epoch == floor.epoch { (floor.seq.saturating_sub(from.seq) + 1).ilog2() } else { u32::MAX }
}

/// What `group` had between `from` and `floor`; none where that is not sure to be all.
pub(super) async fn missed(
    hub: &Arc<Hub>,
    group: GroupId,
    meta: &GroupMeta,
    from: Position,
    floor: Position,
) -> Result<Option<Arc<Missed>>, JoinError> {
    let key = (group, distance(from, floor));
    let flight = {
        let mut flights = hub.flights.0.lock();
        match flights.get(&key).filter(|flight| flight.takes(from, floor)) {
            Some(flight) => Arc::clone(flight),
            None => {
                let flight = Arc::new(Flight { floor, from: Mutex::new((from, false)), outcome: watch::Sender::new(None) });
                flights.insert(key, Arc::clone(&flight));
                // By itself: whoever began it may go away.
                hub.tasks.spawn(fly(Arc::clone(hub), key, meta.clone(), Arc::clone(&flight)));
                flight
            }
        }
    };
    let mut outcome = flight.outcome.subscribe();
    let outcome = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
    match outcome {
        Some(Ok(Some(missed))) => Ok(Some(missed)),
        // Somebody else's position may be to blame.
        Some(Ok(None)) if flight.from.lock().0 < from => read(hub, group, meta, from, floor).await,
        Some(Ok(None)) => Ok(None),
        Some(Err(reason)) => Err(JoinError::Unavailable(reason)),
        None => Err(JoinError::Unavailable("shutting down".to_owned())),
    }
}

async fn fly(hub: Arc<Hub>, key: (GroupId, u32), meta: GroupMeta, flight: Arc<Flight>) {
    tokio::time::sleep(GATHER).await;
    let from = {
        let mut begins = flight.from.lock();
        begins.1 = true;
        begins.0
    };
    let outcome = read(&hub, key.0, &meta, from, flight.floor).await.map_err(|error| error.to_string());
    let is_small = matches!(&outcome, Ok(Some(missed)) if missed.bytes() < SMALL);
    flight.outcome.send_replace(Some(outcome));
    if is_small {
        let _ = hub.stop.run_until_cancelled(tokio::time::sleep(KEEP)).await;
    }
    let mut flights = hub.flights.0.lock();
    if flights.get(&key).is_some_and(|now| Arc::ptr_eq(now, &flight)) {
        flights.remove(&key);
    }
}

async fn read(hub: &Hub, group: GroupId, meta: &GroupMeta, from: Position, floor: Position) -> Result<Option<Arc<Missed>>, JoinError> {
    let _permit = hub.recoveries.acquire().await.map_err(|_| JoinError::Unavailable("shutting down".to_owned()))?;
    hub.metrics.recoveries.inc();
    let reading = Reading { hub, topic: Topic::Group(group), group: Some((group, meta)), user: None, from, floor };
    Ok(reading.run().await?.map(Arc::new))
}
