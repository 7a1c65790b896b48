//! How a server is reached: which one, TLS, and who we are.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_nats::ServerAddr;
use bytes::{Buf, BytesMut};
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, lookup_host},
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
    /// Every server, those that others tell of included.
    tls_required: bool,
    ca_file: Option<PathBuf>,
    /// The name of a server that was configured, as those have it that are told of by their addresses.
    host: Option<String>,
    /// For each address of a server.
    within: Duration,
}

#[derive(Clone)]
struct Server {
    address: ServerAddr,
    /// What its certificate is for.
    name: String,
    /// Others told of it; it was not configured.
    is_discovered: bool,
    failed: usize,
}

struct Credentials {
    jwt: String,
    pair: KeyPair,
}

impl Dialer {
    pub(super) async fn new(options: &NatsOptions, name: String) -> Result<Self, NatsError> {
        let mut servers: Vec<Server> = Vec::new();
        let addresses = connect::servers(options)?;
        let tls_required = options.tls_required || addresses.iter().any(ServerAddr::tls_required);
        for address in addresses {
            if !servers.iter().any(|server| key(&server.address) == key(&address)) {
                servers.push(Server { name: address.host().to_owned(), address, is_discovered: false, failed: 0 });
            }
        }
        let host = servers.iter().map(|server| &server.name).find(|name| name.parse::<IpAddr>().is_err()).cloned();
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
        let (auth, ca_file, within) = (options.auth.clone(), options.ca_file.clone(), options.connect_timeout);
        Ok(Self { name, servers, last: None, auth, credentials, tls_required, ca_file, host, within })
    }

    /// Tries the next server.
    pub(super) async fn dial(&mut self) -> Result<Connection, DialError> {
        let none = || DialError::from(io::Error::from(io::ErrorKind::AddrNotAvailable));
        let index = self.next().ok_or_else(none)?;
        let server = self.servers.get(index).ok_or_else(none)?.clone();
        self.last = Some(key(&server.address));
        let reached = self.reach(&server).await;
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

    /// The other servers of its cluster, and no more those that have left it: they have other addresses when they come back.
    pub(super) fn discover(&mut self, info: &Info) {
        let addresses = info.connect_urls.iter().filter_map(|url| format!("nats://{url}").parse::<ServerAddr>().ok());
        let named: Vec<ServerAddr> = addresses.filter(|address| !address.host().is_empty()).collect();
        if named.is_empty() {
            return;
        }
        self.servers.retain(|server| !server.is_discovered || named.iter().any(|address| key(address) == key(&server.address)));
        for address in named {
            if !self.servers.iter().any(|server| key(&server.address) == key(&address)) {
                let host = address.host();
                let of_configured = self.host.as_ref().filter(|_| host.parse::<IpAddr>().is_ok());
                let name = of_configured.cloned().unwrap_or_else(|| host.to_owned());
                self.servers.push(Server { name, address, is_discovered: true, failed: 0 });
            }
        }
    }

    /// Tries its addresses, one after the other: one may be dead.
    async fn reach(&self, server: &Server) -> Result<Connection, DialError> {
        let mut last = DialError::from(io::Error::from(io::ErrorKind::NotFound));
        let resolving = lookup_host((server.address.host(), server.address.port()));
        for address in timeout(self.within, resolving).await.map_err(|_| DialError::TimedOut)?? {
            match timeout(self.within, self.reach_at(address, &server.name)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(refused @ DialError::Refused(_))) => return Err(refused),
                Ok(Err(error)) => last = error,
                Err(_) => last = DialError::TimedOut,
            }
        }
        Err(last)
    }

