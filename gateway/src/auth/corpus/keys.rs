//! The keys of the tests (`tests/keys`), and tokens signed with them.

use data_encoding::BASE64;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

pub(super) const RSA_A: &str = include_str!("../../../../tests/keys/rsa-a.pem");
pub(super) const RSA_A_PUBLIC: &str = include_str!("../../../../tests/keys/rsa-a.pub.pem");
pub(super) const RSA_A_PKCS1: &str = include_str!("../../../../tests/keys/rsa-a.pkcs1.pub.pem");
pub(super) const RSA_B: &str = include_str!("../../../../tests/keys/rsa-b.pem");
pub(super) const RSA_B_PUBLIC: &str = include_str!("../../../../tests/keys/rsa-b.pub.pem");
pub(super) const RSA_WEAK_PUBLIC: &str = include_str!("../../../../tests/keys/rsa-weak.pub.pem");
pub(super) const EC: &str = include_str!("../../../../tests/keys/ec.pem");
pub(super) const EC_PUBLIC: &str = include_str!("../../../../tests/keys/ec.pub.pem");
pub(super) const EC_P384_PUBLIC: &str = include_str!("../../../../tests/keys/ec-p384.pub.pem");
pub(super) const ED: &str = include_str!("../../../../tests/keys/ed.pem");
pub(super) const ED_PUBLIC: &str = include_str!("../../../../tests/keys/ed.pub.pem");

fn der(pem: &str) -> Vec<u8> {
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    BASE64.decode(text.as_bytes()).unwrap()
}

/// The private key of an algorithm.
pub(super) fn signing(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        Algorithm::RS256 => EncodingKey::from_rsa_der(&der(RSA_A)),
        Algorithm::ES256 => EncodingKey::from_ec_der(&der(EC)),
        Algorithm::EdDSA => EncodingKey::from_ed_der(&der(ED)),
        other => panic!("no key for {other:?}"),
    }
}

/// The second RSA key.
pub(super) fn signing_b() -> EncodingKey {
    EncodingKey::from_rsa_der(&der(RSA_B))
}

/// A token with this header and these claims.
pub(super) fn token(key: &EncodingKey, algorithm: Algorithm, header: &Value, claims: &Value) -> String {
    use data_encoding::BASE64URL_NOPAD;
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn rsa_jwk(pem: &str, kid: &str) -> Value {
    use data_encoding::BASE64URL_NOPAD;
    use rsa::{RsaPublicKey, pkcs8::DecodePublicKey, traits::PublicKeyParts};
    let key = RsaPublicKey::from_public_key_pem(pem).unwrap();
    let text = |number: &rsa::BigUint| BASE64URL_NOPAD.encode(&number.to_bytes_be());
    json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": text(key.n()), "e": text(key.e())})
}

pub(super) fn rsa_a(kid: &str) -> Value {
    rsa_jwk(RSA_A_PUBLIC, kid)
}

pub(super) fn rsa_b(kid: &str) -> Value {
    rsa_jwk(RSA_B_PUBLIC, kid)
}

pub(super) fn rsa_weak(kid: &str) -> Value {
    rsa_jwk(RSA_WEAK_PUBLIC, kid)
}

pub(super) fn ec(kid: &str) -> Value {
    use data_encoding::BASE64URL_NOPAD;
    use p256::{elliptic_curve::sec1::ToEncodedPoint, pkcs8::DecodePublicKey};
    let point = p256::PublicKey::from_public_key_pem(EC_PUBLIC).unwrap().to_encoded_point(false);
    let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": text(point.x().unwrap()), "y": text(point.y().unwrap())})
}

pub(super) fn ed(kid: &str) -> Value {
    use data_encoding::BASE64URL_NOPAD;
    use ed25519_dalek::pkcs8::DecodePublicKey;
    let key = ed25519_dalek::VerifyingKey::from_public_key_pem(ED_PUBLIC).unwrap();
    json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": BASE64URL_NOPAD.encode(key.as_bytes())})
}
