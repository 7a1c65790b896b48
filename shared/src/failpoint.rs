//! Places in the live path that tests spoil on purpose, so that a check which passes is known to be
//! able to fail: `make faults SABOTAGE=<name>`. One of them spoils nothing: `gather` has happen at every
//! occasion what takes a heavy load. Without the feature `failpoints`, which no release has, each is a
//! constant `false` and gone from the program.

/// What a program with failpoints in it holds, and no other: whoever looks at a binary finds it.
#[cfg(feature = "failpoints")]
const MARK: &str = "natter_failpoints_are_compiled_in";

/// Whether the failpoint `name` is to spoil this here and now, as the variable `FAILPOINTS` says
/// (`drop=5%return;swap=return`, the syntax of the crate `fail`).
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) -> bool {
    static SET_UP: std::sync::Once = std::sync::Once::new();
    SET_UP.call_once(|| {
        // It would take them down when dropped; they hold as long as the process.
        std::mem::forget(fail::FailScenario::setup());
        tracing::warn!(mark = MARK, armed = ?fail::list(), "failpoints");
    });
    fail::eval(name, |_| ()).is_some()
}

/// Never: this program has no failpoints.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn hit(_name: &str) -> bool {
    false
}
