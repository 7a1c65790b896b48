//! TLS to NATS: the shipped config with its `tls` block, certificates of an authority made here; and
//! that nobody is talked to who cannot prove to be that NATS.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use natter_tests::{
    client::Client,
    cluster::Cluster,
    nats::{Identities, NatsServer, shipped_config},
    process::{Folder, Process, binary, free_port},
    token::{SECRET, User},
};

use super::chat::wait_until;

/// An authority, and what it signs.
struct Authority<'a> {
    folder: &'a Path,
    name: &'a str,
}

impl<'a> Authority<'a> {
    fn make(folder: &'a Path, name: &'a str) -> Result<Self> {
        let authority = Self { folder, name };
        let [key, certificate] = authority.files("ca");
        let made = openssl().args(["req", "-x509", "-days", "2", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        run(made.args(["-subj", &format!("/CN={name}"), "-keyout"]).arg(key).arg("-out").arg(certificate))?;
        Ok(authority)
    }

    /// Its certificate.
    fn file(&self) -> PathBuf {
        let [_, certificate] = self.files("ca");
        certificate
    }

    /// The key and certificate of a server at `host` (`IP:…` or `DNS:…`).
    fn sign(&self, host: &str) -> Result<[PathBuf; 2]> {
        let [key, certificate] = self.files("server");
        let (asked, extensions) = (key.with_extension("csr"), key.with_extension("ext"));
        fs::write(&extensions, format!("subjectAltName={host}\nextendedKeyUsage=serverAuth\n"))?;
        let made = openssl().args(["req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=nats"]);
        run(made.arg("-keyout").arg(&key).arg("-out").arg(&asked))?;
        let [authority_key, authority] = self.files("ca");
        let signed = openssl().args(["x509", "-req", "-days", "2", "-CAcreateserial", "-in"]).arg(asked).arg("-CA").arg(authority);
        run(signed.arg("-CAkey").arg(authority_key).arg("-extfile").arg(extensions).arg("-out").arg(&certificate))?;
        Ok([key, certificate])
    }

    fn files(&self, what: &str) -> [PathBuf; 2] {
        ["key", "pem"].map(|end| self.folder.join(format!("{}-{what}.{end}", self.name)))
    }
}

fn openssl() -> OpenSsl {
    OpenSsl(Command::new("openssl"))
}

/// A command by value, so that it can be put together in one go.
struct OpenSsl(Command);

impl OpenSsl {
    fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.arg(arg);
        self
    }

    fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        self.0.args(args);
        self
    }
}

fn run(OpenSsl(mut command): OpenSsl) -> Result<()> {
    let output = command.output().context("openssl")?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A server under the shipped config with its `tls` block uncommented, as docs/deployment.md says.
fn nats(folder: &Path, identities: &Identities, [key, certificate]: &[PathBuf; 2]) -> Result<NatsServer> {
    let shipped = fs::read_to_string(shipped_config())?;
    let (before, block) = shipped.split_once("#tls {").context("a tls block")?;
    let block = format!("tls {{{}", block.replace("\n#", "\n"));
    let block = block.replace("/etc/nats/tls/server.key", &key.display().to_string());
    let block = block.replace("/etc/nats/tls/server.pem", &certificate.display().to_string());
    ensure!(!block.contains("/etc/nats"), "{block}");
    let path = folder.join("nats.conf");
    fs::write(&path, format!("{before}{block}"))?;
    Ok(NatsServer::start_under(&path, identities.env(), &[])?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_works_over_tls() -> Result<()> {
    let folder = Folder::new()?;
    let identities = Identities::random();
    let ours = Authority::make(folder.path(), "ours")?;
    let mut nats = nats(folder.path(), &identities, &ours.sign("IP:127.0.0.1")?)?;
    assert!(nats.info()?.contains(r#""tls_required":true"#), "nobody may come without: {}", nats.info()?);
    let url = nats.client_url().replace("nats://", "tls://");
    let builder = Cluster::builder().env("NATTER_NATS__URL", &url).env("NATTER_NATS__TLS_REQUIRED", "true");
    nats.restart()?;
    let mut cluster = builder.env("NATTER_NATS__TLS_CA_FILE", &ours.file().display().to_string()).nats(nats, identities).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    ann.send(group, "over TLS").await?;
    ben.wait_for_body("over TLS").await?;
    // And again, after a restart of the server.
    cluster.nats.restart()?;
    cluster.wait_ready().await?;
    ben.send(group, "over TLS again").await?;
    ann.wait_for_body("over TLS again").await?;
    let sql = cluster.sql().await?;
    wait_until("the rows", async || sql.message_count().await.is_ok_and(|count| count == 2)).await;
    Ok(())
}

/// Gateway and persister, told to use `url` by TLS and to trust `authority`, stay not ready and say
/// `line`, now and then.
async fn refuse(folder: &Path, identities: &Identities, url: &str, authority: &Path, line: &str) -> Result<()> {
    let services = [("natter-gateway", &identities.gateway, &[] as &[&str]), ("natter-persister", &identities.persister, &["run"])];
    for (service, identity, args) in services {
        let addr = format!("127.0.0.1:{}", free_port());
        let env: Vec<(String, String)> = [
            ("NATTER_NATS__URL", url.to_owned()),
            ("NATTER_NATS__TLS_REQUIRED", "true".to_owned()),
            ("NATTER_NATS__TLS_CA_FILE", authority.display().to_string()),
            ("NATTER_NATS__NKEY_SEED", identity.seed.clone()),
            ("NATTER_AUTH__SECRET", SECRET.to_owned()),
            ("NATTER_HTTP__LISTEN", addr.clone()),
            ("NATTER_PERSISTER__HTTP_LISTEN", addr.clone()),
            ("NATTER_DATABASE__URL", format!("sqlite://{}", folder.join(format!("{line}-{service}.db")).display())),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec();
        let mut process = Process::start(&format!("{line}-{service}"), &binary(service), args, &env, folder)?;
        wait_until(line, async || process.log().contains(line)).await;
        let log = process.log();
        let said = log.lines().find(|said| said.contains(line)).context("the line")?;
        assert!(said.contains(r#""level":"ERROR""#) && said.contains("Trying again"), "{said}");
        let readyz = format!("http://{addr}/readyz");
        wait_until("its word that it is not ready", async || reqwest::get(&readyz).await.is_ok_and(|answer| answer.status() == 503)).await;
        assert!(!log.contains("nats_connected"), "{log}");
        assert!(log.matches(line).count() < 3, "a line now and then:\n{log}");
        assert!(!log.contains(&identity.seed), "the seed is nobody's");
        process.terminate()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_prove_to_be_our_nats_is_not_talked_to() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.path();
    let identities = Identities::random();
    let (ours, others) = (Authority::make(path, "ours")?, Authority::make(path, "others")?);
    {
        let strange = nats(path, &identities, &others.sign("IP:127.0.0.1")?)?;
        refuse(path, &identities, &strange.client_url(), &ours.file(), "nats_not_trusted").await?;
    }
    {
        let elsewhere = nats(path, &identities, &ours.sign("DNS:nats.example.com")?)?;
        let folder = path.join("elsewhere");
        fs::create_dir(&folder)?;
        refuse(&folder, &identities, &elsewhere.client_url(), &ours.file(), "nats_not_trusted").await?;
    }
    let plain = NatsServer::start_shipped(identities.env(), &[])?;
    refuse(path, &identities, &plain.client_url(), &ours.file(), "nats_without_tls").await
}
