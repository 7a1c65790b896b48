//! Commands, given once, twice, or by two at the same moment.

use futures::future::join_all;
use natter_shared::{
    broker::{Broker, Outgoing},
    event::{Event, GroupKind, MemberRemoved, Role},
    frame::ErrorCode,
    id::{GroupId, Nonce, RoomName, UserId, derived_event, single_group},
    rpc::{
        AddMember, CreateGroup, CreateSingle, EnsureGroup, FindUser, FirstJoinMany, JoinOpen, LeaveGroup, Members, NewGroup, OneOfMany,
        OpenGroup, RemoveMember,
    },
    subject::Topic,
};

use sea_orm::{ConnectionTrait, TransactionTrait};

use crate::{
    harness::{Harness, long_ago, user},
    on_both,
};

on_both!(
    two_who_join_a_new_room_at_once_are_both_members,
    a_burst_of_joins_is_answered,
    both_sides_of_a_single_group_make_one,
    groups_are_made_once_and_kept_by_their_admins,
    a_group_takes_as_many_as_it_may,
    others_bring_nobody_into_more_groups_than_there_may_be,
    one_user_makes_so_many_groups_and_joins_what_there_is,
    one_to_one_groups_lock_nobody_out,
    a_leave_that_comes_late_ends_no_newer_membership,
    a_command_whose_first_try_is_void_is_not_answered_as_done,
    strangers_and_absence_look_alike,
    handles_are_first_come_first_served,
);

fn room(name: &str) -> OpenGroup {
    OpenGroup::Name(RoomName::slug(name).unwrap())
}

async fn two_who_join_a_new_room_at_once_are_both_members(mut harness: Harness) {
    harness.start().await;
    for round in 0..5 {
        let name = format!("lobby{round}");
        let join = |who: &str| harness.call(JoinOpen { user: user(who), group: room(&name) });
        let (alice, bob) = tokio::join!(join("alice"), join("bob"));
        let (alice, bob) = (alice.unwrap().reply, bob.unwrap().reply);
        assert_eq!(alice.group, bob.group);
        assert_eq!((alice.kind, alice.display_name.as_str()), (GroupKind::Open, name.as_str()));
        let members = Members { user: Some(user("bob")), group: bob.group, after: None, limit: 10 };
        assert_eq!(harness.call(members).await.unwrap().reply.members.len(), 2);
    }
    // Leaving and joining again is another membership.
    let left = harness
        .call(LeaveGroup { user: user("bob"), group: natter_shared::id::open_group(&RoomName::slug("lobby0").unwrap()), since: None })
        .await;
    let until = left.unwrap().reply.until.unwrap();
    let again = harness.call(JoinOpen { user: user("bob"), group: room("lobby0") }).await.unwrap().reply;
    assert!(again.since > until);
    let twice = harness.call(JoinOpen { user: user("bob"), group: room("lobby0") }).await.unwrap().reply;
    assert_eq!(again.since, twice.since);
}

async fn a_burst_of_joins_is_answered(harness: Harness) {
    // As a gateway would: what is told to try again does.
    let joins = (0..1000).map(async |n| {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_mins(1);
        loop {
            match harness.call(JoinOpen { user: user(&format!("u{n}")), group: room("hall") }).await {
                Ok(answer) => break answer,
                Err(error) => assert!(error.code.is_retryable() && tokio::time::Instant::now() < deadline, "{error}"),
            }
        }
    });
    join_all(joins).await;
    assert_eq!(harness.count("members WHERE until_epoch IS NULL").await, 1000);
    assert_eq!(harness.count("users").await, 1000);
}

async fn both_sides_of_a_single_group_make_one(harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    harness.sign_in(&alice, Some("Al")).await;
    harness.sign_in(&bob, Some("Bo")).await;
    let create =
        |user: &UserId, other: &UserId| harness.call(CreateSingle { user: user.clone(), other: other.clone(), by_back_end: false });
    let (one, other) = tokio::join!(create(&alice, &bob), create(&bob, &alice));
    let (one, other) = (one.unwrap().reply, other.unwrap().reply);
    assert_eq!((one.group, other.group), (single_group(&alice, &bob), single_group(&alice, &bob)));
    assert_eq!(one.since, other.since);
    assert_eq!((one.display_name.as_str(), other.display_name.as_str()), ("Al_with_Bo", "Bo_with_Al"));
    assert_eq!(create(&alice, &bob).await.unwrap().reply.since, one.since);
    assert_eq!(harness.count("groups").await, 1);
    assert_eq!(create(&alice, &alice).await.unwrap_err().code, ErrorCode::BadRequest);
    assert_eq!(create(&alice, &user("nobody")).await.unwrap_err().code, ErrorCode::NotFound);
    let left = harness.call(LeaveGroup { user: alice, group: one.group, since: None }).await;
    assert_eq!(left.unwrap_err().code, ErrorCode::Forbidden);
}

