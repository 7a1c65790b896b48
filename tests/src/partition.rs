//! A network of its own for servers that are to be cut off: each in a network namespace, with a
//! cable to a bridge on this machine. A pulled cable loses what is sent, without a reset, as a failed
//! switch does. Needs root; nothing outside of this machine is reached.

use std::{
    ffi::OsString,
    fs::{File, TryLockError},
    net::Ipv4Addr,
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::skipped::skip;

/// Networks of tests at once on one machine.
const NETWORKS: u8 = 64;

/// A bridge, and a namespace and a cable for each place; all gone with this value.
pub struct Network {
    number: u8,
    places: usize,
    /// Held as long as the number is ours.
    _number: File,
}

fn ip(line: &str) -> Result<()> {
    let output = Command::new("ip").args(line.split(' ')).output().context("ip")?;
    ensure!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Whether there is the command that makes networks.
pub(crate) fn has_command() -> bool {
    ip("netns list").is_ok()
}

impl Network {
    /// With so many places. Nothing where it is not allowed, and a line says so.
    pub fn new(places: usize) -> Result<Option<Self>> {
        if let Err(error) = ip("netns list") {
            skip(&format!("no network namespaces here ({error})"));
            return Ok(None);
        }
        let Some((number, lock)) = free_number()? else { bail!("all {NETWORKS} networks are in use") };
        let network = Self { number, places, _number: lock };
        // What a run that was killed has left.
        network.remove();
        if let Err(error) = network.lay() {
            let text = format!("{error:#}");
            if text.contains("Operation not permitted") {
                skip(&format!("making network namespaces needs root ({text})"));
                return Ok(None);
            }
            return Err(error);
        }
        Ok(Some(network))
    }

    fn lay(&self) -> Result<()> {
        let bridge = self.bridge();
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {}/27 dev {bridge}", self.host()))?;
        ip(&format!("link set {bridge} up"))?;
        for place in 0..self.places {
            let (space, cable, plug) = (self.space(place), self.cable(place), self.plug(place));
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {cable} type veth peer name {plug}"))?;
            ip(&format!("link set {plug} netns {space}"))?;
            ip(&format!("link set {cable} master {bridge} up"))?;
            ip(&format!("-n {space} addr add {}/27 dev {plug}", self.address(place)))?;
            ip(&format!("-n {space} link set {plug} up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        Ok(())
    }

    /// The address of a place. The range is one for measurements (RFC 2544), routed nowhere.
    pub fn address(&self, place: usize) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, u8::try_from(place).unwrap_or(u8::MAX).saturating_add(2))
    }

    /// This machine's address on the bridge.
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, 1)
    }

    /// What a command line begins with to run at a place.
    pub fn within(&self, place: usize) -> Vec<OsString> {
        ["ip", "netns", "exec", &self.space(place)].map(OsString::from).to_vec()
    }

    /// Pulls a place's cable: both ends believe to be connected, and all that is sent is lost.
    pub fn cut(&self, place: usize) -> Result<()> {
        ip(&format!("link set {} nomaster", self.cable(place)))
    }

    /// Puts it back.
    pub fn heal(&self, place: usize) -> Result<()> {
        ip(&format!("link set {} master {}", self.cable(place), self.bridge()))
    }

    fn bridge(&self) -> String {
        format!("ntt{}", self.number)
    }

    fn space(&self, place: usize) -> String {
        format!("natter-test-{}-{place}", self.number)
    }

    fn cable(&self, place: usize) -> String {
        format!("ntt{}c{place}", self.number)
    }

    fn plug(&self, place: usize) -> String {
        format!("ntt{}p{place}", self.number)
    }

    fn remove(&self) {
        // What is not there need not go.
        for place in 0..self.places {
            let _ = ip(&format!("link del {}", self.cable(place)));
            let _ = ip(&format!("netns del {}", self.space(place)));
        }
        let _ = ip(&format!("link del {}", self.bridge()));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A number that no other test on this machine has now.
fn free_number() -> Result<Option<(u8, File)>> {
    for number in 0..NETWORKS {
        let path = std::env::temp_dir().join(format!("natter-test-network-{number}.lock"));
        let Ok(file) = File::create(path) else { continue };
        match file.try_lock() {
            Ok(()) => return Ok(Some((number, file))),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Ok(None)
}
