//! The checker is shown to find what it is there for.

use natter_shared::position::Epoch;
use uuid::Uuid;

use super::*;

const GROUP: GroupId = GroupId(Uuid::from_u128(9));

fn at(seq: u64) -> Position {
    Position::new(Epoch(1), seq)
}

fn fact(seq: u64) -> Fact {
    Fact {
        message: MessageId(Uuid::from_u128(u128::from(seq))),
        group: GROUP,
        position: at(seq),
        content: Content::of("ann", &seq.to_string()),
    }
}

/// Messages 1 to 6; one client there all the time, one from 2 to 4.
fn good() -> Observation {
    let all: Vec<Fact> = (1..=6).map(fact).collect();
    let mut whole = vec![Entry::Joined(GROUP, at(0))];
    whole.extend(all.iter().map(|fact| Entry::Delivered(*fact)));
    let mut part = vec![Entry::Joined(GROUP, at(2))];
    part.extend((3..=4).map(|seq| Entry::Delivered(fact(seq))));
    part.push(Entry::Left(GROUP, at(4)));
    Observation {
        clients: vec![("whole".into(), whole), ("part".into(), part)],
        attempted: all.iter().map(|fact| fact.message).collect(),
        accepted: all.clone(),
        rows: all,
        ..Observation::default()
    }
}

fn violations(spoil: impl FnOnce(&mut Observation)) -> Vec<Violation> {
    let mut seen = good();
    spoil(&mut seen);
    check(&seen).violations
}

#[test]
fn a_good_run_is_clean() {
    let report = check(&good());
    report.assert_clean();
    assert_eq!((report.deliveries, report.accepted, report.resets), (8, 6, 0));
}

#[test]
fn a_dropped_delivery_is_found() {
    let found = violations(|seen| {
        seen.clients[0].1.remove(3);
    });
    assert_eq!(found, [Violation::Missing("whole".into(), fact(3))]);
}

#[test]
fn a_dropped_last_delivery_is_found() {
    let found = violations(|seen| {
        seen.clients[0].1.pop();
    });
    assert_eq!(found, [Violation::Missing("whole".into(), fact(6))]);
}

#[test]
fn a_doubled_delivery_is_found() {
    let found = violations(|seen| seen.clients[0].1.insert(3, Entry::Delivered(fact(2))));
    assert_eq!(found, [Violation::Doubled("whole".into(), fact(2))]);
}

#[test]
fn swapped_deliveries_are_found() {
    let found = violations(|seen| seen.clients[0].1.swap(3, 4));
    assert_eq!(found, [Violation::OutOfOrder("whole".into(), fact(3))]);
}

#[test]
fn a_delivery_after_the_end_of_membership_is_found() {
    let found = violations(|seen| seen.clients[1].1.push(Entry::Delivered(fact(5))));
    assert_eq!(found, [Violation::NotMember("part".into(), fact(5))]);
}

#[test]
fn an_end_of_membership_that_overtakes_or_comes_late_is_found() {
    let found = violations(|seen| seen.clients[1].1.swap(2, 3));
    assert_eq!(found, [Violation::OutOfOrder("part".into(), fact(4))]);
    let found = violations(|seen| {
        seen.clients[1].1.extend([Entry::Joined(GROUP, at(4)), Entry::Delivered(fact(5)), Entry::Delivered(fact(6))]);
        seen.clients[1].1.swap(3, 5);
    });
    assert!(found.contains(&Violation::OutOfOrder("part".into(), fact(5))), "{found:?}");
}

#[test]
fn an_invented_or_moved_delivery_is_found() {
    let found = violations(|seen| seen.clients[0].1.push(Entry::Delivered(fact(7))));
    assert_eq!(found, [Violation::Unknown("whole".into(), fact(7))]);
    let moved = Fact { position: at(8), ..fact(6) };
    let found = violations(|seen| seen.clients[0].1[6] = Entry::Delivered(moved));
    assert_eq!(found, [Violation::Unknown("whole".into(), moved)]);
}

#[test]
fn sql_must_hold_what_was_accepted_once_and_nothing_else() {
    let found = violations(|seen| seen.rows.truncate(5));
    assert!(found.contains(&Violation::NotInSql(fact(6))), "{found:?}");
    assert_eq!(violations(|seen| seen.rows.push(fact(6))), [Violation::TwiceInSql(fact(6))]);
    let found = violations(|seen| seen.rows.push(fact(7)));
    assert!(found.contains(&Violation::NeverSent(fact(7))), "{found:?}");
    let moved = Fact { position: at(7), ..fact(6) };
    assert_eq!(violations(|seen| seen.accepted[5] = moved), [Violation::Moved(moved, fact(6))]);
}

