//! How many recoveries there are at once: of all shards together, and of each. One whose log has no leader holds its
//! own up, for seconds each, and nobody else's.

use natter_shared::subject::{Shard, Shards};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::JoinError;

/// The places of a gateway's recoveries.
pub(super) struct Recoveries {
    all: Semaphore,
    /// Each shard's own, an equal share of all: as long as there are as many as shards, nobody waits for another's.
    of_shards: Vec<Semaphore>,
}

/// A recovery's place; dropped, it is free again.
pub(super) struct Place<'a> {
    _of_shard: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

impl Recoveries {
    pub(super) fn new(limit: usize, shards: Shards) -> Self {
        let share = (limit / usize::from(shards.count())).max(1);
        Self { all: Semaphore::new(limit), of_shards: shards.iter().map(|_| Semaphore::new(share)).collect() }
    }

    /// Waits for a place among `shard`'s.
    pub(super) async fn begin(&self, shard: Shard) -> Result<Place<'_>, JoinError> {
        let ended = || JoinError::Unavailable("shutting down".to_owned());
        let of_shard = self.of_shards.get(usize::from(shard.0)).ok_or_else(ended)?;
        // In this order: who waits for its shard keeps nothing that others could have.
        let of_shard = of_shard.acquire().await.map_err(|_| ended())?;
        let of_all = self.all.acquire().await.map_err(|_| ended())?;
        Ok(Place { _of_shard: of_shard, _of_all: of_all })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_shard_that_stands_still_leaves_the_others_their_places() {
        let shards = Shards::new(4).unwrap();
        let recoveries = Recoveries::new(9, shards);
        let begin = |shard| recoveries.begin(shard).now_or_never().map(Result::unwrap);
        let mut places = Vec::new();
        for shard in shards.iter() {
            places.extend([begin(shard), begin(shard)].map(|place| place.expect("two of its own")));
            assert!(begin(shard).is_none());
        }
        places.remove(0);
        assert!(begin(Shard(1)).is_none() && begin(Shard(0)).is_some());
    }

    #[tokio::test]
    async fn fewer_places_than_shards_are_not_exceeded() {
        let recoveries = Recoveries::new(2, Shards::new(4).unwrap());
        let begin = |shard| recoveries.begin(Shard(shard)).now_or_never().map(Result::unwrap);
        let (first, second) = (begin(0), begin(1));
        assert!(first.is_some() && second.is_some() && begin(2).is_none());
        drop(first);
        assert!(begin(2).is_some());
    }
}
