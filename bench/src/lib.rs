//! What Natter costs, and how much it carries. On the wire: `frame`, with a `mark` in each message by
//! which it is told again, and `token`, by which users sign in. What is made of it: `sequence` (lost,
//! doubled, out of order), `latency`, `procs` (CPU and memory). Then the generator, `load`, and the least
//! that any server could do, `limit`; and `front`, which measures Natter and the limit in turn.

pub mod frame;
pub mod front;
pub mod latency;
pub mod limit;
pub mod load;
pub mod mark;
pub mod procs;
pub mod sequence;
pub mod token;
