//! What clients take themselves for members of, and what was commanded, against the groups' own orders.

use std::collections::{HashMap, HashSet};

use natter_shared::{id::GroupId, position::Position};

use super::{Observation, Time, Violation};

/// Whether clients were told which memberships have begun and not ended.
pub fn check_following(seen: &Observation) -> Vec<Violation> {
    let Some(memberships) = &seen.memberships else { return Vec::new() };
    let mut members: HashMap<&str, HashSet<GroupId>> = HashMap::new();
    for ((group, user), times) in memberships {
        if matches!(times.last(), Some((_, None))) {
            members.entry(user).or_default().insert(*group);
        }
    }
    let none = HashSet::new();
    let mut bad = Vec::new();
    for (client, follows) in &seen.following {
        let follows: HashSet<GroupId> = follows.keys().copied().collect();
        let is_in = seen.users.get(client).and_then(|user| members.get(user.as_str())).unwrap_or(&none);
        bad.extend(follows.difference(is_in).map(|group| Violation::Lingers(client.clone(), *group)));
        bad.extend(is_in.difference(&follows).map(|group| Violation::Unaware(client.clone(), *group)));
    }
    bad
}

/// Whether members are as was answered to who removed them and added them again.
pub fn check_commanded(seen: &Observation) -> Vec<Violation> {
    let Some(memberships) = &seen.memberships else { return Vec::new() };
    let is_member = |group: GroupId, user: &String| {
        let times = memberships.get(&(group, user.clone()));
        times.is_some_and(|times| matches!(times.last(), Some((_, None))))
    };
    let is_member_at = |group: GroupId, user: &String, at: Position| {
        let is_in = |(from, until): &Time| *from <= at && until.is_none_or(|until| at < until);
        memberships.get(&(group, user.clone())).is_some_and(|times| times.iter().any(is_in))
    };
    let wrong = seen.commanded.iter().filter(|(group, user, commanded)| is_member(*group, user) != *commanded);
    let wrong = wrong.map(|(group, user, _)| (group, user));
    let unfounded = seen.added.iter().filter(|(group, user, began)| {
        // Who was removed in between cannot be in the membership that was answered before.
        let is_removal_lost = began.windows(2).any(|two| two[1] <= two[0]);
        is_removal_lost || began.iter().any(|at| !is_member_at(*group, user, *at))
    });
    let unfounded = unfounded.map(|(group, user, _)| (group, user));
    wrong.chain(unfounded).map(|(group, user)| Violation::CommandLost(*group, user.clone())).collect()
}

#[cfg(test)]
mod tests {
    use natter_shared::position::Epoch;
    use uuid::Uuid;

    use super::*;

    const GROUP: GroupId = GroupId(Uuid::from_u128(9));

    fn at(seq: u64) -> Position {
        Position::new(Epoch(1), seq)
    }

    fn found(user_is_in: &[(Position, Option<Position>)], follows: &[GroupId]) -> Vec<Violation> {
        check_following(&Observation {
            users: [("tab".to_owned(), "ann".to_owned())].into(),
            memberships: Some([((GROUP, "ann".to_owned()), user_is_in.to_vec())].into()),
            following: [("tab".to_owned(), follows.iter().map(|group| (*group, at(1))).collect())].into(),
            ..Observation::default()
        })
    }

    #[test]
    fn a_client_follows_what_its_user_is_in_and_nothing_else() {
        let (member, gone, back) = ((at(0), None), (at(0), Some(at(4))), (at(5), None));
        assert_eq!(found(&[member], &[GROUP]), []);
        assert_eq!(found(&[gone], &[]), []);
        assert_eq!(found(&[gone], &[GROUP]), [Violation::Lingers("tab".into(), GROUP)]);
        assert_eq!(found(&[gone, back], &[]), [Violation::Unaware("tab".into(), GROUP)]);
    }
}
