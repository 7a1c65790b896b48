//! Where an event stands: its stream's epoch and its sequence in it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Which incarnation of a shard's stream; from one counter for all shards, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The position of an event in its shard's stream, written `"<epoch>.<seq>"` and compared as two
/// integers. Positions of different shards do not compare.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position {
    /// The stream's incarnation.
    pub epoch: Epoch,
    /// The sequence number in it, from 1; 0 is before the first event.
    pub seq: u64,
}

impl Position {
    /// Before everything.
    pub const START: Self = Self { epoch: Epoch(0), seq: 0 };

    /// The position `seq` of `epoch`.
    pub const fn new(epoch: Epoch, seq: u64) -> Self {
        Self { epoch, seq }
    }
}

/// A text that is not `<epoch>.<seq>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a position is <epoch>.<seq>, two integers")]
pub struct PositionError;

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let (epoch, seq) = text.split_once('.').ok_or(PositionError)?;
        if !digits(epoch) || !digits(seq) {
            return Err(PositionError);
        }
        let epoch = Epoch(epoch.parse().map_err(|_| PositionError)?);
        // SQL's integers are signed.
        let seq = seq.parse().ok().filter(|seq| i64::try_from(*seq).is_ok()).ok_or(PositionError)?;
        Ok(Self { epoch, seq })
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_compare_as_two_integers() {
        let at = |text: &str| text.parse::<Position>();
        assert!(at("1.9").ok() < at("1.10").ok());
        assert!(at("1.99").ok() < at("2.1").ok());
        for bad in ["", "1", "1.", ".1", "1.2.3", "+1.2", "1.-2", "a.b", "1.99999999999999999999", "4294967296.1", "1.9223372036854775808"]
        {
            assert_eq!(at(bad), Err(PositionError), "{bad}");
        }
    }
}
