//! How values are written: numbers, durations (`25s`), bytes (`64KiB`), lists.

use std::{fmt::Display, net::SocketAddr, path::PathBuf, time::Duration};

use config::{Value, ValueKind};

use super::{
    network::Network,
    schema::{Algorithm, Issuer, LogFormat, PublicKey},
    secret::{MASK, Secret},
};

/// 1,024 bytes.
pub(super) const KIB: usize = 1024;
/// 1,024 KiB.
pub(super) const MIB: u64 = 1024 * 1024;
/// 1,024 MiB.
pub(super) const GIB: u64 = 1024 * MIB;

/// Reads and shows a `T`.
pub(super) trait Codec<T> {
    /// May also be named by the file that holds it, and is masked in messages.
    const SECRET: bool = false;

    /// What its values are, as `a duration, such as 25s`: for documents, and after "is not".
    const SHAPE: &'static str;

    /// The value, or what is wrong with it, to be put after the value.
    fn parse(value: &Value) -> Result<T, String>;

    /// The value in TOML; none if unset.
    fn show(value: &T) -> Option<String>;
}

/// The usual way of a type.
pub(super) enum Plain {}

/// Bytes, as a number or with `KiB`, `MiB` or `GiB`.
pub(super) enum Bytes {}

/// The text of a scalar: the environment has only text, and a file's number may stand for it.
fn text(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::String(text) => Some(text.trim().to_owned()),
        ValueKind::Boolean(value) => Some(value.to_string()),
        ValueKind::I64(value) => Some(value.to_string()),
        ValueKind::I128(value) => Some(value.to_string()),
        ValueKind::U64(value) => Some(value.to_string()),
        ValueKind::U128(value) => Some(value.to_string()),
        ValueKind::Float(value) => Some(value.to_string()),
        ValueKind::Nil | ValueKind::Table(_) | ValueKind::Array(_) => None,
    }
}

/// What was given, for messages.
pub(super) fn given(value: &Value) -> String {
    match text(value) {
        Some(text) => format!("{text:?}"),
        None => "this".to_owned(),
    }
}

