//! One reading for all who missed the same: when thousands of a group's clients come back together,
//! what they missed is read once, and kept for those who come a little later.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use natter_shared::{id::GroupId, position::Position, subject::Topic};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{GroupMeta, JoinError, hub::Hub, missed::Missed, read::Reading, ring::Kept};

/// How long those who come back are gathered before what they missed is read.
const GATHER: Duration = Duration::from_millis(10);

/// How long a reading is kept after it last served somebody, where [`Kept`] has room for it.
const KEEP: Duration = Duration::from_secs(10);

/// And how long at most: what is erased meanwhile must not be told for ever.
const KEEP_AT_MOST: Duration = Duration::from_mins(1);

/// What came of a reading: none where it is not sure to be all.
type Outcome = Result<Option<Arc<Missed>>, String>;

/// A reading that is under way, or was a while ago.
struct Flight {
    floor: Position,
    begins: Mutex<Begins>,
    outcome: watch::Sender<Option<Outcome>>,
    /// When somebody last asked for it.
    used: Mutex<Instant>,
    /// Its room among what is kept, once it has ended.
    room: Mutex<Option<Kept>>,
}

/// From where a flight reads.
#[derive(Clone, Copy)]
struct Begins {
    at: Position,
    /// It reads: who missed more comes too late.
    is_fixed: bool,
}

impl Flight {
    fn new(from: Position, floor: Position) -> Self {
        Self {
            floor,
            begins: Mutex::new(Begins { at: from, is_fixed: false }),
            outcome: watch::Sender::new(None),
            used: Mutex::new(Instant::now()),
            room: Mutex::default(),
        }
    }

    fn begins(&self) -> Position {
        self.begins.lock().at
    }

    /// Whether it brings everything between `from` and `floor`; while it gathers, it is made to.
    fn takes(&self, from: Position, floor: Position) -> bool {
        let mut begins = self.begins.lock();
        if self.floor < floor {
            return false;
        }
        let has_ended = match &*self.outcome.borrow() {
            Some(Ok(Some(_))) => true,
            Some(Err(_) | Ok(None)) => return false,
            None => false,
        };
        let takes = if from.epoch != self.floor.epoch {
            // Beyond the end of its epoch lies what was lost: of each position only SQL can tell.
            begins.at == from
        } else if has_ended {
            begins.at <= from
        } else {
            // Nobody waits for the reading of one who missed far more.
            distance(begins.at, self.floor) == distance(from, floor) && (begins.at <= from || !begins.is_fixed)
        };
        if takes {
            begins.at = begins.at.min(from);
            *self.used.lock() = Instant::now();
        }
        takes
    }

    /// Whether `other` brings all that this one does.
    fn is_within(&self, other: &Self) -> bool {
        let begins = self.begins();
        begins.epoch == other.floor.epoch && other.begins() <= begins && self.floor <= other.floor
    }

    fn has_ended(&self) -> bool {
        self.outcome.borrow().is_some()
    }
}

/// The readings of groups, those under way and those that are kept.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<GroupId, Vec<Arc<Flight>>>>);

impl Flights {
    /// Forgets `which` of `group`'s.
    fn forget(&self, group: GroupId, which: impl Fn(&Arc<Flight>) -> bool) {
        let mut flights = self.0.lock();
        if let Some(of_group) = flights.get_mut(&group) {
            of_group.retain(|flight| !which(flight));
            if of_group.is_empty() {
                flights.remove(&group);
            }
        }
    }
}

/// How much was missed, roughly: in powers of four.
fn distance(from: Position, floor: Position) -> u32 {
    if from.epoch == floor.epoch { (floor.seq.saturating_sub(from.seq) + 1).ilog2() / 2 } else { u32::MAX }
}

/// The farthest position of `from`'s distance.
fn farthest(from: Position, floor: Position) -> Position {
    match distance(from, floor) {
        u32::MAX => from,
        distance => {
            let most = 4_u64.checked_pow(distance + 1).map_or(u64::MAX, |end| end - 2);
            Position::new(from.epoch, floor.seq.saturating_sub(most)).min(from)
        }
    }
}