async fn a_leave_that_comes_late_ends_no_newer_membership(harness: Harness) {
    let alice = user("alice");
    harness.sign_in(&alice, None).await;
    let lobby = RoomName::slug("lobby").unwrap();
    let join = || harness.call(JoinOpen { user: alice.clone(), group: OpenGroup::Name(lobby.clone()) });
    let first = join().await.unwrap().reply;
    let leave = |since| harness.call(LeaveGroup { user: alice.clone(), group: first.group, since });
    let until = leave(Some(first.since)).await.unwrap().reply.until;
    assert!(until.is_some_and(|until| until > first.since));
    assert_eq!(leave(Some(first.since)).await.unwrap().reply.until, until, "once more, and nothing happens");
    let second = join().await.unwrap().reply;
    assert!(second.since > first.since);
    leave(Some(first.since)).await.unwrap();
    assert_eq!(join().await.unwrap().reply.since, second.since, "still the same membership");
    assert!(leave(Some(second.since)).await.unwrap().reply.until.is_some_and(|until| until > second.since));
}

async fn groups_are_made_once_and_kept_by_their_admins(harness: Harness) {
    let (alice, bob, carol, dave) = (user("alice"), user("bob"), user("carol"), user("dave"));
    for user in [&alice, &bob, &carol, &dave] {
        harness.sign_in(user, None).await;
    }
    let nonce = Nonce::now();
    let make = |name: &str| {
        let (user, display_name) = (alice.clone(), name.to_owned());
        harness.call(CreateGroup { user, nonce, display_name, members: vec![bob.clone(), bob.clone(), alice.clone()] })
    };
    let group = make("ours").await.unwrap().reply;
    assert_eq!((group.role, group.kind), (Role::Owner, GroupKind::Group));
    assert_eq!(make("ours").await.unwrap().reply.group, group.group);
    assert_eq!(make("theirs").await.unwrap_err().code, ErrorCode::NonceReused);
    let group = group.group;
    let add = |by: &UserId, user: &UserId, role| harness.call(AddMember { by: Some(by.clone()), group, user: user.clone(), role });
    let remove = |by: &UserId, user: &UserId| harness.call(RemoveMember { by: Some(by.clone()), group, user: user.clone() });
    assert_eq!(add(&bob, &carol, Role::Member).await.unwrap_err().code, ErrorCode::Forbidden);
    let first = add(&alice, &carol, Role::Admin).await.unwrap().reply;
    assert_eq!(add(&alice, &carol, Role::Admin).await.unwrap().reply, first);
    assert_eq!(add(&alice, &carol, Role::Member).await.unwrap().reply, first, "she keeps her role");
    assert_eq!(add(&carol, &dave, Role::Owner).await.unwrap_err().code, ErrorCode::Forbidden);
    assert_eq!(add(&carol, &user("nobody"), Role::Member).await.unwrap_err().code, ErrorCode::NotFound);
    add(&carol, &dave, Role::Member).await.unwrap();
    assert_eq!(remove(&carol, &alice).await.unwrap_err().code, ErrorCode::Forbidden);
    let until = remove(&carol, &bob).await.unwrap().reply.until.unwrap();
    assert_eq!(remove(&carol, &bob).await.unwrap().reply.until, Some(until));
    assert!(remove(&carol, &carol).await.unwrap().reply.until.is_some());
    // Each was told, once.
    assert_eq!(harness.log_of(Topic::User(carol.key())).await.len(), 2);
}

async fn a_group_takes_as_many_as_it_may(mut harness: Harness) {
    harness.stop().await;
    harness.options.max_group_members = 3;
    harness.start().await;
    let [alice, bob, carol, dave] = ["alice", "bob", "carol", "dave"].map(user);
    for user in [&alice, &bob, &carol, &dave] {
        harness.sign_in(user, None).await;
    }
    let make = |members: &[&UserId]| {
        let members = members.iter().map(|user| (*user).clone()).collect();
        harness.call(CreateGroup { user: alice.clone(), nonce: Nonce::now(), display_name: "ours".to_owned(), members })
    };
    assert_eq!(make(&[&bob, &carol, &dave]).await.unwrap_err().code, ErrorCode::TooLarge);
    make(&[&bob, &carol]).await.unwrap();
    let group = make(&[&bob]).await.unwrap().reply.group;
    let add = |user: &UserId| harness.call(AddMember { by: None, group, user: user.clone(), role: Role::Member });
    add(&carol).await.unwrap();
    assert_eq!(add(&dave).await.unwrap_err().code, ErrorCode::TooLarge);
}

