//! What one receiver has of one sender: told again, told late, or as it should be.

/// How many numbers below the highest one are remembered.
const WINDOW: u32 = 64;

/// The highest number that came, and which of those just below it did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sequence {
    highest: u32,
    /// Bit n: `highest - n` has come.
    came: u64,
}

/// How a number came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// After all that came before.
    InOrder,
    /// After a later one.
    OutOfOrder,
    /// Once more.
    Duplicate,
}

impl Sequence {
    /// Takes in a number, counted from 1.
    pub fn take(&mut self, number: u32) -> Arrival {
        if number > self.highest {
            self.came = self.came.checked_shl(number - self.highest).unwrap_or(0) | 1;
            self.highest = number;
            return Arrival::InOrder;
        }
        let behind = self.highest - number;
        if behind >= WINDOW {
            return Arrival::OutOfOrder;
        }
        let bit = 1 << behind;
        if self.came & bit != 0 {
            return Arrival::Duplicate;
        }
        self.came |= bit;
        Arrival::OutOfOrder
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Arrival::{Duplicate, InOrder, OutOfOrder},
        *,
    };

    #[test]
    fn repetition_and_disorder_are_told_apart() {
        let mut sequence = Sequence::default();
        let came: Vec<Arrival> = [1, 1, 3, 2, 2, 70, 70, 69].into_iter().map(|number| sequence.take(number)).collect();
        assert_eq!(came, [InOrder, Duplicate, InOrder, OutOfOrder, Duplicate, InOrder, Duplicate, OutOfOrder]);
    }
}
