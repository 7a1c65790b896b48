//! What the config says about the broker, as each broker wants to hear it.

use crate::broker::{
    embedded::EmbeddedOptions,
    nats::{NatsAuth, NatsOptions},
};

use super::{Config, DEFAULT_NATS_URL, Nats};

impl Config {
    /// How to reach NATS.
    pub fn nats_options(&self) -> NatsOptions {
        let nats = &self.nats;
        let url = nats.url.as_deref().unwrap_or(DEFAULT_NATS_URL);
        NatsOptions {
            urls: url.split(',').map(|server| server.trim().to_owned()).collect(),
            shards: nats.shards,
            replicas: nats.replicas,
            max_bytes_per_shard: nats.max_bytes_per_shard,
            max_age: nats.max_age,
            auth: auth(nats),
            tls_required: nats.tls_required,
            ca_file: nats.tls_ca_file.clone(),
            max_in_flight: nats.in_flight,
            batch: nats.batch,
            subscription_capacity: nats.subscription_capacity,
            max_calls: self.persister.rpc_concurrency,
            ..NatsOptions::default()
        }
    }

    /// How the standalone binary keeps its own log.
    pub fn embedded_options(&self) -> EmbeddedOptions {
        EmbeddedOptions {
            shards: self.nats.shards,
            max_bytes_per_shard: self.nats.max_bytes_per_shard,
            max_age: self.nats.max_age,
            max_in_flight: self.nats.in_flight,
            subscription_capacity: self.nats.subscription_capacity,
            max_calls: self.persister.rpc_concurrency,
            ..EmbeddedOptions::default()
        }
    }
}

/// Which way to sign in; `check` has seen that there is one at most.
fn auth(nats: &Nats) -> NatsAuth {
    if let (Some(user), Some(password)) = (&nats.user, &nats.password) {
        NatsAuth::UserPassword { user: user.clone(), password: password.expose().to_owned() }
    } else if let Some(token) = &nats.token {
        NatsAuth::Token(token.expose().to_owned())
    } else if let Some(seed) = &nats.nkey_seed {
        NatsAuth::NkeySeed(seed.expose().to_owned())
    } else if let Some(file) = &nats.creds_file {
        NatsAuth::CredentialsFile(file.clone())
    } else {
        NatsAuth::None
    }
}
