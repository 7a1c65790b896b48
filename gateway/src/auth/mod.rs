//! Who a request is from: tokens (`token`), where they come in a request (`credentials`), from
//! which pages they may come (`origin`), and proof that a form is from such a page (`csrf`).

mod credentials;
mod csrf;
mod identity;
pub mod origin;
mod token;

pub use credentials::{By, CSRF_COOKIE, SESSION_COOKIE, SignedIn, cookie};
pub use csrf::Csrf;
pub use identity::{Identity, MAX_NAME_CHARS};
pub use token::{AuthError, Authenticator, AuthenticatorError};

/// All that a client is told of a token that does not hold; the log knows why.
pub const UNAUTHORIZED: &str = "the token is missing, has expired or is not for this service";

#[cfg(test)]
mod corpus;
