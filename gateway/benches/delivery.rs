//! What one delivery costs: framed once, written to each member, kept in the ring, read from it again.

#![allow(clippy::expect_used, missing_docs, reason = "a bench fails by panicking, and its macros make what has no docs")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use natter_gateway::benches::Room;
use natter_shared::{
    event::{Event, Message},
    id::{MessageId, Nonce, RoomName, UserId, open_group},
};
use tokio::runtime::Runtime;

/// As long as most of what people say.
const BODY: &str = "It is half past six, and the train is said to leave at seven from platform four.";

fn event() -> Event {
    let (sender, nonce) = (UserId::new("alice").expect("a good id"), Nonce::now());
    let (id, group) = (MessageId::derive(&sender, nonce), open_group(&RoomName::slug("lobby").expect("a good name")));
    Event::Message(Message { id, group, sender, nonce, body: BODY.to_owned(), reply_to: None, data: None, origin: None })
}

fn frame(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut room = runtime.block_on(Room::open(0)).expect("no sockets");
    let event = event();
    criterion.bench_function("frame an event", |bencher| bencher.iter(|| room.frame(black_box(&event).clone())));
}

/// Framed, written to each and kept; the members read in between, which is not counted.
fn push(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let event = event();
    for members in [1, 20, 1000] {
        let mut room = runtime.block_on(Room::open(members)).expect("sockets");
        criterion.bench_function(&format!("push to {members} members"), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                for _ in 0..iterations {
                    let event = event.clone();
                    let start = Instant::now();
                    let bytes = room.deliver(event);
                    spent += start.elapsed();
                    room.read(bytes).expect("what was delivered");
                }
                spent
            });
        });
    }
}

fn ring(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut room = runtime.block_on(Room::open(0)).expect("no sockets");
    let event = event();
    criterion.bench_function("frame and keep in a full ring", |bencher| bencher.iter(|| room.keep_only(event.clone())));
    criterion.bench_function("find 100 of 1000 in a ring", |bencher| bencher.iter(|| black_box(&room).recover(100)));
}

criterion_group!(benches, frame, push, ring);
criterion_main!(benches);
