//! What is said when NATS refuses us, or refuses something we do: the client tries again for ever, so
//! a line now and then has to tell the operator what is wrong, with whom, and what to do.

use std::time::{Duration, Instant};

use async_nats::{ClientError, Event, ServerError};
use parking_lot::Mutex;
use tracing::error;

use super::options::{NatsAuth, Role};

/// Between two lines of the same kind: four connections try again many times a second.
const EVERY: Duration = Duration::from_secs(30);

/// What NATS refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// Who we are.
    Identity,
    /// Something we do.
    Subject,
}

/// Who we are to NATS, and when we last complained.
pub(super) struct Refusals {
    service: &'static str,
    identity: String,
    said: Mutex<Said>,
}

/// When each kind was said last.
#[derive(Default)]
struct Said {
    identity: Option<Instant>,
    subject: Option<Instant>,
}

impl Refusals {
    pub(super) fn new(role: Role, auth: &NatsAuth) -> Self {
        let service = match role {
            Role::Gateway => "natter-gateway",
            Role::Persister => "natter-persister",
        };
        Self { service, identity: describe(auth), said: Mutex::default() }
    }

    /// Whether the event is a refusal; if so, all is said.
    pub(super) fn says(&self, connection: &'static str, event: &Event) -> bool {
        let (Some(refused), reason) = (refusal(event), event.to_string()) else { return false };
        {
            let mut said = self.said.lock();
            let slot = match refused {
                Refused::Identity => &mut said.identity,
                Refused::Subject => &mut said.subject,
            };
            if slot.is_some_and(|at| at.elapsed() < EVERY) {
                return true;
            }
            *slot = Some(Instant::now());
        }
        let (service, identity) = (self.service, &self.identity);
        match refused {
            Refused::Identity => error!(
                connection,
                service,
                identity,
                reason,
                "nats_refused: NATS does not know this identity; set nats.nkey_seed_file (NATTER_NATS__NKEY_SEED_FILE) to the seed \
                 whose public key its config has for {service} (deploy/nats.conf). Trying again"
            ),
            Refused::Subject => error!(
                connection,
                service,
                identity,
                reason,
                "nats_not_allowed: NATS knows this identity but does not allow it what {service} needs; compare the permissions with \
                 deploy/nats.conf, and whether it is another service's identity"
            ),
        }
        true
    }
}

fn refusal(event: &Event) -> Option<Refused> {
    let of = |text: &str| {
        let text = text.to_ascii_lowercase();
        if text.contains("permissions violation") {
            Some(Refused::Subject)
        } else if text.contains("authorization violation") || text.contains("authentication") {
            Some(Refused::Identity)
        } else {
            None
        }
    };
    match event {
        Event::ServerError(ServerError::AuthorizationViolation) => Some(Refused::Identity),
        Event::ServerError(ServerError::Other(text)) | Event::ClientError(ClientError::Other(text)) => of(text),
        Event::Connected
        | Event::Disconnected
        | Event::LameDuckMode
        | Event::Draining
        | Event::Closed
        | Event::SlowConsumer(_)
        | Event::ServerError(ServerError::SlowConsumer(_))
        | Event::ClientError(ClientError::MaxReconnects | ClientError::ServerNotInPool) => None,
    }
}

/// Who we say we are, without what proves it.
fn describe(auth: &NatsAuth) -> String {
    match auth {
        NatsAuth::None => "none is set".to_owned(),
        NatsAuth::UserPassword { user, .. } => format!("user {user}"),
        NatsAuth::Token(_) => "a token".to_owned(),
        NatsAuth::NkeySeed(seed) => match nkeys::KeyPair::from_seed(seed) {
            Ok(pair) => format!("nkey {}", pair.public_key()),
            Err(_) => "nkey, but nats.nkey_seed is no seed (SU…)".to_owned(),
        },
        NatsAuth::CredentialsFile(path) => format!("credentials {}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_told_by_its_public_key() {
        let pair = nkeys::KeyPair::new_user();
        let seed = pair.seed().unwrap();
        let said = describe(&NatsAuth::NkeySeed(seed.clone()));
        assert!(said.contains(&pair.public_key()) && !said.contains(&seed));
        assert!(describe(&NatsAuth::NkeySeed("nonsense".into())).contains("no seed"));
    }

    #[test]
    fn refusals_are_told_from_other_events() {
        let server = |text: &str| Event::ServerError(ServerError::Other(text.to_owned()));
        assert_eq!(refusal(&server("Permissions Violation for Publish to \"ctl\"")), Some(Refused::Subject));
        assert_eq!(refusal(&server("authorization violation")), Some(Refused::Identity));
        assert_eq!(refusal(&server("stale connection")), None);
        assert_eq!(refusal(&Event::Connected), None);
    }
}
