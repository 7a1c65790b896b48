//! The standalone process, with a data folder of its own that goes with it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::{
    node::{Node, loopback},
    process::{Folder, Process, binary, free_port},
    sql::Sql,
};

/// The standalone process.
pub struct Standalone {
    /// The process and its HTTP.
    pub node: Node,
    /// Its data folder.
    pub data: PathBuf,
    folder: Folder,
}

impl Standalone {
    /// Starts it with an empty data folder and waits until it is ready. It is told nothing but
    /// where to listen and to keep its data, and what `env` says.
    pub async fn start(env: &[(&str, &str)]) -> Result<Self> {
        Self::start_by(&binary("natter"), &[], env).await
    }

    /// The same, where it may open so many files, and at first fewer.
    pub async fn start_with_open_files(at_first: u32, most: u32, env: &[(&str, &str)]) -> Result<Self> {
        let script = format!("ulimit -Sn {at_first} && ulimit -Hn {most} && exec {}", binary("natter").display());
        Self::start_by(Path::new("/bin/sh"), &["-c", &script], env).await
    }

    /// The same, where what it prints goes to `path`.
    pub async fn start_with_stdout(path: &str) -> Result<Self> {
        let script = format!("exec {} > {path}", binary("natter").display());
        Self::start_by(Path::new("/bin/sh"), &["-c", &script], &[]).await
    }

    async fn start_by(program: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        let folder = Folder::new()?;
        let data = folder.path().join("data");
        let addr = loopback(free_port());
        let mut all = standalone_env(addr, &data);
        all.extend(env.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())));
        let process = Process::start("natter", program, args, &all, folder.path())?;
        let mut standalone = Self { node: Node::new(process, addr), data, folder };
        standalone.node.wait_ready().await?;
        Ok(standalone)
    }

    /// Starts a second process, on `addr` or a free port, on this one's data or on fresh data.
    pub fn start_second(&self, addr: Option<SocketAddr>, same_data: bool) -> Result<Process> {
        let addr = addr.unwrap_or_else(|| loopback(free_port()));
        let data = if same_data { self.data.clone() } else { self.folder.path().join("second-data") };
        let env = standalone_env(addr, &data);
        Process::start("second", &binary("natter"), &[], &env, self.folder.path())
    }

    /// A connection to the projection.
    pub async fn sql(&self) -> Result<Sql> {
        let is_projection = |path: &PathBuf| path.extension().is_some_and(|end| end == "db" || end == "sqlite");
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(&self.data)?.filter_map(|entry| Some(entry.ok()?.path())).filter(is_projection).collect();
        files.sort();
        for file in files {
            let sql = Sql::connect(&format!("sqlite://{}", file.display())).await?;
            if sql.has_messages().await {
                return Ok(sql);
            }
        }
        bail!("no projection in {}", self.data.display())
    }
}

fn standalone_env(addr: SocketAddr, data: &Path) -> Vec<(String, String)> {
    vec![
        ("NATTER_HTTP__LISTEN".into(), addr.to_string()),
        ("NATTER_DATA_DIR".into(), data.display().to_string()),
        ("RUST_BACKTRACE".into(), "1".into()),
    ]
}
