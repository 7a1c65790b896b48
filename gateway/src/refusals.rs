//! Connections without a place that are told so, so many at a time. Who says nothing makes room for who comes: else whoever
//! holds all of them would keep everybody from an answer, those who watch the process among them.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::admission::counted;

/// Connections at the same time.
const MOST: usize = 64;

/// All of them, the oldest first.
#[derive(Clone, Default)]
pub(crate) struct Refusals(Arc<Mutex<Vec<Arc<Slot>>>>);

struct Slot {
    address: IpAddr,
    asked: Arc<AtomicBool>,
    displaced: Notify,
}

/// One of them; dropped, there is room for another.
pub(crate) struct RefusalSlot {
    all: Refusals,
    slot: Arc<Slot>,
}

impl Refusals {
    /// Room for a connection from this address. Where there is none, one that has asked nothing yet gives way: the oldest
    /// of those whose address has most. None while all others are being answered.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<RefusalSlot> {
        let mut slots = self.0.lock();
        if slots.len() >= MOST {
            let of_its_address = |slot: &Slot| slots.iter().filter(|other| other.address == slot.address).count();
            let silent = slots.iter().enumerate().filter(|(_, slot)| !slot.asked.load(Ordering::Relaxed));
            // Of equals the last one is taken.
            let (place, _) = silent.rev().max_by_key(|(_, slot)| of_its_address(slot))?;
            slots.remove(place).displaced.notify_one();
        }
        let slot = Arc::new(Slot { address: counted(address), asked: Arc::default(), displaced: Notify::new() });
        slots.push(Arc::clone(&slot));
        Some(RefusalSlot { all: self.clone(), slot })
    }
}

impl RefusalSlot {
    /// Whether the connection has asked for something, which it then is answered.
    pub(crate) fn asked(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.slot.asked)
    }

    /// Waits until another one takes the room.
    pub(crate) async fn displaced(&self) {
        self.slot.displaced.notified().await;
    }
}

impl Drop for RefusalSlot {
    fn drop(&mut self) {
        self.all.0.lock().retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_silent_one_of_the_address_with_most_gives_way() {
        let refusals = Refusals::default();
        let enter = |address: &str| refusals.enter(address.parse().unwrap());
        let is_displaced = |slot: &RefusalSlot| slot.displaced().now_or_never().is_some();
        let one = enter("192.0.2.1").unwrap();
        let many: Vec<_> = (1..MOST).map(|_| enter("192.0.2.2").unwrap()).collect();
        many[0].asked().store(true, Ordering::Relaxed);
        let _other = enter("192.0.2.3").unwrap();
        assert_eq!(many.iter().position(is_displaced), Some(1), "the first one is being answered");
        let _other = enter("192.0.2.2").unwrap();
        assert_eq!(many.iter().skip(2).position(is_displaced), Some(0));
        assert!(!is_displaced(&one));
        for slot in refusals.0.lock().iter() {
            slot.asked.store(true, Ordering::Relaxed);
        }
        assert!(enter("192.0.2.1").is_none(), "all are being answered");
        drop(one);
        assert!(enter("192.0.2.1").is_some());
        drop(many);
        assert!(refusals.0.lock().len() <= 2, "those that live");
    }
}
