//! What a template writes, as Django writes it: escaping, `True` and `None`, and Django's filters.

use std::fmt::{Display, Write};

use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, Value};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Django's filters that pages may use.
pub(super) const NAMES: [&str; 20] = [
    "capfirst",
    "default",
    "default_if_none",
    "escape",
    "escapejs",
    "first",
    "join",
    "json_script",
    "last",
    "length",
    "linebreaksbr",
    "lower",
    "pluralize",
    "reverse",
    "safe",
    "title",
    "truncatechars",
    "upper",
    "urlencode",
    "yesno",
];

/// What Python's `quote` keeps, without its `/`.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const KEPT_WITH_SLASH: &AsciiSet = &KEPT.remove(b'/');

/// Whether a page may use it.
pub(super) fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Makes a fresh environment speak Django. `escape`, `first`, `join`, `last`, `lower`, `reverse`,
/// `safe`, `title` and `upper` are the engine's own.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.set_formatter(format);
    environment.add_function("static", |path: String| format!("/static/{}", utf8_percent_encode(&path, KEPT_WITH_SLASH)));
    environment.add_filter("capfirst", capfirst);
    environment.add_filter("default", |value: Value, other: Value| if value.is_true() { value } else { other });
    environment.add_filter("default_if_none", |value: Value, other: Value| if value.is_none() { other } else { value });
    environment.add_filter("escapejs", |text: String| Value::from_safe_string(escape_js(&text)));
    environment.add_filter("json_script", json_script);
    environment.add_filter("length", |value: &Value| value.len().unwrap_or(0));
    environment.add_filter("linebreaksbr", linebreaksbr);
    environment.add_filter("pluralize", pluralize);
    environment.add_filter("truncatechars", truncatechars);
    environment.add_filter("urlencode", |text: String, safe: Option<String>| {
        let kept = if safe.as_deref() == Some("") { KEPT } else { KEPT_WITH_SLASH };
        utf8_percent_encode(&text, kept).to_string()
    });
    environment.add_filter("yesno", yesno);
}

/// Writes a value where `{{ … }}` stands.
fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_undefined() {
        return Ok(());
    }
    let text = if value.is_none() {
        "None".to_owned()
    } else if value.kind() == minijinja::value::ValueKind::Bool {
        if value.is_true() { "True" } else { "False" }.to_owned()
    } else {
        value.to_string()
    };
    let escapes = !value.is_safe() && matches!(state.auto_escape(), AutoEscape::Html);
    let written = if escapes { write!(out, "{}", Escaped(&text)) } else { out.write_str(&text) };
    written.map_err(|error| Error::new(ErrorKind::WriteFailure, "a page could not be written").with_source(error))
}

/// Text as Django escapes it.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#x27;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// Within a string of a script: nothing that ends the string, the script or the line.
fn escape_js(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, character| {
        if character.is_control() || "\\'\"><&=-;`\u{2028}\u{2029}".contains(character) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{:04X}", u32::from(character));
        } else {
            out.push(character);
        }
        out
    })
}

/// The value as JSON in a script element that no browser runs; scripts find it by its id.
fn json_script(value: &Value, id: Option<String>) -> Result<Value, Error> {
    let nothing = Value::from(());
    let json = serde_json::to_string(if value.is_undefined() { &nothing } else { value })
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let json = json.replace('&', "\\u0026").replace('<', "\\u003C").replace('>', "\\u003E");
    let id = id.map_or(String::new(), |id| format!(" id=\"{}\"", Escaped(&id)));
    Ok(Value::from_safe_string(format!("<script{id} type=\"application/json\">{json}</script>")))
}

fn linebreaksbr(value: &Value) -> Value {
    let text = value.to_string();
    let text = if value.is_safe() { text } else { Escaped(&text).to_string() };
    Value::from_safe_string(text.replace("\r\n", "\n").replace('\n', "<br>"))
}

fn capfirst(value: &Value) -> String {
    let text = value.to_string();
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

/// So many characters at most, the last one an ellipsis where some are missing.
fn truncatechars(text: String, most: usize) -> String {
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// `s`, or the ends given as `one,many` or `many`, by a number or a list's length.
fn pluralize(value: &Value, ends: Option<String>) -> String {
    let ends = ends.unwrap_or_else(|| "s".to_owned());
    let (one, many) = ends.split_once(',').unwrap_or(("", &ends));
    let count = value.as_i64().or_else(|| value.len().map(|length| length as i64)).unwrap_or(0);
    if count == 1 { one.to_owned() } else { many.to_owned() }
}

/// One of `yes,no,perhaps`.
fn yesno(value: &Value, words: Option<String>) -> String {
    let words = words.unwrap_or_else(|| "yes,no,maybe".to_owned());
    let mut words = words.split(',');
    let (yes, no) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let word = if value.is_none() { words.next().unwrap_or(no) } else { no };
    if value.is_true() { yes.to_owned() } else { word.to_owned() }
}
