//! What a persister can be told, with its defaults.

use std::time::Duration;

use natter_shared::config::Config;
use tokio_util::sync::CancellationToken;

use crate::erasure::LAST_WORDS;

/// How the persister works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Joining an unknown open group makes it.
    pub open_groups: bool,
    /// Events projected in one transaction at most.
    pub batch: usize,
    /// How long a shard's lease holds without being renewed.
    pub lease_ttl: Duration,
    /// Calls answered at the same time.
    pub rpc_concurrency: usize,
    /// Members a group may be created with, its owner included.
    pub max_group_members: usize,
    /// Groups of a user, without those for two, from which on the user makes no more; those counted, from which on none for two.
    pub max_groups: usize,
    /// Groups, left ones included, that a user makes in a day.
    pub max_groups_made_per_day: usize,
    /// Groups of a user, without those for two, from which on others bring the user into no more.
    pub max_groups_by_others: usize,
    /// Notifications of an inbox that are counted, the newest ones.
    pub inbox_counted: u32,
    /// Notifications that one page of an inbox is looked for in; the next page goes on after them.
    pub inbox_looked_through: u32,
    /// How often each shard's log is checked against the checkpoint, beside each reconnect.
    pub check_interval: Duration,
    /// How long changes of inboxes are gathered before they are counted and announced.
    pub inbox_debounce: Duration,
    /// How long messages are kept in SQL; unset, for good.
    pub keep_messages: Option<Duration>,
    /// How long notifications are kept in SQL; unset, for good.
    pub keep_notifications: Option<Duration>,
    /// How often what is too old is looked for.
    pub retention_interval: Duration,
    /// How often requests to erase a user are looked for.
    pub erasure_interval: Duration,
    /// How long what users said before they were disconnected may take to be stored.
    pub last_words: Duration,
    /// At its end it stays until all that the logs have is applied, for a while, or until this is cancelled; and it takes leases of
    /// others only when those have been silent for long: nobody else goes on with the logs.
    pub apply_all: Option<CancellationToken>,
    /// A log that was used, and that the database knows nothing of, is taken all the same.
    pub without_history: bool,
    /// The database.
    pub database: DatabaseOptions,
}

impl Options {
    /// As the config says.
    pub fn of(config: &Config, database: DatabaseOptions) -> Self {
        Self {
            open_groups: config.groups.open,
            batch: config.persister.batch,
            lease_ttl: config.persister.lease_ttl,
            rpc_concurrency: config.persister.rpc_concurrency,
            max_group_members: config.limits.group_members,
            max_groups: config.limits.groups_per_connection,
            max_groups_made_per_day: config.limits.groups_made_per_day,
            max_groups_by_others: config.limits.groups_by_others.min(config.limits.groups_per_connection),
            inbox_counted: config.limits.inbox_counted,
            keep_messages: config.retention.messages,
            keep_notifications: config.retention.notifications,
            without_history: config.persister.without_history,
            database,
            ..Self::default()
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            open_groups: true,
            batch: 2000,
            lease_ttl: Duration::from_secs(3),
            rpc_concurrency: 512,
            max_group_members: 1000,
            max_groups: 1000,
            max_groups_made_per_day: 1000,
            max_groups_by_others: 500,
            inbox_counted: 10_000,
            inbox_looked_through: 10_000,
            check_interval: Duration::from_secs(30),
            inbox_debounce: Duration::from_millis(100),
            keep_messages: None,
            keep_notifications: None,
            retention_interval: Duration::from_mins(10),
            erasure_interval: Duration::from_secs(1),
            last_words: LAST_WORDS,
            apply_all: None,
            without_history: false,
            database: DatabaseOptions::default(),
        }
    }
}

/// Where the database is and how it is talked to.
#[derive(Clone)]
pub struct DatabaseOptions {
    /// `sqlite:<path>` or `postgres://…`.
    pub url: String,
    /// Connections at most.
    pub max_connections: u32,
    /// How long a free connection is waited for; short, so that an absent database shows quickly.
    pub acquire_timeout: Duration,
}

impl Default for DatabaseOptions {
    fn default() -> Self {
        Self { url: "sqlite:natter.db".into(), max_connections: 16, acquire_timeout: Duration::from_secs(2) }
    }
}

// By hand: the URL may hold a password.
impl std::fmt::Debug for DatabaseOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseOptions")
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each key has a value of its own, so that none is taken for another.
    #[test]
    fn each_key_of_the_config_says_what_it_is_for() {
        let mut config = Config::default();
        config.groups.open = false;
        (config.persister.batch, config.persister.rpc_concurrency) = (11, 12);
        config.persister.lease_ttl = Duration::from_secs(13);
        (config.limits.group_members, config.limits.inbox_counted) = (14, 15);
        (config.limits.groups_per_connection, config.limits.groups_by_others, config.limits.groups_made_per_day) = (17, 16, 22);
        (config.retention.messages, config.retention.notifications) = (Some(Duration::from_hours(18)), Some(Duration::from_hours(19)));
        let database = DatabaseOptions { url: "sqlite:20.db".into(), max_connections: 20, acquire_timeout: Duration::from_secs(21) };
        let options = Options::of(&config, database);
        assert_eq!((options.open_groups, options.batch, options.rpc_concurrency), (false, 11, 12));
        assert_eq!((options.lease_ttl, options.max_group_members, options.inbox_counted), (Duration::from_secs(13), 14, 15));
        assert_eq!((options.max_groups, options.max_groups_by_others, options.max_groups_made_per_day), (17, 16, 22));
        assert_eq!(options.keep_messages, Some(Duration::from_hours(18)));
        assert_eq!(options.keep_notifications, Some(Duration::from_hours(19)));
        assert_eq!((options.database.url.as_str(), options.database.max_connections), ("sqlite:20.db", 20));
        config.limits.groups_by_others = 100;
        assert_eq!(Options::of(&config, DatabaseOptions::default()).max_groups_by_others, 17, "more than all of a user's is as all");
        (config.retention.messages, config.retention.notifications) = (None, None);
        let kept = Options::of(&config, DatabaseOptions::default());
        assert_eq!((kept.keep_messages, kept.keep_notifications), (None, None), "for good");
    }
}
