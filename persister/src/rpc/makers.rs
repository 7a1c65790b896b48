//! How many groups each user has made of late. Who leaves one is in fewer, but what was made stays: so it is the making that is
//! bounded, by what this process has stored.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use natter_shared::id::{UserId, UserKey};
use parking_lot::Mutex;

/// What is counted together, from the first group that is made in it.
const DAY: Duration = Duration::from_hours(24);

/// Users that are counted; when more come, all of them begin anew.
const MOST_USERS: usize = 100_000;

/// Who has made how many groups in a day.
#[derive(Default)]
pub(super) struct Makers(Mutex<Today>);

#[derive(Default)]
struct Today {
    ends: Option<Instant>,
    made: HashMap<UserKey, usize>,
}

impl Makers {
    /// How many `user` has made in the day of `now`.
    pub(super) fn made(&self, user: &UserId, now: Instant) -> usize {
        let today = self.0.lock();
        if today.ends.is_some_and(|ends| now < ends) { today.made.get(&user.key()).copied().unwrap_or_default() } else { 0 }
    }

    /// Counts one more.
    pub(super) fn count(&self, user: &UserId, now: Instant) {
        let mut today = self.0.lock();
        if today.ends.is_none_or(|ends| now >= ends) || today.made.len() >= MOST_USERS {
            *today = Today { ends: Some(now + DAY), made: HashMap::new() };
        }
        *today.made.entry(user.key()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_was_made_counts_for_a_day() {
        let (makers, start) = (Makers::default(), Instant::now());
        let [ann, ben] = ["ann", "ben"].map(|name| UserId::new(name).unwrap());
        assert_eq!(makers.made(&ann, start), 0);
        makers.count(&ann, start);
        makers.count(&ann, start);
        let late = start + DAY.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!((makers.made(&ann, late), makers.made(&ben, late)), (2, 0));
        assert_eq!(makers.made(&ann, start + DAY), 0);
        makers.count(&ben, start + DAY);
        assert_eq!((makers.made(&ann, start + DAY), makers.made(&ben, start + DAY)), (0, 1));
    }

    #[test]
    fn so_many_users_are_counted() {
        let (makers, now) = (Makers::default(), Instant::now());
        for number in 0..=MOST_USERS {
            makers.count(&UserId::new(&format!("u{number}")).unwrap(), now);
        }
        assert_eq!(makers.0.lock().made.len(), 1);
    }
}
