//! `<binary> health`: asks the process on this machine whether it is alive or ready, by its own HTTP,
//! for images that hold nothing but the binaries.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use clap::Args;

/// How long each step of the question may take; a container's health check waits no longer.
const WITHIN: Duration = Duration::from_secs(3);

/// An answer of the size we send fits; more of it is not read.
const ANSWER_BYTES: u64 = 4096;

/// What is asked.
#[derive(Debug, Clone, Copy, Args)]
pub struct AskHealth {
    /// Whether it is ready, too: what it stands on answers
    #[arg(long)]
    pub ready: bool,
}

/// Why a process is not well.
#[derive(Debug, thiserror::Error)]
pub enum Unwell {
    /// It serves no health.
    #[error("no address to ask: NATTER_PERSISTER__HTTP_LISTEN is empty")]
    NoAddress,
    /// Nobody answers.
    #[error("{url} does not answer; is it running, with this config?")]
    Silent {
        /// What was asked.
        url: String,
        /// Why not.
        source: io::Error,
    },
    /// It answers that something is missing.
    #[error("{url} answers: {answer}")]
    Missing {
        /// What was asked.
        url: String,
        /// Status and body.
        answer: String,
    },
}

impl AskHealth {
    /// Asks who listens on `address`, as its config says.
    ///
    /// # Errors
    /// All but a 200.
    pub fn of(self, address: Option<SocketAddr>) -> Result<(), Unwell> {
        let address = here(address.ok_or(Unwell::NoAddress)?);
        let path = if self.ready { "/readyz" } else { "/healthz" };
        let url = format!("http://{address}{path}");
        match ask(address, path) {
            Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => Ok(()),
            Ok(answer) => Err(Unwell::Missing { url, answer: summary(&answer) }),
            Err(source) => Err(Unwell::Silent { url, source }),
        }
    }
}

/// Who listens on every address is asked on this machine's own.
fn here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn ask(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.set_write_timeout(Some(WITHIN))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Its first line and its body.
fn summary(answer: &str) -> String {
    let status = answer.lines().next().unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim()).unwrap_or_default();
    format!("{status} {body}").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        net::TcpListener,
    };

    use super::*;

    fn answered_with(answer: &'static str) -> Result<(), Unwell> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = SocketAddr::from(([0, 0, 0, 0], listener.local_addr().unwrap().port()));
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // All of it: what is unread would turn the end of the connection into a reset.
            let mut request = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            while !request.ends_with("\r\n\r\n") && lines.read_line(&mut request).unwrap() > 0 {}
            stream.write_all(answer.as_bytes()).unwrap();
            request
        });
        let said = AskHealth { ready: true }.of(Some(address));
        assert!(server.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
        said
    }

    #[test]
    fn only_a_200_is_well() {
        answered_with("HTTP/1.1 200 OK\r\n\r\nready").unwrap();
        let unwell = answered_with("HTTP/1.1 503 Service Unavailable\r\n\r\nmissing: broker").unwrap_err().to_string();
        assert!(unwell.ends_with("HTTP/1.1 503 Service Unavailable missing: broker"), "{unwell}");
        assert!(matches!(AskHealth { ready: false }.of(None), Err(Unwell::NoAddress)));
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(AskHealth { ready: false }.of(Some(nobody)), Err(Unwell::Silent { .. })));
    }
}
