//! Who a request is from. Where it says so (`credentials`): by a bearer token (`token`, with its
//! `claims`, checked with a `key` of the config or of those that the issuer publishes, `jwks`), or by
//! our own `cookie`. From which pages that may come (`origin`), and proof that a form is
//! from such a page (`csrf`).

mod claims;
mod cookie;
mod credentials;
mod csrf;
mod derive;
mod identity;
mod jwks;
mod key;
pub mod origin;
mod token;

pub use cookie::Sessions;
pub use credentials::{By, CSRF_COOKIE, SESSION_COOKIE, SignedIn, cookie};
pub use csrf::Csrf;
pub use identity::Identity;
pub use token::{AuthError, Authenticator, AuthenticatorError};

/// All that a client is told of a token that does not hold; the log knows why.
pub const UNAUTHORIZED: &str = "the token is missing, has expired or is not for this service";

#[cfg(test)]
mod corpus;
