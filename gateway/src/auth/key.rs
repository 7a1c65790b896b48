//! Keys that tokens are checked with. Each is looked at whole when it is taken in: one that does
//! not fit the algorithm that its issuer is pinned to, or is weak, never becomes a key.

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::pkcs8::DecodePublicKey;
use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use natter_shared::config::Algorithm;
use rsa::{BigUint, RsaPublicKey, pkcs1::DecodeRsaPublicKey, traits::PublicKeyParts};

use super::AuthError;

/// RSA keys shorter than this may not be used (RFC 7518 section 3.3).
const MIN_RSA_BITS: usize = 2048;

/// Bytes of a coordinate of P-256, and of an Ed25519 key.
const COORDINATE: usize = 32;

/// Why a key is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes are no key of the algorithm.
    #[error("is no public key for {}", .0.as_str())]
    NotAKey(Algorithm),
    /// It says that it is for something else (`kty`, `crv`, `alg`, `use`, `key_ops`).
    #[error("is not meant for signatures of {}", .0.as_str())]
    ForOther(Algorithm),
    /// Too weak to be used.
    #[error("has {0} bits; an RSA key needs 2048 at least")]
    Short(usize),
    /// An Ed25519 point of small order, for which anybody can sign.
    #[error("is a weak Ed25519 key")]
    Weak,
}

/// A key, with the one algorithm it is used with.
pub(super) struct VerifyingKey {
    algorithm: jsonwebtoken::Algorithm,
    key: DecodingKey,
}

impl VerifyingKey {
    /// A secret of HS256.
    pub(super) fn from_secret(secret: &[u8]) -> Self {
        Self { algorithm: jsonwebtoken::Algorithm::HS256, key: DecodingKey::from_secret(secret) }
    }

    /// A public key in PEM: SPKI (`PUBLIC KEY`), for RSA also PKCS #1 (`RSA PUBLIC KEY`).
    pub(super) fn from_pem(algorithm: Algorithm, pem: &str) -> Result<Self, KeyError> {
        let bad = KeyError::NotAKey(algorithm);
        match algorithm {
            Algorithm::HS256 => Err(bad),
            Algorithm::RS256 => {
                let key = RsaPublicKey::from_public_key_pem(pem).ok().or_else(|| RsaPublicKey::from_pkcs1_pem(pem).ok());
                Self::rsa(&key.ok_or(bad)?)
            }
            Algorithm::ES256 => Ok(Self::p256(&p256::PublicKey::from_public_key_pem(pem).map_err(|_| bad)?)),
            Algorithm::EdDSA => Self::ed25519(&ed25519_dalek::VerifyingKey::from_public_key_pem(pem).map_err(|_| bad)?),
        }
    }

    /// A key of a JWK set (RFC 7517).
    pub(super) fn from_jwk(algorithm: Algorithm, jwk: &Jwk) -> Result<Self, KeyError> {
        let (bad, other) = (KeyError::NotAKey(algorithm), KeyError::ForOther(algorithm));
        if !is_meant_for(algorithm, jwk) {
            return Err(other);
        }
        match (algorithm, &jwk.algorithm) {
            (Algorithm::RS256, AlgorithmParameters::RSA(rsa)) => {
                let number = |text| Some(BigUint::from_bytes_be(&decoded(text)?));
                let (n, e) = number(&rsa.n).zip(number(&rsa.e)).ok_or(bad)?;
                Self::rsa(&RsaPublicKey::new(n, e).map_err(|_| bad)?)
            }
            (Algorithm::ES256, AlgorithmParameters::EllipticCurve(point)) if point.curve == EllipticCurve::P256 => {
                let (x, y) = decoded(&point.x).zip(decoded(&point.y)).ok_or(bad)?;
                if x.len() != COORDINATE || y.len() != COORDINATE {
                    return Err(bad);
                }
                let uncompressed = [&[4], x.as_slice(), y.as_slice()].concat();
                Ok(Self::p256(&p256::PublicKey::from_sec1_bytes(&uncompressed).map_err(|_| bad)?))
            }
            (Algorithm::EdDSA, AlgorithmParameters::OctetKeyPair(pair)) if pair.curve == EllipticCurve::Ed25519 => {
                let bytes: [u8; COORDINATE] = decoded(&pair.x).and_then(|x| x.try_into().ok()).ok_or(bad)?;
                Self::ed25519(&ed25519_dalek::VerifyingKey::from_bytes(&bytes).map_err(|_| bad)?)
            }
            (Algorithm::HS256 | Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, _) => Err(other),
        }
    }

    fn rsa(key: &RsaPublicKey) -> Result<Self, KeyError> {
        let bits = key.n().bits();
        if bits < MIN_RSA_BITS {
            return Err(KeyError::Short(bits));
        }
        let key = DecodingKey::from_rsa_raw_components(&key.n().to_bytes_be(), &key.e().to_bytes_be());
        Ok(Self { algorithm: jsonwebtoken::Algorithm::RS256, key })
    }

    fn p256(key: &p256::PublicKey) -> Self {
        Self { algorithm: jsonwebtoken::Algorithm::ES256, key: DecodingKey::from_ec_der(&key.to_sec1_bytes()) }
    }

    fn ed25519(key: &ed25519_dalek::VerifyingKey) -> Result<Self, KeyError> {
        if key.is_weak() {
            return Err(KeyError::Weak);
        }
        Ok(Self { algorithm: jsonwebtoken::Algorithm::EdDSA, key: DecodingKey::from_ed_der(key.as_bytes()) })
    }

    /// Whether `signature` (base64url) is this key's under `message`.
    pub(super) fn verify(&self, message: &str, signature: &str) -> Result<(), AuthError> {
        match jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, self.algorithm) {
            Ok(true) => Ok(()),
            Ok(false) => Err(AuthError::Signature),
            Err(_) => Err(AuthError::Malformed),
        }
    }
}

/// What the key says of itself; what it leaves out is not held against it (RFC 7517 section 4).
fn is_meant_for(algorithm: Algorithm, jwk: &Jwk) -> bool {
    let common = &jwk.common;
    let meant = match algorithm {
        Algorithm::HS256 => KeyAlgorithm::HS256,
        Algorithm::RS256 => KeyAlgorithm::RS256,
        Algorithm::ES256 => KeyAlgorithm::ES256,
        Algorithm::EdDSA => KeyAlgorithm::EdDSA,
    };
    common.key_algorithm.is_none_or(|alg| alg == meant)
        && common.public_key_use.as_ref().is_none_or(|for_what| *for_what == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify))
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()
}
