//! A gateway and a persister over real NATS and PostgreSQL, fresh for each run, as deployed: NATS under
//! deploy/nats.conf, PostgreSQL with fsync.

use std::{fmt, fs};

use anyhow::{Context as _, Result, ensure};
use natter_tests::{
    cluster::{Cluster, Store},
    nats::{Identities, NatsServer, shipped_config},
    token::{AUDIENCE, ISSUER, SECRET},
};
use tempfile::TempDir;

use crate::procs::Watched;

/// Rates of one connection or user that are raised, so that they are not what is measured.
pub const RAISED: [(&str, &str); 7] = [
    ("NATTER_LIMITS__FRAMES_PER_SECOND", "1000000"),
    ("NATTER_LIMITS__FRAMES_BURST", "1000000"),
    ("NATTER_LIMITS__USER_FRAMES_PER_SECOND", "1000000"),
    ("NATTER_LIMITS__USER_FRAMES_BURST", "1000000"),
    ("NATTER_LIMITS__GROUP_NOTIFICATIONS_PER_MINUTE", "1000000"),
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

/// Behind the name of what it is measured of.
impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsShipped => "",
            Self::Default => ", NATS's default sync",
        })
    }
}

/// All of it.
pub(super) struct Natter {
    pub(super) cluster: Cluster,
    /// NATS reads its config there.
    _config: TempDir,
}

impl Natter {
    /// Starts it with so many gateways, over this database, with these variables, and waits until it is ready.
    pub(super) async fn start(sync: Sync, gateways: usize, store: Store, env: &[(String, String)]) -> Result<Self> {
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
        let builder = Cluster::builder().gateways(gateways).store(store).nats(nats, identities);
        let raised = RAISED.iter().fold(builder, |builder, (key, value)| builder.env(key, value));
        let cluster = env.iter().fold(raised, |builder, (key, value)| builder.env(key, value)).start().await?;
        Ok(Self { cluster, _config: config })
    }

    /// What the generator is told.
    pub(super) fn args(&self) -> Result<Vec<String>> {
        let mut args: Vec<String> = ["--secret", SECRET, "--issuer", ISSUER, "--audience", AUDIENCE].map(str::to_owned).into();
        args.extend(self.targets()?);
        Ok(args)
    }

    /// Where its gateways listen, and which its processes are.
    pub(super) fn targets(&self) -> Result<Vec<String>> {
        let mut args = Vec::new();
        for gateway in &self.cluster.gateways {
            args.extend(["--addr".to_owned(), gateway.addr.to_string()]);
        }
        for Watched { name, pid } in self.watched()? {
            args.extend(["--pid".to_owned(), format!("{name}={pid}")]);
        }
        Ok(args)
    }

    /// Its processes, and what it stands on; all gateways are one, as are all persisters.
    pub(super) fn watched(&self) -> Result<Vec<Watched>> {
        let cluster = &self.cluster;
        let mut pids = Vec::new();
        pids.extend(cluster.gateways.iter().map(|node| ("gateway", node.process.pid())));
        pids.extend(cluster.persisters.iter().map(|node| ("persister", node.process.pid())));
        pids.push(("nats", cluster.nats.node(0).pid()));
        pids.extend(cluster.postgres.as_ref().map(|postgres| ("postgres", postgres.pid())));
        let watched = |(name, pid): (&str, Option<u32>)| {
            let pid = pid.with_context(|| format!("{name} runs"))?;
            Ok(Watched { name: name.to_owned(), pid })
        };
        pids.into_iter().map(watched).collect()
    }
}
