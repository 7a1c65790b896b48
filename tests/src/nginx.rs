//! nginx under a config that is shipped for containers, here.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use crate::process::Process;

/// Puts each of `places` in place of what a container would see; each has to be there.
pub fn put(text: &str, places: &[(&str, String)]) -> Result<String> {
    places.iter().try_fold(text.to_owned(), |text, (from, to)| {
        ensure!(text.contains(from), "{from:?} is not in {text:?}");
        Ok(text.replace(from, to))
    })
}

/// Starts it at `addr`, with `places` for the names of containers; nothing else of a container's may
/// be in the config.
pub fn start(config: &Path, folder: &Path, addr: SocketAddr, places: &[(&str, String)]) -> Result<Process> {
    let scratch = folder.join("nginx");
    fs::create_dir(&scratch)?;
    let text = put(&fs::read_to_string(config)?, &[("/tmp/", format!("{}/", scratch.display()))])?;
    let text = put(&text, places)?;
    let text = put(&text, &[("listen 8080", format!("listen {addr}"))])?;
    let left = text.lines().find(|line| !line.trim().starts_with('#') && (line.contains("8080") || line.contains("8000")));
    ensure!(left.is_none(), "of a container: {left:?}");
    let here: PathBuf = scratch.join("nginx.conf");
    fs::write(&here, text)?;
    let here = here.display().to_string();
    // One process, in the foreground, so that it ends with the test; the image does the second.
    let args = ["-c", &here, "-g", "daemon off; master_process off;"];
    Process::start("nginx", Path::new("/usr/sbin/nginx"), &args, &[], folder)
}
