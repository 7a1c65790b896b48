//! How a server is reached: which one, TLS, and who we are.

use std::{io, sync::Arc, time::Duration};

use async_nats::ServerAddr;
use bytes::{Buf, BytesMut};
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::{
    super::{
        NatsError, connect,
        options::{NatsAuth, NatsOptions},
    },
    wire::{self, Info, Op},
};

/// A connection, whatever it is over.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection that is open: signed in, nothing followed yet.
pub(super) struct Connection {
    pub(super) socket: Box<dyn Socket>,
    /// What was read beyond the greeting.
    pub(super) buffer: BytesMut,
    pub(super) info: Info,
}

/// Why a server was not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no answer in time")]
    TimedOut,
    #[error(transparent)]
    Foreign(#[from] wire::Foreign),
    /// In the server's words.
    #[error("{0}")]
    Refused(String),
    #[error("the server speaks no TLS, which nats.tls_required asks for")]
    NoTls,
    #[error("{0}")]
    Identity(String),
}

/// Who connects, and to which servers.
pub(super) struct Dialer {
    name: String,
    servers: Vec<Server>,
    last: Option<String>,
    auth: NatsAuth,
    credentials: Option<Credentials>,
    tls_required: bool,
    tls: Arc<ClientConfig>,
    within: Duration,
}

struct Server {
    address: ServerAddr,
    failed: usize,
}

struct Credentials {
    jwt: String,
    pair: KeyPair,
}

impl Dialer {
    pub(super) async fn new(options: &NatsOptions, name: String) -> Result<Self, NatsError> {
        let addresses = connect::servers(options)?;
        let servers = addresses.into_iter().map(|address| Server { address, failed: 0 }).collect();
        let credentials = match &options.auth {
            NatsAuth::CredentialsFile(path) => {
                let text = tokio::fs::read_to_string(path).await.map_err(NatsError::Credentials)?;
                let no_credentials = || NatsError::Credentials(io::Error::new(io::ErrorKind::InvalidData, "no JWT and seed in it"));
                let jwt = block(&text, "NATS USER JWT").ok_or_else(no_credentials)?;
                let seed = block(&text, "USER NKEY SEED").ok_or_else(no_credentials)?;
                let pair = KeyPair::from_seed(seed).map_err(|_| no_credentials())?;
                Some(Credentials { jwt: jwt.to_owned(), pair })
            }
            NatsAuth::None | NatsAuth::UserPassword { .. } | NatsAuth::Token(_) | NatsAuth::NkeySeed(_) => None,
        };
        let tls = Arc::new(tls(options).map_err(|error| NatsError::Connect(Box::new(error)))?);
        let (auth, tls_required, within) = (options.auth.clone(), options.tls_required, options.connect_timeout);
        Ok(Self { name, servers, last: None, auth, credentials, tls_required, tls, within })
    }

    /// Tries the next server.
    pub(super) async fn dial(&mut self) -> Result<Connection, DialError> {
        let Some(index) = self.next() else { return Err(io::Error::from(io::ErrorKind::AddrNotAvailable).into()) };
        let Some(server) = self.servers.get(index) else { return Err(io::Error::from(io::ErrorKind::AddrNotAvailable).into()) };
        let address = server.address.clone();
        self.last = Some(key(&address));
        let reached = timeout(self.within, self.reach(&address)).await.unwrap_or(Err(DialError::TimedOut));
        if let Some(server) = self.servers.get_mut(index) {
            server.failed = if reached.is_ok() { 0 } else { server.failed + 1 };
        }
        if let Ok(connection) = &reached {
            self.discover(&connection.info);
        }
        reached
    }

    /// Not the one that was had or tried last, if there are others; of those, one that failed least.
    fn next(&self) -> Option<usize> {
        let is_other = |server: &Server| self.servers.len() == 1 || self.last.as_deref() != Some(&key(&server.address));
        let others: Vec<(usize, usize)> =
            self.servers.iter().enumerate().filter(|(_, server)| is_other(server)).map(|(index, server)| (index, server.failed)).collect();
        let fewest = others.iter().map(|(_, failed)| *failed).min()?;
        let best: Vec<usize> = others.into_iter().filter(|(_, failed)| *failed == fewest).map(|(index, _)| index).collect();
        best.get(rand::random_range(0..best.len())).copied()
    }

    /// The other servers of its cluster.
    pub(super) fn discover(&mut self, info: &Info) {
        let scheme = if self.tls_required { "tls" } else { "nats" };
        let known = |servers: &[Server], new: &ServerAddr| servers.iter().any(|server| key(&server.address) == key(new));
        for url in &info.connect_urls {
            if let Ok(address) = format!("{scheme}://{url}").parse::<ServerAddr>()
                && !address.host().is_empty()
                && !known(&self.servers, &address)
            {
                self.servers.push(Server { address, failed: 0 });
            }
        }
    }

