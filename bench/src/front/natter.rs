//! A gateway and a persister over real NATS and PostgreSQL, fresh for each run, as deployed: NATS under
//! deploy/nats.conf, PostgreSQL with fsync.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use natter_tests::{
    cluster::{Cluster, Store},
    nats::{Identities, NatsServer, shipped_config},
    token::{AUDIENCE, ISSUER, SECRET},
};
use tempfile::TempDir;

/// Rates of one connection that are raised, so that they are not what is measured.
pub const RAISED: [(&str, &str); 4] = [
    ("NATTER_LIMITS__FRAMES_PER_SECOND", "1000000"),
    ("NATTER_LIMITS__FRAMES_BURST", "1000000"),
    ("NATTER_LIMITS__BYTES_PER_SECOND", "1GiB"),
    ("NATTER_LIMITS__BYTES_BURST", "1GiB"),
];

/// What deploy/nats.conf says of syncs.
const SYNC_ALWAYS: &str = "sync_interval: always";

/// When NATS syncs what it stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    /// Before each ack.
    AsShipped,
    /// Every two minutes, as NATS does where it is not told.
    Default,
}

/// All of it.
pub(super) struct Natter {
    pub(super) cluster: Cluster,
    /// NATS reads its config there.
    _config: TempDir,
}

impl Natter {
    /// Starts it and waits until it is ready.
    pub(super) async fn start(sync: Sync) -> Result<Self> {
        let config = tempfile::Builder::new().prefix("natter-bench-").tempdir()?;
        let mut text = fs::read_to_string(shipped_config())?;
        ensure!(text.lines().any(|line| line.trim() == SYNC_ALWAYS), "deploy/nats.conf does not say {SYNC_ALWAYS:?}");
        if sync == Sync::Default {
            text = text.lines().filter(|line| line.trim() != SYNC_ALWAYS).collect::<Vec<_>>().join("\n");
        }
        let path = config.path().join("nats.conf");
        fs::write(&path, text)?;
        let identities = Identities::random();
        let nats = NatsServer::start_under(&path, identities.env(), &[])?;
        let builder = Cluster::builder().gateways(1).store(Store::SyncedPostgres).nats(nats, identities);
        let cluster = RAISED.iter().fold(builder, |builder, (key, value)| builder.env(key, value)).start().await?;
        Ok(Self { cluster, _config: config })
    }

    /// What the generator is told.
    pub(super) fn args(&self) -> Result<Vec<String>> {
        let cluster = &self.cluster;
        let (gateway, persister) = (cluster.gateways.first().context("a gateway")?, cluster.persisters.first().context("a persister")?);
        let pids = [
            ("gateway", gateway.process.pid()),
            ("persister", persister.process.pid()),
            ("nats", cluster.nats.node(0).pid()),
            ("postgres", cluster.postgres.as_ref().and_then(natter_tests::postgres::Postgres::pid)),
        ];
        let mut args: Vec<String> = ["--secret", SECRET, "--issuer", ISSUER, "--audience", AUDIENCE].map(str::to_owned).into();
        args.extend(["--addr".to_owned(), gateway.addr.to_string()]);
        for (name, pid) in pids {
            let pid = pid.with_context(|| format!("{name} runs"))?;
            args.extend(["--pid".to_owned(), format!("{name}={pid}")]);
        }
        Ok(args)
    }
}
