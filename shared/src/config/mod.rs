//! The config: one schema for all binaries, read from a file and the environment, checked as a
//! whole before anything is bound.
//!
//! `schema` declares the keys, `value` how values are written, `source` reads them, `check` looks
//! at what they mean together.

mod check;
mod connect;
pub mod database_url;
mod error;
mod issuer;
mod network;
mod schema;
mod secret;
mod section;
mod source;
mod value;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    env, fmt,
    path::{Path, PathBuf},
};

pub use self::{
    error::{ConfigErrors, Problem},
    network::Network,
    schema::{
        Algorithm, Auth, DEFAULT_NATS_URL, Database, Gateway, Groups, Http, Issuer, Limits, LogFormat, Nats, Persister, PublicKey,
        Retention, Telemetry,
    },
    secret::Secret,
    section::{Key, KeySection},
};
use self::{
    section::Section,
    source::Values,
    value::{Codec, Plain},
};

/// Which binary the config is for: some defaults and some requirements differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Gateway and persister in one process.
    Standalone,
    /// A gateway.
    Gateway,
    /// A persister.
    Persister,
}

/// `iss` and `aud` of tokens where none are configured.
pub const DEFAULT_ISSUER: &str = "natter";

/// The standalone binary's database in its data folder, unless it is told of another one.
pub const DATABASE_FILE: &str = "natter.db";

/// Declares the config by its sections, in the order in which they are shown.
macro_rules! config {
    ($($(#[doc = $doc:literal])* $field:ident: $section:ident,)*) => {
        /// The whole config.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            /// Folder of the standalone binary's files. It may hold foreign files.
            pub data_dir: PathBuf,
            $($(#[doc = $doc])* pub $field: $section,)*
        }

        impl Default for Config {
            fn default() -> Self {
                Self { data_dir: PathBuf::from("./data"), $($field: $section::default(),)* }
            }
        }

        impl Config {
            /// Takes all values; what is wrong is noted in `values` and left at its default.
            fn read(values: &mut Values) -> Self {
                Self {
                    data_dir: values.take::<PathBuf, Plain>("", "data_dir", Self::default().data_dir, None),
                    $($field: $section::read(values),)*
                }
            }

            fn sections() -> Vec<KeySection> {
                vec![$($section::describe(),)*]
            }

            fn show_sections(&self, out: &mut String) {
                $(show(out, &self.$field);)*
            }
        }

        /// Every key, as `section.key`.
        fn known_keys() -> BTreeSet<String> {
            let mut keys = BTreeSet::from(["data_dir".to_owned()]);
            $(keys.extend($section::keys());)*
            keys
        }
    };
}

config! {
    /// HTTP and WebSocket.
    http: Http,
    /// NATS.
    nats: Nats,
    /// SQL.
    database: Database,
    /// Signing in.
    auth: Auth,
    /// Groups.
    groups: Groups,
    /// Limits.
    limits: Limits,
    /// The gateway's own.
    gateway: Gateway,
    /// The persister's own.
    persister: Persister,
    /// What the database keeps.
    retention: Retention,
    /// Logs.
    telemetry: Telemetry,
}

impl Config {
    /// Reads the file, if any, and the process's environment over it.
    ///
    /// The answer is checked and complete: what depends on the role is filled in.
    pub fn load(file: Option<&Path>, role: Role) -> Result<Self, ConfigErrors> {
        let env = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        Self::load_from(file, &env.collect(), role)
    }

    /// Like [`Config::load`], with an environment of one's own.
    pub fn load_from(file: Option<&Path>, env: &HashMap<String, String>, role: Role) -> Result<Self, ConfigErrors> {
        let mut values = Values::read(file, env, &known_keys());
        let mut config = Self::read(&mut values);
        config.fill_in(role, &values);
        check::check(&config, role, &mut values);
        let problems = values.into_problems();
        if problems.is_empty() { Ok(config) } else { Err(ConfigErrors(problems)) }
    }

    /// Defaults that depend on the role, or on other keys.
    fn fill_in(&mut self, role: Role, values: &Values) {
        match role {
            Role::Standalone => {
                if !values.is_set("auth.dev_login") {
                    self.auth.dev_login = self.http.listen.ip().is_loopback() && !self.http.is_proxied() && self.auth.signs_with_secret();
                }
                if self.database.url.is_none() {
                    self.database.url = Some(self.own_database());
                }
            }
            Role::Gateway | Role::Persister => {
                self.nats.url.get_or_insert_with(|| DEFAULT_NATS_URL.to_owned());
            }
        }
        self.auth.issuer.get_or_insert_with(|| DEFAULT_ISSUER.to_owned());
        self.auth.audience.get_or_insert_with(|| DEFAULT_ISSUER.to_owned());
    }

    fn own_database(&self) -> Secret {
        Secret::new(database_url::of_sqlite_file(&self.data_dir.join(DATABASE_FILE)))
    }

    /// Whether the database is the one in the data folder, however its URL is written.
    pub fn has_own_database(&self) -> bool {
        let file = self.database.url.as_ref().and_then(|url| database_url::sqlite_file(url.expose()));
        let file = file.map(|file| database_url::of_sqlite_file(&file));
        file.as_deref() == Some(self.own_database().expose())
    }

    /// What is allowed but should be noticed, to be logged at start.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.auth.dev_login && !self.http.listen.ip().is_loopback() {
            warnings.push(format!(
                "auth.dev_login is on while http.listen is {}: ANYBODY who reaches it signs in as ANYBODY. Switch it off.",
                self.http.listen
            ));
        }
        if self.auth.dev_login && self.http.is_proxied() {
            let warning = "auth.dev_login is on and a proxy is in front: ANYBODY who reaches that signs in as ANYBODY. Switch it off.";
            warnings.push(warning.to_owned());
        }
        warnings
    }

    /// Every key there is, by section, for documents.
    pub fn describe() -> Vec<KeySection> {
        let data_dir = Key {
            section: "",
            name: "data_dir",
            about: "Folder of the standalone binary's files: its log, its database, its sign-in key, its lock, its holder.\n\
                Made if absent, for its user only. It may hold other files."
                .to_owned(),
            shape: <Plain as Codec<PathBuf>>::SHAPE,
            default: Plain::show(&Self::default().data_dir),
            range: None,
            secret: false,
        };
        let mut sections = vec![KeySection { name: "", about: String::new(), keys: vec![data_dir] }];
        sections.extend(Self::sections());
        sections
    }

    /// The variable of a key: of `http` and `listen` it is `NATTER_HTTP__LISTEN`.
    pub fn variable_of(section: &str, name: &str) -> String {
        source::variable(&if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") })
    }

    /// The config in TOML, every key of it, with secrets masked.
    pub fn effective_toml(&self) -> String {
        let mut out = String::new();
        line(&mut out, "data_dir", Plain::show(&self.data_dir).as_deref());
        self.show_sections(&mut out);
        out
    }
}

impl Http {
    /// Whether the config says that a proxy is in front.
    pub fn is_proxied(&self) -> bool {
        self.public_url.is_some() || !self.trusted_proxies.is_empty()
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.effective_toml())
    }
}

fn show<S: Section>(out: &mut String, section: &S) {
    out.extend(["\n[", S::NAME, "]\n"]);
    for entry in section.entries() {
        line(out, entry.key, entry.value.as_deref());
    }
}

fn line(out: &mut String, key: &str, value: Option<&str>) {
    match value {
        Some(value) => out.extend([key, " = ", value, "\n"]),
        None => out.extend(["# ", key, " is not set\n"]),
    }
}
