//! Why NATS cannot be reached. The client goes on trying and tells the kind of each error only ("IO
//! error"), so while it is away a connection is tried now and then just to hear the reason: an operator
//! has to learn whether the address, the certificate or the lack of TLS is to be mended.

use std::{error::Error as _, sync::Arc, time::Duration};

use async_nats::{ConnectError, ConnectErrorKind};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    connect::{self, Health},
    options::{NatsOptions, Role},
};

/// A restart is over sooner; nothing is said of it.
const GRACE: Duration = Duration::from_secs(1);

/// Between two lines.
const EVERY: Duration = Duration::from_secs(30);

/// What is to be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// The server's certificate is of no authority that we trust, or of another host.
    Certificate,
    /// We want TLS, the server does not speak it.
    NoTls,
    /// Nobody there, no such host, or the like.
    Address,
    /// Who we are: said where the server says it.
    Identity,
}

/// Says why, while NATS is away, until `stop`.
pub(super) async fn explain(options: NatsOptions, role: Role, health: Arc<Health>, stop: CancellationToken) {
    let explaining = async {
        loop {
            health.troubled().await;
            tokio::time::sleep(GRACE).await;
            let is_away = !health.watch().borrow().connected;
            if is_away && let Err(error) = connect::once(&options, role).await {
                say(role, &error);
                tokio::time::sleep(EVERY).await;
            }
        }
    };
    tokio::select! {
        () = explaining => {}
        () = stop.cancelled() => {}
    }
}

fn say(role: Role, error: &ConnectError) {
    let (service, reason) = (role.as_str(), chain(error));
    match wrong(error.kind(), &reason) {
        Wrong::Certificate => error!(
            service,
            reason,
            "nats_not_trusted: the certificate of NATS does not hold; nats.tls_ca_file (NATTER_NATS__TLS_CA_FILE) has to be the \
             authority that signed it, and nats.url a name that it is made out to. Trying again"
        ),
        Wrong::NoTls => error!(
            service,
            reason,
            "nats_without_tls: nats.tls_required is set (or nats.url begins with tls://), but NATS does not speak TLS there; uncomment \
             `tls` in its config (deploy/nats.conf). Nothing was sent to it. Trying again"
        ),
        Wrong::Address => warn!(service, reason, "nats_unreachable: nobody answers as NATS at nats.url. Trying again"),
        Wrong::Identity => {}
    }
}

fn wrong(kind: ConnectErrorKind, reason: &str) -> Wrong {
    let says = |text: &str| reason.contains(text);
    match kind {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => Wrong::Identity,
        // The TLS library's errors come as errors of the stream.
        _ if says("certificate") => Wrong::Certificate,
        _ if says("corrupt message") || says("handshake eof") => Wrong::NoTls,
        _ => Wrong::Address,
    }
}

/// The error with what is behind it, each thing once: some of them name their source themselves.
fn chain(error: &ConnectError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_mended_is_told_apart() {
        let io = ConnectErrorKind::Io;
        assert_eq!(wrong(io, "IO error: invalid peer certificate: UnknownIssuer"), Wrong::Certificate);
        assert_eq!(wrong(io, "IO error: received corrupt message of type InvalidContentType"), Wrong::NoTls);
        assert_eq!(wrong(io, "IO error: Connection refused (os error 111)"), Wrong::Address);
        assert_eq!(wrong(ConnectErrorKind::AuthorizationViolation, "authorization violation"), Wrong::Identity);
    }
}