/// A string in TOML.
fn quoted(value: impl Display) -> String {
    let mut out = String::from('"');
    for c in value.to_string().chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.extend(format!("\\u{:04x}", u32::from(c)).chars()),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A codec of `Plain` for a type that is parsed from a string.
macro_rules! plain {
    ($($type:ty: $parse:expr, $shape:literal, $show:expr;)*) => {$(
        impl Codec<$type> for Plain {
            const SHAPE: &'static str = $shape;

            fn parse(value: &Value) -> Result<$type, String> {
                let parse: fn(&str) -> Option<$type> = $parse;
                text(value).and_then(|text| parse(&text)).ok_or_else(|| concat!("is not ", $shape).to_owned())
            }

            fn show(value: &$type) -> Option<String> {
                let show: fn(&$type) -> String = $show;
                Some(show(value))
            }
        }
    )*};
}

plain! {
    bool: |text| text.parse().ok(), "true or false", ToString::to_string;
    u8: number, "a whole number in range", ToString::to_string;
    u16: number, "a whole number in range", ToString::to_string;
    u32: number, "a whole number in range", ToString::to_string;
    u64: number, "a whole number in range", ToString::to_string;
    usize: number, "a whole number in range", ToString::to_string;
    SocketAddr: |text| text.parse().ok(), "an address and port, such as 127.0.0.1:8080", |value| quoted(value);
    PathBuf: |text| (!text.is_empty()).then(|| text.into()), "a path", |path| quoted(path.display());
    String: |text| (!text.is_empty()).then(|| text.to_owned()), "text that says something", |value| quoted(value);
    Duration: parse_duration, "a duration, such as 500ms, 25s, 10m, 72h or 7d", |value| quoted(show_duration(*value));
    Algorithm: parse_algorithm, "one of HS256, RS256, ES256, EdDSA", |value| quoted(value.as_str());
    LogFormat: parse_format, "one of auto, human, json", |value| quoted(show_format(*value));
    Network: |text| text.parse().ok(), "an address range, such as 10.0.0.0/8 or 192.0.2.7", |value| quoted(value);
}

impl Codec<Secret> for Plain {
    const SECRET: bool = true;
    const SHAPE: &'static str = "a secret";

    fn parse(value: &Value) -> Result<Secret, String> {
        match &value.kind {
            // Taken as it is: a space at its end may be part of it.
            ValueKind::String(text) if !text.is_empty() => Ok(Secret::new(text.clone())),
            _other => Err("is not text that says something".to_owned()),
        }
    }

    fn show(_: &Secret) -> Option<String> {
        Some(quoted(MASK))
    }
}

impl Codec<PublicKey> for Plain {
    // Its text is long, and may be a private key by mistake.
    const SECRET: bool = true;
    const SHAPE: &'static str = "a secret";

    fn parse(value: &Value) -> Result<PublicKey, String> {
        match &value.kind {
            ValueKind::String(text) => PublicKey::from_pem(text).map_err(str::to_owned),
            _other => Err("is not text".to_owned()),
        }
    }

    fn show(value: &PublicKey) -> Option<String> {
        Some(quoted(value.as_pem()))
    }
}

/// Unset, or `""`, is none.
impl<T> Codec<Option<T>> for Plain
where
    Plain: Codec<T>,
{
    const SECRET: bool = <Plain as Codec<T>>::SECRET;
    const SHAPE: &'static str = <Plain as Codec<T>>::SHAPE;

    fn parse(value: &Value) -> Result<Option<T>, String> {
        if matches!(&value.kind, ValueKind::String(text) if text.is_empty()) {
            return Ok(None);
        }
        Plain::parse(value).map(Some)
    }

    fn show(value: &Option<T>) -> Option<String> {
        value.as_ref().and_then(Plain::show)
    }
}

/// A codec for lists: an array in a file, or one string with commas.
macro_rules! list {
    ($($type:ty: $shape:literal),*) => {$(
        impl Codec<Vec<$type>> for Plain {
            const SHAPE: &'static str = $shape;

            fn parse(value: &Value) -> Result<Vec<$type>, String> {
                let items = match &value.kind {
                    ValueKind::Array(items) => items.clone(),
                    ValueKind::String(text) => {
                        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                        items.map(|item| Value::new(None, item)).collect()
                    }
                    _other => return Err("is not a list".to_owned()),
                };
                items.iter().map(|item| Plain::parse(item).map_err(|problem| format!("has {}, which {problem}", given(item)))).collect()
            }

            fn show(value: &Vec<$type>) -> Option<String> {
                let items: Vec<String> = value.iter().filter_map(Plain::show).collect();
                Some(format!("[{}]", items.join(", ")))
            }
        }
    )*};
}
list!(String: "a list", Network: "a list of address ranges");

impl Codec<Vec<Issuer>> for Plain {
    const SHAPE: &'static str = "tables";

    fn parse(value: &Value) -> Result<Vec<Issuer>, String> {
        let ValueKind::Array(items) = &value.kind else {
            return Err("is not a list of tables; it can be set in the file only, as [[auth.issuers]]".to_owned());
        };
        items.iter().map(super::issuer::parse).collect()
    }

    fn show(value: &Vec<Issuer>) -> Option<String> {
        let show = |issuer: &Issuer| {
            let fields = [
                ("issuer", Plain::show(&issuer.issuer)),
                ("audience", Plain::show(&issuer.audience)),
                ("algorithm", Plain::show(&issuer.algorithm)),
                ("secret", Plain::show(&issuer.secret)),
                ("public_key", Plain::show(&issuer.public_key)),
                ("jwks_url", Plain::show(&issuer.jwks_url)),
            ];
            let fields: Vec<String> = fields.into_iter().filter_map(|(key, value)| Some(format!("{key} = {}", value?))).collect();
            format!("{{ {} }}", fields.join(", "))
        };
        let items: Vec<String> = value.iter().map(show).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// A codec of `Bytes` for a number.
macro_rules! bytes {
    ($($type:ty),*) => {$(
        impl Codec<$type> for Bytes {
            const SHAPE: &'static str = "a number of bytes, such as 65536, 64KiB, 1MiB or 1GiB";

            fn parse(value: &Value) -> Result<$type, String> {
                text(value)
                    .and_then(|text| parse_bytes(&text))
                    .and_then(|bytes| bytes.try_into().ok())
                    .ok_or_else(|| format!("is not {}", <Self as Codec<$type>>::SHAPE))
            }

            fn show(value: &$type) -> Option<String> {
                Some(show_bytes(*value as u64))
            }
        }
    )*};
}
bytes!(u64, usize);

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.replace('_', "").parse().ok()
}

/// Splits `25s` into 25 and `s`.
fn amount(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    Some((number(digits)?, unit.trim()))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (amount, unit) = amount(text)?;
    let seconds = |each: u64| amount.checked_mul(each).map(Duration::from_secs);
    match unit {
        "ms" => Some(Duration::from_millis(amount)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(86_400),
        "" if amount == 0 => Some(Duration::ZERO),
        _unit => None,
    }
}

fn show_duration(value: Duration) -> String {
    let seconds = value.as_secs();
    if value.subsec_nanos() != 0 {
        return format!("{}ms", value.as_millis());
    }
    let unit = [(86_400, "d"), (3600, "h"), (60, "m")].into_iter().find(|(each, _)| seconds > 0 && seconds.is_multiple_of(*each));
    match unit {
        Some((each, unit)) => format!("{}{unit}", seconds / each),
        None => format!("{seconds}s"),
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let (amount, unit) = amount(text)?;
    let each = match unit {
        "" | "B" => 1,
        "KiB" => KIB as u64,
        "MiB" => MIB,
        "GiB" => GIB,
        _unit => return None,
    };
    amount.checked_mul(each)
}

fn show_bytes(value: u64) -> String {
    let unit = [(GIB, "GiB"), (MIB, "MiB"), (KIB as u64, "KiB")].into_iter().find(|(each, _)| value > 0 && value.is_multiple_of(*each));
    match unit {
        Some((each, unit)) => quoted(format_args!("{}{unit}", value / each)),
        None => value.to_string(),
    }
}

fn parse_algorithm(text: &str) -> Option<Algorithm> {
    Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == text)
}

fn parse_format(text: &str) -> Option<LogFormat> {
    [LogFormat::Auto, LogFormat::Human, LogFormat::Json].into_iter().find(|format| show_format(*format) == text)
}

fn show_format(value: LogFormat) -> &'static str {
    match value {
        LogFormat::Auto => "auto",
        LogFormat::Human => "human",
        LogFormat::Json => "json",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_bytes_both_ways() {
        for (text, value) in [("500ms", Duration::from_millis(500)), ("25s", Duration::from_secs(25)), ("3d", Duration::from_hours(72))] {
            assert_eq!(parse_duration(text), Some(value));
            assert_eq!(show_duration(value), text);
        }
        assert_eq!(parse_duration("72h"), parse_duration("3d"));
        for bad in ["", "s", "25", "-1s", "1.5s", "25 parsecs", "99999999999999999999s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
        assert_eq!(parse_bytes("64KiB"), Some(65_536));
        assert_eq!(parse_bytes("1_000"), Some(1000));
        assert_eq!(show_bytes(65_536), "\"64KiB\"");
        assert_eq!(show_bytes(65_537), "65537");
        for bad in ["", "KiB", "64kb", "18446744073709551615GiB"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn strings_are_valid_toml() {
        assert_eq!(quoted("a\"b\\c\n"), r#""a\"b\\c\u000a""#);
    }
}
