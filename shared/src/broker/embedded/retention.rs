//! How far each shard is applied: what lies beyond is never forgotten.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::{position::Position, subject::Shard};

/// The applied position of each shard; unknown ones forget nothing.
#[derive(Default)]
pub(super) struct Applied(Mutex<HashMap<Shard, Position>>);

impl Applied {
    pub(super) fn set(&self, shard: Shard, position: Position) {
        let mut applied = self.0.lock();
        let known = applied.entry(shard).or_insert(position);
        *known = position.max(*known);
    }

    pub(super) fn get(&self, shard: Shard) -> Option<Position> {
        self.0.lock().get(&shard).copied()
    }
}
