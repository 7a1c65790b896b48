//! Reads enums told apart by a `type` field in two steps: the type first, then the variant's own
//! fields straight from the text. Serde's internally tagged enums buffer the whole value instead,
//! which costs twice and cannot hold raw JSON.

use serde::Deserialize;

/// The field that tells variants apart; all else is skipped.
#[derive(Deserialize)]
pub(crate) struct Tag<'a> {
    /// The variant's name.
    #[serde(rename = "type", borrow)]
    pub(crate) kind: std::borrow::Cow<'a, str>,
}

/// Implements `Deserialize` for an enum of newtype, struct-free variants from their tags. The
/// deserializer must be one over JSON text in memory (`from_str`, `from_slice`).
macro_rules! tagged {
    ($name:ident { $($tag:literal => $variant:ident $(($inner:ty))?),+ $(,)? }) => {
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                use serde::de::Error;
                let raw = <&'de serde_json::value::RawValue>::deserialize(deserializer)?;
                let tag: $crate::tagged::Tag<'_> = serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
                match &*tag.kind {
                    $($tag => $crate::tagged::tagged!(@variant raw, D, $name, $variant $(, $inner)?),)+
                    other => Err(D::Error::unknown_variant(other, &[$($tag),+])),
                }
            }
        }
    };
    (@variant $raw:ident, $d:ident, $name:ident, $variant:ident, $inner:ty) => {
        serde_json::from_str::<$inner>($raw.get()).map($name::$variant).map_err($d::Error::custom)
    };
    (@variant $raw:ident, $d:ident, $name:ident, $variant:ident) => {
        Ok($name::$variant)
    };
}
pub(crate) use tagged;