/// What `group` had between `from` and `floor`; none where that is not sure to be all.
pub(super) async fn missed(
    hub: &Arc<Hub>,
    group: GroupId,
    meta: &GroupMeta,
    from: Position,
    floor: Position,
) -> Result<Option<Arc<Missed>>, JoinError> {
    let flight = {
        let mut flights = hub.flights.0.lock();
        let of_group = flights.entry(group).or_default();
        match of_group.iter().find(|flight| flight.takes(from, floor)) {
            Some(flight) => Arc::clone(flight),
            None => {
                // Others have come back just now and more will: the next ones may have missed more.
                let is_herd = of_group.iter().any(|flight| flight.floor.epoch == from.epoch);
                let flight = Arc::new(Flight::new(from, floor));
                of_group.push(Arc::clone(&flight));
                // By itself: whoever began it may go away.
                hub.tasks.spawn(fly(Arc::clone(hub), group, meta.clone(), Arc::clone(&flight), is_herd));
                flight
            }
        }
    };
    let mut outcome = flight.outcome.subscribe();
    let outcome = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
    match outcome {
        Some(Ok(Some(missed))) if flight.begins() <= from => Ok(Some(missed)),
        Some(Ok(None)) if flight.begins() == from => Ok(None),
        // Somebody else's position may be to blame.
        Some(Ok(_)) => read(hub, group, meta, from, floor).await,
        Some(Err(reason)) => Err(JoinError::Unavailable(reason)),
        None => Err(JoinError::Unavailable("shutting down".to_owned())),
    }
}

/// Ends a flight that did not come to its end by itself: who waits for it holds what would tell them.
struct Ends<'a> {
    flights: &'a Flights,
    group: GroupId,
    flight: &'a Arc<Flight>,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if !self.flight.has_ended() {
            self.flights.forget(self.group, |other| Arc::ptr_eq(other, self.flight));
            self.flight.outcome.send_replace(Some(Err("what was missed could not be read".to_owned())));
        }
    }
}

async fn fly(hub: Arc<Hub>, group: GroupId, meta: GroupMeta, flight: Arc<Flight>, is_herd: bool) {
    let ends = Ends { flights: &hub.flights, group, flight: &flight };
    sleep(GATHER).await;
    let (asked, far) = {
        let mut begins = flight.begins.lock();
        let asked = begins.at;
        let far = if is_herd { farthest(asked, flight.floor) } else { asked };
        *begins = Begins { at: far, is_fixed: true };
        (asked, far)
    };
    let mut outcome = read(&hub, group, &meta, far, flight.floor).await;
    if far < asked && matches!(outcome, Ok(None)) {
        // Nobody asked for what is not there.
        flight.begins.lock().at = asked;
        outcome = read(&hub, group, &meta, asked, flight.floor).await;
    }
    let room = match &outcome {
        Ok(Some(missed)) => hub.ring_budget.keep(missed.cost()),
        Ok(None) | Err(_) => None,
    };
    let is_kept = room.is_some();
    *flight.room.lock() = room;
    flight.outcome.send_replace(Some(outcome.map_err(|error| error.to_string())));
    drop(ends);
    if is_kept {
        hub.flights.forget(group, |other| !Arc::ptr_eq(other, &flight) && other.has_ended() && other.is_within(&flight));
        let kept = Arc::downgrade(&flight);
        drop(flight);
        keep(&hub, &kept, group).await;
    } else {
        hub.flights.forget(group, |other| Arc::ptr_eq(other, &flight));
    }
}

/// Forgets `flight` when it has served nobody for a while. Another may take its place before.
async fn keep(hub: &Hub, flight: &Weak<Flight>, group: GroupId) {
    let ends = Instant::now() + KEEP_AT_MOST;
    let unused = async {
        while let Some(until) = flight.upgrade().map(|flight| (*flight.used.lock() + KEEP).min(ends))
            && until > Instant::now()
        {
            sleep_until(until).await;
        }
    };
    let _ = hub.stop.run_until_cancelled(unused).await;
    hub.flights.forget(group, |other| std::ptr::eq(Arc::as_ptr(other), flight.as_ptr()));
}

async fn read(hub: &Hub, group: GroupId, meta: &GroupMeta, from: Position, floor: Position) -> Result<Option<Arc<Missed>>, JoinError> {
    let topic = Topic::Group(group);
    let _place = hub.recoveries.begin(hub.broker.shards().of(topic)).await?;
    hub.metrics.recoveries.inc();
    let reading = Reading { hub, topic, group: Some((group, meta)), user: None, from, floor };
    Ok(reading.run().await?.map(Arc::new))
}

#[cfg(test)]
#[allow(clippy::panic, reason = "tests")]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_flight_that_dies_tells_who_waits_and_serves_nobody_more() {
        let (flights, group) = (Flights::default(), GroupId(uuid::Uuid::nil()));
        let flight = Arc::new(Flight::new(Position::START, Position::START));
        flights.0.lock().insert(group, vec![Arc::clone(&flight)]);
        let waits = flight.outcome.subscribe();
        let died = catch_unwind(AssertUnwindSafe(|| {
            let _ends = Ends { flights: &flights, group, flight: &flight };
            panic!("a defect");
        }));
        assert!(died.is_err() && matches!(&*waits.borrow(), Some(Err(_))));
        assert!(flights.0.lock().is_empty());
    }
}