async fn others_bring_nobody_into_more_groups_than_there_may_be(mut harness: Harness) {
    harness.stop().await;
    (harness.options.max_groups, harness.options.max_groups_by_others) = (3, 2);
    harness.start().await;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(user);
    for user in [&alice, &bob, &carol] {
        harness.sign_in(user, None).await;
    }
    let join = |name: &str| harness.call(JoinOpen { user: bob.clone(), group: room(name) });
    let make = async |maker: &UserId, nonce| {
        let call = CreateGroup { user: maker.clone(), nonce, display_name: "ours".to_owned(), members: vec![bob.clone()] };
        harness.call(call).await.map(|made| made.reply.group).map_err(|error| error.code)
    };
    let with_bob = async |other: &UserId, by_back_end| {
        let call = CreateSingle { user: other.clone(), other: bob.clone(), by_back_end };
        harness.call(call).await.map(drop).map_err(|error| error.code)
    };
    join("own").await.unwrap();
    let nonce = Nonce::now();
    let second = make(&alice, nonce).await.unwrap();
    assert_eq!(make(&alice, Nonce::now()).await, Err(ErrorCode::TooManyGroups), "the third one of more than two");
    assert_eq!(make(&alice, nonce).await, Ok(second), "one that is made is found");
    let carols = CreateGroup { user: carol.clone(), nonce: Nonce::now(), display_name: "mine".to_owned(), members: Vec::new() };
    let carols = harness.call(carols).await.unwrap().reply.group;
    let add = async |by: Option<&UserId>| {
        let call = AddMember { by: by.cloned(), group: carols, user: bob.clone(), role: Role::Member };
        harness.call(call).await.map(drop).map_err(|error| error.code)
    };
    assert_eq!(add(Some(&carol)).await, Err(ErrorCode::TooManyGroups));
    with_bob(&alice, false).await.unwrap();
    with_bob(&alice, false).await.unwrap();
    // The application's back end, and whoever joins by themselves, are not held up.
    add(None).await.unwrap();
    with_bob(&carol, true).await.unwrap();
    let members = vec![(bob.clone(), Role::Member)];
    let group = NewGroup::Group { nonce: Nonce::now(), display_name: "all".to_owned(), members };
    harness.call(EnsureGroup { group }).await.unwrap();
    harness.call(JoinOpen { user: carol.clone(), group: room("another") }).await.unwrap();
    join("another").await.unwrap();
    assert_eq!(make(&bob, Nonce::now()).await, Err(ErrorCode::TooManyGroups), "nor are there more of one's own making");
    for left in harness.sign_in(&bob, None).await.groups.into_iter().filter(|group| group.kind != GroupKind::Single) {
        harness.call(LeaveGroup { user: bob.clone(), group: left.group, since: None }).await.unwrap();
    }
    make(&carol, Nonce::now()).await.unwrap();
    make(&bob, Nonce::now()).await.unwrap();
}

