//! `natter-persister nkey`: an identity for NATS, without other tools.

use std::process::ExitCode;

use anyhow::Context;
use nkeys::KeyPair;

/// Prints a new pair: the seed on the first line, the public key on the second.
pub(crate) fn print() -> anyhow::Result<ExitCode> {
    let pair = KeyPair::new_user();
    let seed = pair.seed().context("the new pair has no seed")?;
    println!("{seed}\n{}", pair.public_key());
    eprintln!("The first line is the secret: nats.nkey_seed_file of the service. The second is what nats.conf knows it by.");
    Ok(ExitCode::SUCCESS)
}
