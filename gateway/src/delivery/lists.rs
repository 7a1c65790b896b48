//! Whether SQL knew of all of a user's groups when it listed them. A hint comes before its rows: of who has not heard one, SQL may
//! list too little until it has come to the event that the hint is of, in the shard of the group.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use natter_shared::{
    broker::{Broker, BrokerError, Control, hear},
    position::Position,
    subject::{Shard, Shards},
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// Before what could not be had is asked for again.
const RETRY: Duration = Duration::from_millis(500);

/// How far SQL has to have come.
pub(super) struct Lists {
    state: Mutex<State>,
    /// Somewhere a hint may have been missed, and until when is not known yet.
    missed: Notify,
}

struct State {
    shards: Vec<OfShard>,
    /// Of the users of each shard.
    users: Vec<Unheard>,
}

/// A shard, as one of groups.
#[derive(Clone, Copy)]
struct OfShard {
    /// SQL has come here, as was announced last.
    applied: Position,
    /// Where the log ended, asked at that time.
    end: Option<(Instant, Position)>,
}

/// What a shard's users have not heard; of one of them, when its inbox was live, for what comes later is told to it. A list of its
/// groups may miss what hints of that told, until SQL has come behind it.
#[derive(Debug, Clone)]
pub struct Unheard {
    /// Until then hints may have been missed, of events of any shard.
    missed: Option<Instant>,
    /// In each shard the last event of whose hint there is no room any more.
    forgotten: Arc<Vec<Position>>,
}

impl Lists {
    pub(super) fn new(shards: Shards) -> Self {
        let count = usize::from(shards.count());
        let unheard = Unheard { missed: None, forgotten: Arc::new(vec![Position::START; count]) };
        let of_shard = OfShard { applied: Position::START, end: None };
        Self { state: Mutex::new(State { shards: vec![of_shard; count], users: vec![unheard; count] }), missed: Notify::new() }
    }

    /// Until now a hint of the users of `users` may have been missed.
    pub(super) fn hints_missed(&self, users: Shard) {
        if let Some(of_users) = self.state.lock().users.get_mut(usize::from(users.0)) {
            of_users.missed = Some(Instant::now());
        }
        self.missed.notify_one();
    }

    /// A hint of the event at `position` of `shard` is heard by no user of `users` who comes from now on.
    pub(super) fn hint_forgotten(&self, users: Shard, shard: Shard, position: Position) {
        let mut state = self.state.lock();
        let of_users = state.users.get_mut(usize::from(users.0));
        if let Some(forgotten) = of_users.and_then(|of_users| Arc::make_mut(&mut of_users.forgotten).get_mut(usize::from(shard.0))) {
            *forgotten = position.max(*forgotten);
        }
    }

    /// Whether SQL is known to have come to `position`.
    pub(super) fn is_applied(&self, shard: Shard, position: Position) -> bool {
        self.state.lock().shards.get(usize::from(shard.0)).is_some_and(|known| position <= known.applied)
    }

    /// What a user of `users` has not heard who is live as of now.
    pub(super) fn unheard(&self, users: Shard) -> Unheard {
        let unheard = self.state.lock().users.get(usize::from(users.0)).cloned();
        unheard.unwrap_or_else(|| Unheard { missed: None, forgotten: Arc::default() })
    }

    /// Whether a list of groups misses nothing of what was `unheard`, which SQL made when it had come to `applied`; without it, one
    /// that it makes now.
    pub(super) fn are_whole(&self, unheard: &Unheard, applied: Option<&dyn Fn(Shard) -> Position>) -> bool {
        let state = self.state.lock();
        let mut shards = (0..).map(Shard).zip(&state.shards).zip(unheard.forgotten.iter());
        shards.all(|((shard, known), forgotten)| {
            let applied = applied.map_or(known.applied, |applied| applied(shard));
            let has_come = unheard.missed.is_none_or(|missed| known.end.is_some_and(|(asked, end)| asked >= missed && end <= applied));
            has_come && *forgotten <= applied
        })
    }

    /// SQL has come to `position`. The last word counts, even if it goes back.
    pub(super) fn hear(&self, shard: Shard, position: Position) {
        if let Some(known) = self.state.lock().shards.get_mut(usize::from(shard.0)) {
            known.applied = position;
        }
    }

