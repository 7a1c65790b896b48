//! Without a consumer: a stream read directly, for a while.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    super::{super::BrokerError, direct},
    NatsReader,
};

/// How long the stream is read directly before a consumer is tried again.
const DIRECTLY: Duration = Duration::from_secs(5);
/// Direct reads that may fail one after the other: any server is asked, and one may be cut off.
const DIRECT_TRIES: u32 = 5;
/// Events that are read directly at once.
const DIRECT_EVENTS: usize = 512;
/// Between two direct reads where the first brought nothing.
const DIRECT_PAUSE: Duration = Duration::from_millis(50);

/// How long it is read without a consumer.
pub(super) struct Direct {
    until: Instant,
    /// The connection that it began on: over a new one it is first looked at whether the stream is what it was.
    connects: u64,
    /// Reads that failed since one did not.
    failed: u32,
}

impl Direct {
    /// Whether it goes on over this connection.
    pub(super) fn goes_on(&self, connects: u64) -> bool {
        self.connects == connects && self.until > Instant::now()
    }
}

impl NatsReader {
    /// Begins to, over this connection.
    pub(super) fn read_directly(&mut self, connects: u64) {
        self.direct = Some(Direct { until: Instant::now() + DIRECTLY, connects, failed: 0 });
    }

    /// Takes what there is after `from`.
    pub(super) async fn fill_directly(&mut self, from: u64, max: usize, deadline: Instant) -> Result<(), BrokerError> {
        let most = max.saturating_sub(self.ready.len()).min(DIRECT_EVENTS);
        let Some(direct) = self.direct.as_mut().filter(|_| most > 0) else { return Ok(()) };
        let read = match direct::read(&self.api, &self.stream, from, most).await {
            Err(error @ BrokerError::Unavailable(_)) => {
                direct.failed += 1;
                if direct.failed == DIRECT_TRIES {
                    return Err(error);
                }
                Vec::new()
            }
            read => {
                direct.failed = 0;
                read?
            }
        };
        if self.api.exchange.connects() != direct.connects {
            // Of another store, perhaps.
            return Ok(());
        }
        // What is missing in between was lost on the way, or evicted: the next read, or consumer, finds out.
        let expected = (from..).zip(read).take_while(|(seq, consumed)| *seq == consumed.seq);
        self.ready.extend(expected.map(|(_, consumed)| consumed));
        if self.ready.is_empty() {
            tokio::time::sleep_until(deadline.min(Instant::now() + DIRECT_PAUSE)).await;
        }
        Ok(())
    }
}