#[test]
fn a_declared_gap_is_counted_and_excuses_only_itself() {
    let mut seen = good();
    seen.clients[0].1[3] = Entry::Reset(GROUP);
    let report = check(&seen);
    report.assert_clean();
    assert_eq!((report.resets, report.excused), (1, 1));
    seen.clients[0].1.remove(5);
    assert_eq!(check(&seen).violations, [Violation::Missing("whole".into(), fact(5))]);
}

#[test]
fn membership_is_judged_by_the_group_s_own_order() {
    let truly = |until: Option<u64>| {
        let whole = ((GROUP, "w".to_owned()), vec![(at(0), None)]);
        let part = ((GROUP, "p".to_owned()), vec![(at(2), until.map(at))]);
        move |seen: &mut Observation| {
            seen.users = [("whole".to_owned(), "w".to_owned()), ("part".to_owned(), "p".to_owned())].into();
            seen.memberships = Some([whole, part].into());
        }
    };
    assert_eq!(violations(truly(Some(4))), []);
    let ended = Violation::EndedWrongly("part".into(), GROUP, at(4));
    assert_eq!(violations(truly(Some(3))), [ended, Violation::NotMember("part".into(), fact(4))]);
    let gone_without_a_word = violations(|seen| {
        truly(Some(4))(seen);
        seen.clients[1].1 = vec![Entry::Joined(GROUP, at(2)), Entry::Delivered(fact(3)), Entry::Gone(GROUP)];
    });
    assert_eq!(gone_without_a_word, [], "what came before the end is not told to who was away");
}

#[test]
fn a_dead_letter_is_found() {
    let found = violations(|seen| {
        let row = seen.rows.pop().unwrap();
        seen.clients[0].1.pop();
        seen.dead.insert(row.message);
    });
    assert_eq!(found, [Violation::DeadLetter(fact(6).message)], "and not lost beside it");
    let found = violations(|seen| {
        seen.dead.insert(fact(6).message);
    });
    assert_eq!(found, [Violation::DeadLetter(fact(6).message), Violation::TwiceInSql(fact(6))]);
    let found = violations(|seen| {
        seen.dead.insert(fact(9).message);
    });
    assert_eq!(found, [Violation::DeadLetter(fact(9).message)], "of an event that is no message");
}

#[test]
fn a_sender_who_is_overtaken_by_itself_is_found() {
    let found = violations(|seen| seen.sent = vec![("ann".into(), vec![fact(2), fact(1), fact(3)])]);
    assert_eq!(found, [Violation::Overtook("ann".into(), fact(1))]);
}

#[test]
fn a_last_message_that_is_waited_for_in_vain_is_found_unless_a_gap_was_declared() {
    let found = |is_declared| {
        let missed = InVain { client: "whole".into(), group: GROUP, state: "whole: at 5".into(), is_declared };
        let report = check(&Observation { in_vain: vec![missed], ..good() });
        assert_eq!(report.in_vain, ["whole: at 5"]);
        report.violations
    };
    assert_eq!(found(false), [Violation::LastMissing("whole".into(), GROUP)]);
    assert_eq!(found(true), []);
}

#[test]
fn a_second_membership_is_a_time_of_its_own() {
    let found = violations(|seen| {
        seen.clients[1].1.push(Entry::Joined(GROUP, at(5)));
    });
    assert_eq!(found, [Violation::Missing("part".into(), fact(6))]);
}

#[test]
fn a_content_that_is_not_the_sent_one_is_found_wherever_it_is() {
    assert_ne!(Content::of("ann", "3"), Content::of("ben", "3"), "the sender counts");
    assert_ne!(Content::of("ann", "3"), Content::of("ann", "4"), "the body counts");
    let other = Fact { content: Content::of("ann", "another"), ..fact(3) };
    assert_eq!(violations(|seen| seen.clients[0].1[3] = Entry::Delivered(other)), [Violation::Altered("whole".into(), other)]);
    let found = violations(|seen| seen.rows[2] = other);
    assert!(found.contains(&Violation::AlteredInSql(fact(3))), "{found:?}");
    assert_eq!(violations(|seen| seen.accepted[2] = other), [Violation::AlteredInSql(other)]);
}