    /// The log of `shard` ended at `end`, asked at `asked`.
    fn ended(&self, shard: Shard, asked: Instant, end: Position) {
        if let Some(known) = self.state.lock().shards.get_mut(usize::from(shard.0)) {
            known.end = Some((asked, end));
        }
    }

    /// Hears how far SQL has come, and asks where the logs end when a hint may have been missed.
    pub(super) async fn keep(&self, broker: &dyn Broker) {
        tokio::join!(self.hear_persisters(broker), self.ask_ends(broker));
    }

    async fn hear_persisters(&self, broker: &dyn Broker) {
        hear(broker, |control| match control {
            Control::Applied { shard, position, .. } => self.hear(Shard(shard), position),
            Control::Epoch { .. } | Control::Standings { .. } | Control::Gateway { .. } => {}
        })
        .await;
    }

    async fn ask_ends(&self, broker: &dyn Broker) {
        loop {
            self.missed.notified().await;
            let asked = Instant::now();
            // By a write of our own: right after an election a log may look shorter than it is.
            let ends = broker.shards().iter().map(async |shard| match broker.fence(shard).await {
                Ok(end) => self.ended(shard, asked, end),
                // Nothing was ever in it.
                Err(BrokerError::NoLog(_)) => self.ended(shard, asked, Position::START),
                Err(error) => {
                    tracing::debug!(%shard, %error, "end_of_log_unknown");
                    self.missed.notify_one();
                }
            });
            join_all(ends).await;
            tokio::time::sleep(RETRY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use natter_shared::position::Epoch;

    use super::*;

    fn at(seq: u64) -> Position {
        Position::new(Epoch(1), seq)
    }

    #[tokio::test]
    async fn a_list_is_whole_behind_what_each_shard_had_when_hints_were_heard_again() {
        let (users, other, shards) = (Shard(1), Shard(0), Shards::new(2));
        let lists = Lists::new(shards.expect("two"));
        assert!(lists.are_whole(&lists.unheard(users), None), "nothing was missed");
        lists.ended(other, Instant::now(), at(3));
        tokio::time::sleep(Duration::from_millis(2)).await;
        lists.hints_missed(users);
        assert!(lists.are_whole(&lists.unheard(other), None) && !lists.are_whole(&lists.unheard(users), None));
        let asked = Instant::now();
        lists.ended(users, asked, at(5));
        (0..2).for_each(|shard| lists.hear(Shard(shard), at(6)));
        assert!(!lists.are_whole(&lists.unheard(users), None), "where the other one ended was asked before");
        lists.ended(other, asked, at(7));
        assert!(!lists.are_whole(&lists.unheard(users), None), "a row of the other one may be under way");
        lists.hear(other, at(7));
        assert!(lists.are_whole(&lists.unheard(users), None));
        assert!(!lists.are_whole(&lists.unheard(users), Some(&|_| at(6))) && lists.are_whole(&lists.unheard(users), Some(&|_| at(7))));
    }

    #[test]
    fn a_list_is_whole_behind_the_hints_for_which_there_was_no_room() {
        let lists = Lists::new(Shards::new(2).expect("two"));
        for seq in [7, 5] {
            lists.hint_forgotten(Shard(1), Shard(0), at(seq));
        }
        lists.hear(Shard(0), at(6));
        assert!(lists.are_whole(&lists.unheard(Shard(0)), None) && !lists.are_whole(&lists.unheard(Shard(1)), None));
        lists.hear(Shard(0), at(7));
        assert!(lists.are_whole(&lists.unheard(Shard(1)), None) && lists.is_applied(Shard(0), at(7)) && !lists.is_applied(Shard(0), at(8)));
    }

    #[test]
    fn who_is_live_does_not_wait_for_what_it_hears_itself() {
        let lists = Lists::new(Shards::new(2).expect("two"));
        let (users, shard) = (Shard(1), Shard(0));
        lists.hint_forgotten(users, shard, at(7));
        let unheard = lists.unheard(users);
        lists.hint_forgotten(users, shard, at(9));
        assert!(!lists.are_whole(&unheard, Some(&|_| at(6))) && lists.are_whole(&unheard, Some(&|_| at(7))));
        assert!(!lists.are_whole(&lists.unheard(users), Some(&|_| at(8))), "who comes now has not heard it");
    }
}