    async fn reach(&self, address: &ServerAddr) -> Result<Connection, DialError> {
        let stream = TcpStream::connect((address.host(), address.port())).await?;
        stream.set_nodelay(true)?;
        let mut socket: Box<dyn Socket> = Box::new(stream);
        let mut buffer = BytesMut::with_capacity(4096);
        let info = loop {
            match wire::parse(&buffer)? {
                Some((Op::Info(info), length)) => {
                    buffer.advance(length);
                    break *info;
                }
                Some((Op::Err(error), _)) => return Err(DialError::Refused(error.to_owned())),
                Some((_, length)) => buffer.advance(length),
                None => read(&mut socket, &mut buffer).await?,
            }
        };
        let wants_tls = self.tls_required || address.tls_required();
        if wants_tls && !info.tls_required && !info.tls_available {
            return Err(DialError::NoTls);
        }
        if wants_tls || info.tls_required {
            let name = ServerName::try_from(address.host().to_owned()).map_err(io::Error::other)?;
            socket = Box::new(TlsConnector::from(Arc::clone(&self.tls)).connect(name, socket).await?);
        }
        let hello = format!("CONNECT {}\r\nPING\r\n", self.hello(&info, wants_tls)?);
        socket.write_all(hello.as_bytes()).await?;
        socket.flush().await?;
        loop {
            match wire::parse(&buffer)? {
                Some((Op::Pong, length)) => {
                    buffer.advance(length);
                    return Ok(Connection { socket, buffer, info });
                }
                Some((Op::Err(error), _)) => return Err(DialError::Refused(error.to_owned())),
                Some((_, length)) => buffer.advance(length),
                None => read(&mut socket, &mut buffer).await?,
            }
        }
    }

    fn hello(&self, info: &Info, tls_required: bool) -> Result<Value, DialError> {
        let mut hello = json!({
            "verbose": false, "pedantic": false, "tls_required": tls_required, "name": self.name, "lang": "rust",
            "version": env!("CARGO_PKG_VERSION"), "protocol": 1, "echo": true, "headers": true, "no_responders": true,
        });
        let signature = |pair: &KeyPair| {
            let signed = pair.sign(info.nonce.as_deref().unwrap_or_default().as_bytes());
            signed.map(|signed| BASE64URL_NOPAD.encode(&signed)).map_err(|error| DialError::Identity(error.to_string()))
        };
        let with = match (&self.auth, &self.credentials) {
            (NatsAuth::UserPassword { user, password }, _) => json!({ "user": user, "pass": password }),
            (NatsAuth::Token(token), _) => json!({ "auth_token": token }),
            (NatsAuth::NkeySeed(seed), _) => {
                let pair = KeyPair::from_seed(seed).map_err(|error| DialError::Identity(error.to_string()))?;
                json!({ "nkey": pair.public_key(), "sig": signature(&pair)? })
            }
            (NatsAuth::CredentialsFile(_), Some(Credentials { jwt, pair })) => json!({ "jwt": jwt, "sig": signature(pair)? }),
            (NatsAuth::CredentialsFile(_), None) | (NatsAuth::None, _) => json!({}),
        };
        if let (Value::Object(hello), Value::Object(with)) = (&mut hello, with) {
            hello.extend(with);
        }
        Ok(hello)
    }
}

fn key(address: &ServerAddr) -> String {
    format!("{}:{}", address.host(), address.port())
}

/// Reads some more.
pub(super) async fn read(socket: &mut Box<dyn Socket>, buffer: &mut BytesMut) -> io::Result<()> {
    if socket.read_buf(buffer).await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// What stands between the lines of a credentials file that name `what`.
fn block<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("BEGIN {what}"))?;
    let (_, rest) = rest.split_once('\n')?;
    rest.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('-'))
}

fn tls(options: &NatsOptions) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match &options.ca_file {
        Some(path) => {
            for certificate in CertificateDer::pem_file_iter(path).map_err(io::Error::other)? {
                roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(io::Error::other)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn dialer(urls: &[&str]) -> Dialer {
        let urls = urls.iter().map(|url| (*url).to_owned()).collect();
        Dialer::new(&NatsOptions { urls, ..NatsOptions::default() }, "test".to_owned()).await.unwrap()
    }

    #[tokio::test]
    async fn another_server_is_tried_than_the_last_one() {
        let mut one = dialer(&["nats://a:1"]).await;
        one.last = Some("a:1".to_owned());
        assert_eq!(one.next(), Some(0), "there is no other");
        let mut three = dialer(&["nats://a:1", "nats://b:1", "nats://c:1"]).await;
        three.last = Some("b:1".to_owned());
        assert!((0..30).all(|_| three.next() != Some(1)));
        three.servers[0].failed = 2;
        assert!((0..30).all(|_| three.next() == Some(2)), "of the others the one that failed least");
        assert_eq!(dialer(&[]).await.next(), None);
    }

    #[tokio::test]
    async fn the_servers_of_a_cluster_are_learnt_once() {
        let mut dialer = dialer(&["nats://a:1"]).await;
        let Ok(Some((Op::Info(info), _))) = wire::parse(b"INFO {}\r\n") else { panic!("an info") };
        let info = Info { connect_urls: vec!["a:1".into(), "b:1".into(), "[::1]:4222".into(), "/".into()], ..*info };
        dialer.discover(&info);
        dialer.discover(&info);
        assert_eq!(dialer.servers.iter().map(|server| key(&server.address)).collect::<Vec<_>>(), ["a:1", "b:1", "::1:4222"]);
    }

    #[test]
    fn a_credentials_file_has_two_blocks() {
        let text = "-----BEGIN NATS USER JWT-----\neyJ0\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\n-----BEGIN USER NKEY SEED-----\nSUAX\n------END USER NKEY SEED------\n";
        assert_eq!((block(text, "NATS USER JWT"), block(text, "USER NKEY SEED")), (Some("eyJ0"), Some("SUAX")));
        assert_eq!(block("nonsense", "NATS USER JWT"), None);
    }
}
