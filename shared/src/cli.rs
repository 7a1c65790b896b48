//! What the command lines of all binaries have in common: where the config is, whether it is good,
//! and how an error ends the process.

use std::{env, error::Error, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Args;

use crate::{
    ask_health::AskHealth,
    config::{Config, Role},
    telemetry::logs,
};

/// What `--help` says at its end.
pub const CONFIG_HELP: &str = "\
Config:
  Defaults, then the file, then the environment: [http] listen in the file is NATTER_HTTP__LISTEN.
  Lists in the environment are comma-separated. A secret may be in a file: NATTER_AUTH__SECRET_FILE.
  deploy/natter.toml has every key with its default. The most used:

  NATTER_HTTP__LISTEN           address and port, 127.0.0.1:8080
  NATTER_HTTP__ALLOWED_ORIGINS  origins of other sites whose pages may connect
  NATTER_NATS__URL              nats://host:4222, several separated by commas
  NATTER_DATABASE__URL          postgres://user:password@host/name or sqlite://path
  NATTER_DATA_DIR               folder of the standalone binary's files, ./data
  NATTER_AUTH__SECRET           secret of HS256 tokens, at least 32 bytes
  NATTER_AUTH__ISSUER           `iss` of the tokens, natter
  NATTER_AUTH__AUDIENCE         `aud` of the tokens, natter
  NATTER_AUTH__DEV_LOGIN        true: anybody signs in by a bare name
  NATTER_GROUPS__OPEN           false: nobody joins groups by name
  NATTER_TELEMETRY__FILTER      what is logged: info, or info,natter_gateway=debug
  NATTER_TELEMETRY__FORMAT      auto, human or json";

/// The options about the config.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Config file in TOML; the variable NATTER_CONFIG names one too
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Print the effective config with secrets masked, or every mistake in it, and exit
    #[arg(long, global = true)]
    check_config: bool,
}

impl ConfigArgs {
    /// The config, with logs set up as it says; or the status to exit with, everything being said.
    pub fn prepare(&self, role: Role) -> Result<Config, ExitCode> {
        let config = self.load(role)?;
        if self.check_config {
            println!("{config}");
            for warning in config.warnings() {
                eprintln!("warning: {warning}");
            }
            return Err(ExitCode::SUCCESS);
        }
        logs::init(&config.telemetry).map_err(|error| fail(&error))?;
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        Ok(config)
    }

    /// Asks the process that runs with the same config how it is, on the address that its config says.
    pub fn ask_health(&self, role: Role, ask: AskHealth, address: fn(&Config) -> Option<SocketAddr>) -> ExitCode {
        match self.load(role).map(|config| ask.of(address(&config))) {
            Ok(Ok(())) => ExitCode::SUCCESS,
            Ok(Err(unwell)) => fail(&unwell),
            Err(status) => status,
        }
    }

    fn load(&self, role: Role) -> Result<Config, ExitCode> {
        let file = self.config.clone().or_else(|| env::var_os("NATTER_CONFIG").filter(|file| !file.is_empty()).map(PathBuf::from));
        Config::load(file.as_deref(), role).map_err(|errors| fail(&errors))
    }
}

/// Says the error with its causes on stderr, for people; the status to exit with.
pub fn fail(error: &(dyn Error + 'static)) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Some errors repeat their cause in their own words.
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    eprintln!("error: {text}");
    ExitCode::FAILURE
}