#[test]
fn a_membership_that_is_told_to_begin_later_than_it_did_is_found() {
    let told = |seq| {
        violations(|seen| {
            seen.users = [("part".to_owned(), "p".to_owned()), ("whole".to_owned(), "w".to_owned())].into();
            let of = |user: &str, from, until: Option<u64>| ((GROUP, user.to_owned()), vec![(at(from), until.map(at))]);
            seen.memberships = Some([of("p", 2, Some(4)), of("w", 0, None)].into());
            let got = (seq + 1..=4).map(|seq| Entry::Delivered(fact(seq)));
            seen.clients[1].1 = [Entry::Began(GROUP, at(seq))].into_iter().chain(got).chain([Entry::Left(GROUP, at(4))]).collect();
        })
    };
    assert_eq!(told(2), []);
    assert_eq!(told(3), [Violation::JoinedLate("part".into(), GROUP, at(3), at(2))]);
}

/// Who was a member all the time has to be told everything; who was taken out and added again meanwhile cannot go on.
#[test]
fn a_declared_gap_without_a_reason_is_found() {
    let violations = |memberships: &[(u64, Option<u64>)]| {
        let mut seen = good();
        seen.clients[0].1[3] = Entry::Reset(GROUP);
        seen.users = [("part".to_owned(), "p".to_owned()), ("whole".to_owned(), "w".to_owned())].into();
        let times = memberships.iter().map(|(from, until)| (at(*from), until.map(at))).collect();
        seen.memberships = Some([((GROUP, "w".to_owned()), times), ((GROUP, "p".to_owned()), vec![(at(2), Some(at(4)))])].into());
        let mut report = check(&seen);
        report.forbid_resets();
        report.violations
    };
    assert_eq!(violations(&[(0, None)]), [Violation::Reset("whole".into(), GROUP)]);
    assert_eq!(violations(&[(0, Some(2)), (3, None)]), []);
    let before_any_delivery = {
        let mut seen = good();
        with_times(&mut seen, &[(2, None)], &[(2, Some(4))]);
        let entries = [Entry::Joined(GROUP, at(2)), Entry::Reset(GROUP)];
        seen.clients[0].1 = entries.into_iter().chain((4..=6).map(|seq| Entry::Delivered(fact(seq)))).collect();
        let mut report = check(&seen);
        report.forbid_resets();
        report.violations
    };
    assert_eq!(before_any_delivery, [Violation::Reset("whole".into(), GROUP)]);
}

/// Who is listed again and cannot go on, after it took its membership for ended: whether that is a gap, the group's order says.
#[test]
fn a_membership_that_begins_anew_is_no_gap_and_one_that_never_ended_is() {
    let report = |w: &[(u64, Option<u64>)]| {
        let mut seen = good();
        with_times(&mut seen, w, &[(2, Some(4))]);
        let again = [Entry::Gone(GROUP), Entry::Reset(GROUP), Entry::Joined(GROUP, at(4))];
        seen.clients[0].1.splice(3..5, again);
        let mut report = check(&seen);
        report.forbid_resets();
        (report.resets, report.violations)
    };
    assert_eq!(report(&[(0, Some(3)), (4, None)]), (0, vec![]));
    assert_eq!(report(&[(0, None)]), (1, vec![Violation::Reset("whole".into(), GROUP)]));
}

/// With the times at which the users `w` and `p`, whose clients are `whole` and `part`, were members.
fn with_times(seen: &mut Observation, w: &[(u64, Option<u64>)], p: &[(u64, Option<u64>)]) {
    seen.users = [("whole".to_owned(), "w".to_owned()), ("part".to_owned(), "p".to_owned())].into();
    let times = |user: &str, times: &[(u64, Option<u64>)]| {
        let times = times.iter().map(|(from, until)| (at(*from), until.map(at))).collect();
        ((GROUP, user.to_owned()), times)
    };
    seen.memberships = Some([times("w", w), times("p", p)].into());
}