async fn one_user_makes_so_many_groups_and_joins_what_there_is(mut harness: Harness) {
    harness.stop().await;
    (harness.options.max_groups, harness.options.max_groups_made_per_day) = (3, 5);
    harness.start().await;
    let [mallory, ann] = ["mallory", "ann"].map(user);
    for user in [&mallory, &ann] {
        harness.sign_in(user, None).await;
    }
    let join = async |user: &UserId, name: &str| {
        let call = JoinOpen { user: user.clone(), group: room(name) };
        harness.call(call).await.map(|joined| joined.reply.group).map_err(|error| error.code)
    };
    let first_join = async |joining: &[(&UserId, &str)]| {
        let joins = joining.iter().map(|(user, name)| JoinOpen { user: (*user).clone(), group: room(name) }).collect();
        let answers = harness.call(FirstJoinMany { joins }).await.unwrap().reply;
        answers.into_iter().map(|answer| matches!(answer, OneOfMany::Answered(_))).collect::<Vec<_>>()
    };
    let leave = async |group| harness.call(LeaveGroup { user: mallory.clone(), group, since: None }).await.map(drop);
    let made = [join(&mallory, "r0").await.unwrap(), join(&mallory, "r1").await.unwrap(), join(&mallory, "r2").await.unwrap()];
    join(&ann, "anns").await.unwrap();
    // In three.
    assert_eq!(join(&mallory, "r3").await, Err(ErrorCode::TooManyGroups));
    assert_eq!(first_join(&[(&mallory, "r3"), (&mallory, "anns")]).await, [false, true], "who joins what there is is not held up");
    assert_eq!(join(&mallory, "r0").await, Ok(made[0]));
    // Leaving makes room, for so many in a day.
    for group in made {
        leave(group).await.unwrap();
    }
    assert_eq!(first_join(&[(&mallory, "r3")]).await, [true]);
    leave(join(&mallory, "r4").await.unwrap()).await.unwrap();
    assert_eq!(join(&mallory, "r5").await, Err(ErrorCode::TooManyGroups));
    let nonce = Nonce::now();
    let call = CreateGroup { user: mallory.clone(), nonce, display_name: "r5".to_owned(), members: Vec::new() };
    assert_eq!(harness.call(call).await.map(drop).unwrap_err().code, ErrorCode::TooManyGroups);
    assert_eq!(first_join(&[(&mallory, "r5"), (&mallory, "r6"), (&ann, "r6")]).await, [false, true, true], "made by another one");
    assert_eq!(harness.count("groups").await, 7);
    assert_eq!(join(&mallory, "r0").await, Ok(made[0]), "there is one");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_come_to_be_later_count_as_made() {
    let mut harness = Harness::postgres().await;
    harness.stop().await;
    harness.options.max_groups_made_per_day = 2;
    harness.start().await;
    let mallory = user("mallory");
    harness.sign_in(&mallory, None).await;
    let make = async |nonce| {
        let call = CreateGroup { user: mallory.clone(), nonce, display_name: "many".to_owned(), members: Vec::new() };
        harness.call(call).await.map(drop).map_err(|error| error.code)
    };
    let lagging = harness.database.begin().await.unwrap();
    lagging.execute_unprepared("UPDATE applied SET seq = seq").await.unwrap();
    let (first, second) = (Nonce::now(), Nonce::now());
    for nonce in [first, first, second] {
        assert_eq!(make(nonce).await, Err(ErrorCode::Unavailable), "said again it is the same one");
    }
    assert_eq!(make(Nonce::now()).await, Err(ErrorCode::TooManyGroups));
    lagging.rollback().await.unwrap();
    harness.eventually("they came to be", async || (harness.count("groups").await == 2).then_some(())).await;
    assert_eq!((make(first).await, make(Nonce::now()).await), (Ok(()), Err(ErrorCode::TooManyGroups)));
}

/// One-to-one groups are opened by others, and cannot be left.
async fn one_to_one_groups_lock_nobody_out(mut harness: Harness) {
    harness.stop().await;
    (harness.options.max_groups, harness.options.max_groups_by_others) = (3, 2);
    harness.start().await;
    let [support, boss, last] = ["support", "boss", "last"].map(user);
    let customers = ["c0", "c1", "c2", "c3"].map(user);
    for user in customers.iter().chain([&support, &boss, &last]) {
        harness.sign_in(user, None).await;
    }
    let open = async |user: &UserId, other: &UserId| {
        let call = CreateSingle { user: user.clone(), other: other.clone(), by_back_end: false };
        harness.call(call).await.map(drop).map_err(|error| error.code)
    };
    for customer in &customers {
        open(customer, &support).await.unwrap();
    }
    let make = async |maker: &UserId, members: Vec<UserId>| {
        let call = CreateGroup { user: maker.clone(), nonce: Nonce::now(), display_name: "ours".to_owned(), members };
        harness.call(call).await.map(|made| made.reply.group)
    };
    let group = make(&boss, Vec::new()).await.unwrap();
    harness.call(AddMember { by: Some(boss.clone()), group, user: support.clone(), role: Role::Member }).await.unwrap();
    make(&support, Vec::new()).await.unwrap();
    // By whom more could be filled is who opens them.
    assert_eq!(open(&support, &last).await, Err(ErrorCode::TooManyGroups));
    for customer in &customers[1..] {
        open(&customers[0], customer).await.ok();
    }
    assert_eq!(open(&customers[0], &last).await, Err(ErrorCode::TooManyGroups), "in three");
    open(&last, &customers[0]).await.unwrap();
    let full = make(&boss, vec![support.clone()]).await.unwrap_err();
    assert!(full.code == ErrorCode::TooManyGroups && full.message.contains("user support is in 2 groups or more"), "{full}");
}

/// A try that the client library sent too late to count is stored all the same, and its id is taken for two minutes.
async fn a_command_whose_first_try_is_void_is_not_answered_as_done(harness: Harness) {
    let alice = user("alice");
    let joined = harness.call(JoinOpen { user: alice.clone(), group: room("lobby") }).await.unwrap().reply;
    let topic = Topic::Group(joined.group);
    let removed = Event::MemberRemoved(MemberRemoved { group: joined.group, user: alice.clone(), by: Some(alice.clone()) });
    // Whatever version the membership has.
    for version in 0..4_i64 {
        let id = derived_event("member_removed", &[joined.group.0.as_bytes(), alice.as_str().as_bytes(), &version.to_be_bytes()]);
        let made_at = long_ago(harness.broker.now());
        let (epoch, payload) = (None, removed.encode().unwrap());
        harness.broker.publish(Outgoing { topic, id, made_at, epoch, payload }).await.unwrap();
    }
    let left = harness.call(LeaveGroup { user: alice.clone(), group: joined.group, since: None }).await;
    assert_eq!(left.unwrap_err().code, ErrorCode::Unavailable);
    let again = harness.call(JoinOpen { user: alice, group: room("lobby") }).await.unwrap().reply;
    assert_eq!(again.since, joined.since, "still the same membership");
}

async fn strangers_and_absence_look_alike(harness: Harness) {
    let (alice, eve) = (user("alice"), user("eve"));
    harness.sign_in(&alice, None).await;
    harness.sign_in(&eve, None).await;
    let (group, ack) = harness.create(GroupKind::Group, &[&alice]).await;
    harness.applied(Topic::Group(group), ack).await;
    for group in [group, GroupId(uuid::Uuid::now_v7())] {
        let history = natter_shared::rpc::MessageHistory { user: Some(eve.clone()), group, before: None, after: None, limit: 1 };
        assert_eq!(harness.call(history).await.unwrap_err().code, ErrorCode::NotFound);
        let members = Members { user: Some(eve.clone()), group, after: None, limit: 1 };
        assert_eq!(harness.call(members).await.unwrap_err().code, ErrorCode::NotFound);
        let join = JoinOpen { user: eve.clone(), group: OpenGroup::Id(group) };
        assert_eq!(harness.call(join).await.unwrap_err().code, ErrorCode::NotFound);
        let add = AddMember { by: Some(eve.clone()), group, user: eve.clone(), role: Role::Member };
        assert_eq!(harness.call(add).await.unwrap_err().code, ErrorCode::NotFound);
    }
}

async fn handles_are_first_come_first_served(harness: Harness) {
    let handle = async |id: &str, claim: Option<&str>| harness.sign_in(&user(id), claim).await.profile.handle;
    assert_eq!(handle("u1", Some("alice")).await, "alice");
    assert_eq!(handle("u2", Some("alice")).await, "u2");
    assert_eq!(handle("u3", None).await, "u3");
    assert_eq!(handle("u4", Some("u3")).await, "u4", "an id of somebody else is no handle");
    assert_eq!(handle("u5", Some("later")).await, "later");
    let late = handle("later", None).await;
    assert!(late.starts_with("later~"), "{late}");
    assert_eq!(handle("u1", Some("alice")).await, "alice");
    assert_eq!(handle("u1", Some("later")).await, "alice", "a lost claim takes nothing away");
    assert_eq!(handle("u1", Some("alicia")).await, "alicia");
    assert_eq!(handle("u2", Some("alice2")).await, "alice2");
    let longest = "\u{20000}".repeat(64);
    assert_eq!(handle("u6", Some(&longest)).await, longest, "of four bytes each");
    assert_eq!(handle("u7", Some(&"x".repeat(65))).await, "u7");
    assert_eq!(handle("u8", Some("ali\u{200b}cia")).await, "u8", "what looks like another's handle is none");
    let at_once = join_all((0..20).map(|n| {
        let (harness, id) = (&harness, format!("w{n}"));
        async move { harness.sign_in(&user(&id), Some("wanted")).await.profile.handle }
    }))
    .await;
    assert_eq!(at_once.iter().filter(|handle| *handle == "wanted").count(), 1);
    let found = harness.call(FindUser::Handle("alicia".into())).await.unwrap().reply.unwrap();
    assert_eq!(found.id, user("u1"));
    assert!(harness.call(FindUser::Id(user("nobody"))).await.unwrap().reply.is_none());
}