    async fn reach_at(&self, address: SocketAddr, name: &str) -> Result<Connection, DialError> {
        let stream = TcpStream::connect(address).await?;
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
        if self.tls_required && !info.tls_required && !info.tls_available {
            return Err(DialError::NoTls);
        }
        if self.tls_required || info.tls_required {
            if !buffer.is_empty() {
                // It would be believed as if it had come over TLS.
                return Err(wire::Foreign("something before TLS that only comes after it").into());
            }
            let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
            // Anew each time: the authority's file may be another by now.
            let config = Arc::new(tls(self.ca_file.as_ref())?);
            socket = Box::new(TlsConnector::from(config).connect(name, socket).await?);
        }
        let hello = format!("CONNECT {}\r\nPING\r\n", self.hello(&info)?);
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

    fn hello(&self, info: &Info) -> Result<Value, DialError> {
        let mut hello = json!({
            "verbose": false, "pedantic": false, "tls_required": self.tls_required, "name": self.name, "lang": "rust",
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
async fn read(socket: &mut Box<dyn Socket>, buffer: &mut BytesMut) -> io::Result<()> {
    if socket.read_buf(buffer).await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// What stands between the lines of a credentials file that name `what`.
fn block<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("BEGIN {what}"))?;
    let (_, rest) = rest.split_once('\n')?;
    rest.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('-'))
}

fn tls(ca_file: Option<&PathBuf>) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca_file {
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
        let info = Info { connect_urls: vec!["a:1".into(), "b:1".into(), "[::1]:4222".into(), "/".into()], ..Info::default() };
        dialer.discover(&info);
        dialer.discover(&info);
        assert_eq!(dialer.servers.iter().map(|server| key(&server.address)).collect::<Vec<_>>(), ["a:1", "b:1", "::1:4222"]);
    }

    #[tokio::test]
    async fn servers_that_have_left_a_cluster_are_forgotten() {
        let mut dialer = dialer(&["nats://a:1"]).await;
        let keys = |dialer: &Dialer| dialer.servers.iter().map(|server| key(&server.address)).collect::<Vec<_>>();
        for (told, known) in [(&["b:1"][..], ["a:1", "b:1"]), (&["c:1"], ["a:1", "c:1"]), (&[], ["a:1", "c:1"])] {
            dialer.discover(&Info { connect_urls: told.iter().map(|url| (*url).to_owned()).collect(), ..Info::default() });
            assert_eq!(keys(&dialer), known);
        }
    }

    #[tokio::test]
    async fn a_server_that_is_told_of_by_its_address_has_the_name_of_one_that_was_configured() {
        let names = async |url: &str| {
            let mut dialer = dialer(&[url]).await;
            dialer.discover(&Info { connect_urls: vec!["10.0.0.2:4222".into(), "b:4222".into()], ..Info::default() });
            (dialer.tls_required, dialer.servers.into_iter().map(|server| server.name).collect::<Vec<_>>())
        };
        let owned = |names: [&str; 3]| names.map(str::to_owned).to_vec();
        assert_eq!(names("tls://a:1").await, (true, owned(["a", "a", "b"])), "and TLS holds for all");
        assert_eq!(names("nats://10.0.0.1:1").await, (false, owned(["10.0.0.1", "10.0.0.2", "b"])));
    }

    #[tokio::test]
    async fn a_server_that_is_named_twice_is_one() {
        let mut twice = dialer(&["nats://a:1", "nats://a:1"]).await;
        twice.last = Some("a:1".to_owned());
        assert_eq!(twice.next(), Some(0));
    }

    /// A server that says `greeting` to whom connects.
    async fn greets(greeting: &'static str) -> Dialer {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(greeting.as_bytes()).await.unwrap();
                kept.push(stream);
            }
        });
        dialer(&[&url]).await
    }

    #[tokio::test]
    async fn what_comes_before_tls_is_not_believed_after_it() {
        let mut dialer = greets("INFO {\"tls_required\":true}\r\nPONG\r\nMSG live.0.g.x 1 2\r\nhi\r\n").await;
        let reached = dialer.dial().await.err();
        assert!(matches!(reached, Some(DialError::Foreign(_))), "{reached:?}");
    }

    #[tokio::test]
    async fn nothing_is_said_in_clear_where_tls_is_asked_for() {
        let mut dialer = greets("INFO {}\r\n").await;
        dialer.tls_required = true;
        let reached = dialer.dial().await.err();
        assert!(matches!(reached, Some(DialError::NoTls)), "{reached:?}");
    }

    #[test]
    fn a_credentials_file_has_two_blocks() {
        let text = "-----BEGIN NATS USER JWT-----\neyJ0\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\n-----BEGIN USER NKEY SEED-----\nSUAX\n------END USER NKEY SEED------\n";
        assert_eq!((block(text, "NATS USER JWT"), block(text, "USER NKEY SEED")), (Some("eyJ0"), Some("SUAX")));
        assert_eq!(block("nonsense", "NATS USER JWT"), None);
    }
}