#[test]
fn a_removal_that_was_answered_and_is_nowhere_is_found() {
    let found = |until, commanded| {
        violations(|seen| {
            with_times(seen, &[(0, None)], &[(2, until)]);
            // What its client was told is another matter.
            seen.clients.truncate(1);
            seen.commanded = vec![(GROUP, "p".to_owned(), commanded)];
        })
    };
    assert_eq!(found(Some(4), false), []);
    assert_eq!(found(None, true), []);
    assert_eq!(found(None, false), [Violation::CommandLost(GROUP, "p".into())]);
    assert_eq!(found(Some(4), true), [Violation::CommandLost(GROUP, "p".into())]);
}

#[test]
fn a_removal_or_addition_that_the_next_one_hides_is_found() {
    let found = |times: &[(u64, Option<u64>)], began: &[u64]| {
        violations(|seen| {
            with_times(seen, &[(0, None)], times);
            seen.clients.truncate(1);
            seen.added = vec![(GROUP, "p".to_owned(), began.iter().map(|seq| at(*seq)).collect())];
        })
    };
    let lost = [Violation::CommandLost(GROUP, "p".into())];
    assert_eq!(found(&[(0, Some(1)), (2, Some(4))], &[0, 2]), []);
    assert_eq!(found(&[(0, None)], &[0, 0]), lost, "the removal");
    assert_eq!(found(&[(0, Some(1))], &[0, 2]), lost, "the addition");
}

#[test]
fn who_hears_nothing_after_a_declared_gap_is_found() {
    let cut = |seen: &mut Observation| {
        seen.clients[0].1.truncate(3);
        seen.clients[0].1.push(Entry::Reset(GROUP));
    };
    assert_eq!(violations(cut), [Violation::Stuck("whole".into(), GROUP)]);
    let goes_on = violations(|seen| {
        cut(seen);
        seen.clients[0].1.push(Entry::Delivered(fact(6)));
    });
    assert_eq!(goes_on, []);
    let ended = violations(|seen| {
        cut(seen);
        seen.clients[0].1.push(Entry::Left(GROUP, at(5)));
    });
    assert_eq!(ended, [], "nothing more comes to who is no member");
    assert_eq!(violations(|seen| seen.clients[0].1.push(Entry::Reset(GROUP))), [], "there was nothing to hear");
    let back = violations(|seen| {
        cut(seen);
        seen.clients[0].1.extend([Entry::Left(GROUP, at(3)), Entry::Joined(GROUP, at(4)), Entry::Delivered(fact(6))]);
    });
    assert_eq!(back, [Violation::Missing("whole".into(), fact(5))], "an earlier membership's gap excuses nothing of this one");
}

#[test]
fn an_end_that_was_none_is_found() {
    let whole = |truly: &[(u64, Option<u64>)], entries: &[Entry]| {
        violations(|seen| {
            with_times(seen, truly, &[(2, Some(4))]);
            seen.clients[0].1 = entries.to_vec();
        })
    };
    let got = |seq| Entry::Delivered(fact(seq));
    let begin = [Entry::Joined(GROUP, at(0)), got(1), got(2)];
    let with = |entries: &[Entry]| [&begin[..], entries].concat();
    let missing = [3, 4].map(|seq| Violation::Missing("whole".into(), fact(seq)));
    let gone = with(&[Entry::Gone(GROUP), Entry::Joined(GROUP, at(4)), got(5), got(6)]);
    assert_eq!(whole(&[(0, None)], &gone), missing);
    assert_eq!(whole(&[(0, Some(3)), (4, None)], &gone), [], "not told what came before the end");
    assert_eq!(whole(&[(0, Some(6))], &gone), missing, "it ended later, but not then");
    let told_again = with(&[Entry::Gone(GROUP), Entry::Began(GROUP, at(0)), got(3), got(4), got(5), got(6)]);
    assert_eq!(whole(&[(0, None)], &told_again), [], "SQL was behind, and nothing is missing");
    let never_again: Vec<Violation> = (3..=6).map(|seq| Violation::Missing("whole".into(), fact(seq))).collect();
    assert_eq!(whole(&[(0, None)], &with(&[Entry::Gone(GROUP)])), never_again);
    let left = with(&[Entry::Left(GROUP, at(2)), Entry::Joined(GROUP, at(4)), got(5), got(6)]);
    assert_eq!(whole(&[(0, None)], &left), [Violation::EndedWrongly("whole".into(), GROUP, at(2))]);
    let declared = with(&[Entry::Reset(GROUP), Entry::Left(GROUP, at(4))]);
    assert_eq!(whole(&[(0, Some(3))], &declared), [], "where exactly it ended could not be told");
}
