//! What did not come live: read back where it is still to be had, and where it is not, left to the
//! members to recover.

use natter_shared::{
    broker::Stored,
    position::{Epoch, Position},
    subject::Topic,
};
use tokio::time::Instant;

use super::{Checked, GroupTask};
use crate::delivery::{
    cursor::{Cursor, Verdict},
    encode::encode_reset,
    fill,
};

impl GroupTask {
    /// One that does not just follow on the last.
    pub(super) async fn on_other(&mut self, verdict: Verdict, stored: Stored) {
        match verdict {
            Verdict::Next | Verdict::Old => {}
            Verdict::First => {
                if !fill::is_whole(&self.hub, Topic::Group(self.group), self.cursor.0, self.active).await {
                    return self.lose(stored.position).await;
                }
            }
            Verdict::Gap => self.fill(stored.previous).await,
            Verdict::NewEpoch => {
                self.enter_epoch(stored.position.epoch).await;
                if stored.previous > 0 {
                    self.fill(stored.previous).await;
                }
            }
        }
        if self.cursor.0 < stored.position {
            self.take(stored).await;
        }
    }

    pub(super) async fn on_reach(&mut self, position: Position) {
        // What is held is judged when all before it is known.
        if self.hold.is_some() {
            return;
        }
        if position.epoch > self.cursor.0.epoch {
            self.enter_epoch(position.epoch).await;
        }
        if position.epoch == self.cursor.0.epoch && position.seq > self.cursor.0.seq {
            self.fill(position.seq).await;
            self.flush().await;
        }
    }

    /// What was missed before the check comes first, then what was held back.
    pub(super) async fn on_checked(&mut self, checked: Checked) {
        let Checked { interruptions, upto, first, last } = checked;
        if upto.epoch > self.cursor.0.epoch {
            self.enter_epoch(upto.epoch).await;
        }
        if upto.epoch == self.cursor.0.epoch {
            let last = last.unwrap_or_default();
            if self.cursor.0.seq + 1 < first {
                self.lose(Position::new(upto.epoch, upto.seq.max(last))).await;
            } else if last > self.cursor.0.seq {
                self.fill(last).await;
            }
            self.cursor = Cursor(self.cursor.0.max(upto));
            self.flush().await;
            self.settle_ahead();
        }
        self.interruptions = self.interruptions.max(interruptions);
        if self.interruptions == self.hub.broker.interruptions()
            && let Some(hold) = self.hold.take()
        {
            self.active = Instant::now();
            for stored in hold.into_events() {
                self.on_stored(stored).await;
            }
            self.flush().await;
            self.settle_ahead();
        }
    }

    /// Delivers what was missed up to the event at sequence `last`, which is known to be stored, in
    /// order; or lets everybody recover it.
    async fn fill(&mut self, last: u64) {
        self.hub.metrics.gaps.inc();
        match fill::missed(&self.hub, Topic::Group(self.group), self.cursor.0, last).await {
            Some(missed) => {
                for stored in missed {
                    self.take(stored).await;
                }
            }
            None => {
                tracing::warn!(group = %self.group, after = %self.cursor.0, last, "gap_not_filled");
                self.lose(Position::new(self.cursor.0.epoch, last)).await;
            }
        }
    }

    /// What there was up to `floor` is not known here: who is here recovers it, and comes back with it.
    async fn lose(&mut self, floor: Position) {
        self.flush().await;
        // What is not known may have been a removal.
        self.release_all(self.cursor.0);
        self.go_on_after(floor);
    }

    fn go_on_after(&mut self, floor: Position) {
        self.cursor = Cursor(floor);
        self.chat_floor = floor;
        self.ring.restart(floor);
    }

    /// The log went on in another epoch: what the old one lost cannot be known here.
    async fn enter_epoch(&mut self, epoch: Epoch) {
        self.reset(Position::new(epoch, 0)).await;
    }

    async fn reset(&mut self, floor: Position) {
        self.hub.metrics.resets.inc();
        if let Some(frame) = encode_reset(Some(self.group)) {
            self.batch.add_frame(&frame);
        }
        self.flush().await;
        let known = self.cursor.0;
        self.go_on_after(floor);
        // What is not known may have been a removal.
        self.release_all(known);
    }
}
