//! Full disks: a small tmpfs under the store of NATS or the file of SQLite.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::run::Run;
use crate::cluster::Cluster;

/// A mounted tmpfs; unmounted when dropped, even while it is in use.
pub(super) struct Tmpfs(PathBuf);

/// Whether we may mount.
pub(super) fn can_mount() -> bool {
    tempfile::tempdir().is_ok_and(|folder| Tmpfs::over(folder.path(), 1).is_ok())
}

impl Tmpfs {
    /// Mounts one of so many MiB over `folder`, which may be missing.
    pub(super) fn over(folder: &Path, mib: usize) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let options = format!("size={mib}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder).stderr(Stdio::null());
        ensure!(mount.status()?.success(), "no tmpfs over {}", folder.display());
        Ok(Self(folder.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

/// Takes all the room that is left in `folder`; gives the file that has it.
fn fill(folder: &Path) -> Result<PathBuf> {
    let ballast = folder.join("ballast");
    let mut file = File::create(&ballast)?;
    let block = vec![0; 4096];
    loop {
        match file.write_all(&block) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(ballast),
            Err(error) => return Err(error).context("filling a disk"),
        }
    }
}

/// NATS finds its disk full; an operator gives it room, and starts it again.
pub(super) async fn fill_nats(cluster: &mut Cluster, run: &mut Run) -> Result<()> {
    for _ in 0..run.rounds(1, 2, 5) {
        let ballast = fill(&cluster.nats.node(0).store())?;
        tokio::time::sleep(Duration::from_secs(6)).await;
        fs::remove_file(ballast)?;
        cluster.nats.restart()?;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    Ok(())
}

/// The persisters' SQLite file moves to a small disk of its own.
pub(super) async fn move_database(cluster: &mut Cluster) -> Result<Tmpfs> {
    let path = PathBuf::from(cluster.database_url.strip_prefix("sqlite://").context("SQLite")?);
    let folder = path.parent().context("a folder")?.join("small");
    let disk = Tmpfs::over(&folder, 48)?;
    cluster.move_database(&format!("sqlite://{}", folder.join("natter.db").display()))?;
    cluster.wait_ready().await?;
    Ok(disk)
}

/// SQL finds its disk full; later there is room again.
pub(super) async fn fill_database(cluster: &Cluster, run: &mut Run) -> Result<()> {
    let path = PathBuf::from(cluster.database_url.strip_prefix("sqlite://").context("SQLite")?);
    let folder = path.parent().context("a folder")?;
    let persister = cluster.persisters.first().context("a persister")?;
    let retries = async || anyhow::Ok(persister.metric("natter_persister_retries_total").await?.unwrap_or_default());
    for _ in 0..run.rounds(1, 2, 5) {
        let before = retries().await?;
        let ballast = fill(folder)?;
        tokio::time::sleep(Duration::from_secs(6)).await;
        ensure!(retries().await? > before, "no batch was refused for want of room");
        fs::remove_file(ballast)?;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    Ok(())
}
