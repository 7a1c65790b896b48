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
}

/// The keys of a field: itself, and its `_file` where it is a secret.
pub(super) fn field_keys<T, C: Codec<T>>(section: &str, key: &str) -> Vec<String> {
    let path = format!("{section}.{key}");
    if C::SECRET { vec![path.clone(), format!("{path}_file")] } else { vec![path] }
}

/// Declares a section: `pub field: Type [as Codec] = default [=> range],` for each key.
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $name:ident in $section:literal {
            $($(#[$field_meta:meta])* pub $field:ident: $type:ty $(as $codec:ident)? = $default:expr $(=> $range:expr)?,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
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

/// What is wrong with a value that is out of its range.
pub(super) fn beyond<T: PartialOrd, C: Codec<T>>(value: &T, range: &RangeInclusive<T>) -> Option<String> {
    let show = |bound| C::show(bound).unwrap_or_default();
    (!range.contains(value)).then(|| format!("is not from {} to {}", show(range.start()), show(range.end())))
}

pub(super) use {codec, range, section};
