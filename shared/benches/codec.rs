//! What one publication costs in decoding and encoding: a client's frame, the event it becomes, the
//! subject it travels on.

#![allow(clippy::expect_used, missing_docs, reason = "a bench fails by panicking, and its macros make what has no docs")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use natter_shared::{
    event::{Event, Message},
    frame::ClientFrame,
    id::{GroupId, MessageId, Nonce, RoomName, UserId, open_group},
    subject::{Shards, Space, Topic, subject},
};

/// As long as most of what people say.
const BODY: &str = "It is half past six, and the train is said to leave at seven from platform four.";

fn group() -> GroupId {
    open_group(&RoomName::slug("lobby").expect("a good name"))
}

fn event() -> Event {
    let (sender, nonce) = (UserId::new("alice").expect("a good id"), Nonce::now());
    let id = MessageId::derive(&sender, nonce);
    Event::Message(Message { id, group: group(), sender, nonce, body: BODY.to_owned(), reply_to: None, data: None, origin: None })
}

fn frames(criterion: &mut Criterion) {
    let frame = format!(r#"{{"type":"send","id":7,"group":"{}","nonce":"{}","body":"{BODY}"}}"#, group(), Nonce::now());
    assert!(ClientFrame::parse(&frame).is_ok(), "{frame}");
    criterion.bench_function("decode a client's send", |bencher| bencher.iter(|| ClientFrame::parse(black_box(&frame))));
}

fn events(criterion: &mut Criterion) {
    let event = event();
    criterion.bench_function("encode an event", |bencher| bencher.iter(|| black_box(&event).encode()));
    let payload = event.encode().expect("plain data");
    criterion.bench_function("decode an event", |bencher| bencher.iter(|| Event::decode(black_box(&payload))));
}

fn subjects(criterion: &mut Criterion) {
    let (shards, topic) = (Shards::new(4).expect("more than none"), Topic::Group(group()));
    criterion.bench_function("build a subject", |bencher| {
        bencher.iter(|| {
            let topic = black_box(topic);
            subject(Space::Event, shards.of(topic), topic)
        });
    });
}

criterion_group!(benches, frames, events, subjects);
criterion_main!(benches);
