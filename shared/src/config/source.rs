//! Where values come from: a file, then the environment over it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

use config::{Environment, File, FileFormat, Map, Value, ValueKind};

use super::{
    error::Problem,
    secret::Secret,
    value::{Codec, given},
};

const PREFIX: &str = "NATTER_";

/// Variables that are not keys: the config file of the commands, and what tests are told.
const OTHERS: [&str; 2] = ["NATTER_CONFIG", "NATTER_TEST_"];

/// A check of a parsed value: what is wrong with it, if anything.
pub(super) type Check<'a, T> = Option<&'a dyn Fn(&T) -> Option<String>>;

/// The values that were given, until each section has taken its own, and what is wrong with them.
pub(super) struct Values {
    root: Map<String, Value>,
    file: Option<String>,
    /// The keys that were set, with their origin.
    set: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Values {
    /// Reads the file and the environment, of which only `known` keys are let in.
    pub(super) fn read(file: Option<&Path>, env: &HashMap<String, String>, known: &BTreeSet<String>) -> Self {
        let mut values =
            Self { root: Map::new(), file: file.map(|file| file.display().to_string()), set: BTreeMap::new(), problems: Vec::new() };
        let mut builder = config::Config::builder();
        if let Some(file) = file {
            match fs::read_to_string(file) {
                // One bad line must not hide the rest of the mistakes, so it is read on its own.
                Ok(text) => match config::Config::builder().add_source(File::from_str(&text, FileFormat::Toml)).build() {
                    Ok(_parsed) => builder = builder.add_source(File::from_str(&text, FileFormat::Toml)),
                    Err(error) => values.note_file(file, &without_snippet(&error.to_string())),
                },
                Err(error) => values.note_file(file, &format!("cannot be read: {error}")),
            }
        }
        let mut variables = Map::new();
        for (name, value) in env {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            if OTHERS.iter().any(|other| name.starts_with(other)) || is_kubernetes(rest, value) {
                continue;
            }
            let key = rest.to_lowercase().replace("__", ".");
            if known.contains(&key) && *rest == rest.to_uppercase() {
                variables.insert(name.clone(), value.clone());
            } else {
                values.problems.push(Problem { key: name.clone(), message: "is not a key of the config".to_owned(), origin: None });
            }
        }
        let environment = Environment::with_prefix("NATTER").prefix_separator("_").separator("__").source(Some(variables));
        match builder.add_source(environment).build().map(|built| built.cache.kind) {
            Ok(ValueKind::Table(root)) => values.root = root,
            Ok(_other) => {}
            Err(error) => values.note("environment", &error.to_string(), None),
        }
        values
    }

    /// Takes a value, or the default where none or a wrong one was given.
    pub(super) fn take<T, C: Codec<T>>(&mut self, section: &str, key: &str, default: T, check: Check<'_, T>) -> T {
        let path = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        let direct = self.remove(section, key);
        let from_file = if C::SECRET { self.remove(section, &format!("{key}_file")) } else { None };
        let value = match (direct, from_file) {
            (Some(_), Some(_)) => {
                self.note(&path, &format!("is set, and {path}_file too: give one of them"), None);
                return default;
            }
            (Some(value), None) => {
                let origin = self.origin(&path, &value);
                self.set.insert(path.clone(), origin);
                value
            }
            (None, Some(value)) => {
                let file_key = format!("{path}_file");
                let origin = self.origin(&file_key, &value);
                self.set.insert(path.clone(), origin.clone());
                match value.into_string().map_err(|_| "is not a path".to_owned()).and_then(|file| read_secret(file.as_ref())) {
                    Ok(secret) => Value::new(None, secret.expose()),
                    Err(problem) => {
                        self.note(&file_key, &problem, Some(origin));
                        return default;
                    }
                }
            }
            (None, None) => return default,
        };
        let subject = if C::SECRET { "the value".to_owned() } else { given(&value) };
        let parsed = C::parse(&value).and_then(|parsed| match check.and_then(|check| check(&parsed)) {
            Some(problem) => Err(problem),
            None => Ok(parsed),
        });
        parsed.unwrap_or_else(|problem| {
            self.problem(&path, &format!("{subject} {problem}"));
            default
        })
    }

    /// Whether the key was set, well or badly.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.set.contains_key(key)
    }

    /// Notes a mistake in the value of a key.
    pub(super) fn problem(&mut self, key: &str, message: &str) {
        let origin = self.set.get(key).cloned();
        self.note(key, message, origin);
    }

    /// Every mistake, with the keys that nobody has taken.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        let mut unknown = Vec::new();
        for (name, value) in std::mem::take(&mut self.root) {
            match value.kind {
                ValueKind::Table(rest) => unknown.extend(rest.into_keys().map(|key| format!("{name}.{key}"))),
                _other => unknown.push(name),
            }
        }
        unknown.sort();
        for key in unknown {
            self.note(&key, "is not a key of the config", self.file.clone());
        }
        self.problems
    }

    fn remove(&mut self, section: &str, key: &str) -> Option<Value> {
        if section.is_empty() {
            return self.root.remove(key);
        }
        match &mut self.root.get_mut(section)?.kind {
            ValueKind::Table(table) => table.remove(key),
            _other => None,
        }
    }

    fn origin(&self, path: &str, value: &Value) -> String {
        match (value.origin(), &self.file) {
            (None, Some(file)) => file.clone(),
            (Some(_), _) | (None, None) => variable(path),
        }
    }

    fn note_file(&mut self, file: &Path, message: &str) {
        self.note(&file.display().to_string(), message, None);
    }

    fn note(&mut self, key: &str, message: &str, origin: Option<String>) {
        self.problems.push(Problem { key: key.to_owned(), message: message.to_owned(), origin });
    }
}

/// The variable of a key.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.to_uppercase().replace('.', "__"))
}

/// The secret in a file, without the newline that editors put at the end.
pub(super) fn read_secret(file: &Path) -> Result<Secret, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{:?} cannot be read: {error}", file.display().to_string()))?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() { Err(format!("{:?} is empty", file.display().to_string())) } else { Ok(Secret::new(text)) }
}

/// Kubernetes tells each pod of the services beside it. One named `natter`, or `natter-…`, does so
/// in variables that look like ours.
fn is_kubernetes(rest: &str, value: &str) -> bool {
    if rest.contains("__") {
        return false;
    }
    let rest = format!("_{rest}");
    let port_of_protocol = rest.split_once("_PORT_").is_some_and(|(_, port)| {
        let mut parts = port.split('_');
        let number = parts.next().is_some_and(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
        number && parts.next().is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol))
    });
    let service = rest.ends_with("_SERVICE_HOST") || rest.ends_with("_SERVICE_PORT") || rest.contains("_SERVICE_PORT_");
    service || port_of_protocol || (rest.ends_with("_PORT") && value.contains("://"))
}

/// A TOML error shows the line it is about; that line may hold a secret.
fn without_snippet(error: &str) -> String {
    let lines: Vec<&str> = error.lines().filter(|line| !line.contains('|')).map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(": ")
}
