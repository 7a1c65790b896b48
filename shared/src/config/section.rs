//! How a section of the config is declared, read field by field, and shown.

use std::ops::RangeInclusive;

use super::{source::Values, value::Codec};

/// What is shown of a key.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The key within its section.
    pub(super) key: &'static str,
    /// Its value in TOML; none if unset.
    pub(super) value: Option<String>,
}

/// What there is to know of a key before anybody has set it, for documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its section; empty for what stands above all of them.
    pub section: &'static str,
    /// Its name within the section.
    pub name: &'static str,
    /// Its meaning: the lines of its doc comment.
    pub about: String,
    /// What its values are, as `a duration, such as 25s`.
    pub shape: &'static str,
    /// Its default in TOML; none if it is unset.
    pub default: Option<String>,
    /// The least and the greatest value in TOML, where it has bounds.
    pub range: Option<(String, String)>,
    /// Whether it is a secret: masked, and to be had from the file that `<name>_file` names.
    pub secret: bool,
}

/// A section with all its keys, for documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySection {
    /// Its name; empty for what stands above all sections.
    pub name: &'static str,
    /// What it is about.
    pub about: String,
    /// Its keys, in the order of declaration.
    pub keys: Vec<Key>,
}

/// A section of the config.
pub(super) trait Section: Default {
    /// Its name in files and in the environment.
    const NAME: &'static str;

    /// Takes its values; what is wrong is noted in `values` and left at its default.
    fn read(values: &mut Values) -> Self;

    /// What is shown of it, in the order of declaration.
    fn entries(&self) -> Vec<Entry>;

    /// Its keys, and those that name a file with the value.
    fn keys() -> Vec<String>;

    /// What there is to know of it.
    fn describe() -> KeySection;
}

/// The keys of a field: itself, and its `_file` where it is a secret.
pub(super) fn field_keys<T, C: Codec<T>>(section: &str, key: &str) -> Vec<String> {
    let path = format!("{section}.{key}");
    if C::SECRET { vec![path.clone(), format!("{path}_file")] } else { vec![path] }
}

/// The lines of a doc comment.
pub(super) fn about(lines: &[&str]) -> String {
    lines.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// Declares a section: `pub field: Type [as Codec] = default [=> range],` for each key.
///
/// The doc comments go into docs/configuration.md as they are, so they are written for operators.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident in $section:literal {
            $($(#[doc = $doc:literal])* pub $field:ident: $type:ty $(as $codec:ident)? = $default:expr $(=> $range:expr)?,)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::section::Section for $name {
            const NAME: &'static str = $section;

            fn read(values: &mut $crate::config::source::Values) -> Self {
                let default = Self::default();
                Self {
                    $($field: values.take::<$type, $crate::config::section::codec!($($codec)?)>(
                        $section, stringify!($field), default.$field, $crate::config::section::range!([$($codec)?] $($range)?),
                    ),)*
                }
            }

            fn entries(&self) -> Vec<$crate::config::section::Entry> {
                use $crate::config::value::Codec;
                vec![$($crate::config::section::Entry {
                    key: stringify!($field),
                    value: <$crate::config::section::codec!($($codec)?) as Codec<$type>>::show(&self.$field),
                },)*]
            }

            fn keys() -> Vec<String> {
                [$($crate::config::section::field_keys::<$type, $crate::config::section::codec!($($codec)?)>(
                    $section, stringify!($field),
                ),)*].concat()
            }

            fn describe() -> $crate::config::section::KeySection {
                use $crate::config::value::Codec;
                let default = Self::default();
                $crate::config::section::KeySection {
                    name: $section,
                    about: $crate::config::section::about(&[$($about),*]),
                    keys: vec![$($crate::config::section::Key {
                        section: $section,
                        name: stringify!($field),
                        about: $crate::config::section::about(&[$($doc),*]),
                        shape: <$crate::config::section::codec!($($codec)?) as Codec<$type>>::SHAPE,
                        default: <$crate::config::section::codec!($($codec)?) as Codec<$type>>::show(&default.$field),
                        range: $crate::config::section::bounds!([$type] [$($codec)?] $($range)?),
                        secret: <$crate::config::section::codec!($($codec)?) as Codec<$type>>::SECRET,
                    },)*],
                }
            }
        }
    };
}

/// The codec of a field: the named one, or the plain one of its type.
macro_rules! codec {
    () => {
        $crate::config::value::Plain
    };
    ($codec:ident) => {
        $codec
    };
}

/// The check of a field's range, if it has one.
macro_rules! range {
    ([$($codec:ident)?]) => { None };
    ([$($codec:ident)?] $range:expr) => {
        Some(&|value| $crate::config::section::beyond::<_, $crate::config::section::codec!($($codec)?)>(value, &$range))
    };
}

/// The bounds of a field as they are written, if it has any.
macro_rules! bounds {
    ([$type:ty] [$($codec:ident)?]) => { None };
    ([$type:ty] [$($codec:ident)?] $range:expr) => {
        Some($crate::config::section::ends::<$type, $crate::config::section::codec!($($codec)?)>(&$range))
    };
}

/// What is wrong with a value that is out of its range.
pub(super) fn beyond<T: PartialOrd, C: Codec<T>>(value: &T, range: &RangeInclusive<T>) -> Option<String> {
    let (least, greatest) = ends::<T, C>(range);
    (!range.contains(value)).then(|| format!("is not from {least} to {greatest}"))
}

/// Both ends of a range as they are written.
pub(super) fn ends<T, C: Codec<T>>(range: &RangeInclusive<T>) -> (String, String) {
    let show = |bound| C::show(bound).unwrap_or_default();
    (show(range.start()), show(range.end()))
}

pub(super) use {bounds, codec, range, section};
