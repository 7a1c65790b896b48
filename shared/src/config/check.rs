//! What values mean together, and for a role.

mod auth;

use std::{net::Ipv6Addr, path::Path, time::Duration};

use tracing_subscriber::EnvFilter;

use super::{Config, Limits, Nats, Retention, Role, database_url, source::Values};

/// Notes every mistake that a single value does not show.
pub(super) fn check(config: &Config, role: Role, values: &mut Values) {
    check_http(config, values);
    check_nats(&config.nats, values);
    check_database(config, role, values);
    auth::check(&config.auth, role, values);
    check_limits(&config.limits, role, values);
    check_retention(&config.retention, values);
    if config.gateway.drain_delay > config.gateway.drain_timeout {
        values.problem("gateway.drain_delay", "is longer than gateway.drain_timeout, which it is a part of");
    }
    if let Err(error) = EnvFilter::try_new(&config.telemetry.filter) {
        values.problem("telemetry.filter", &format!("{:?} is not a log filter: {error}", config.telemetry.filter));
    }
}

fn check_http(config: &Config, values: &mut Values) {
    for origin in &config.http.allowed_origins {
        if !is_origin(origin) {
            let message = format!(
                "{origin:?} is not an origin, such as https://chat.example.com, in lower case, without a path and without :443 or :80"
            );
            values.problem("http.allowed_origins", &message);
        }
    }
    if let Some(url) = &config.http.public_url
        && !is_origin(url.strip_suffix('/').unwrap_or(url))
    {
        values.problem(
            "http.public_url",
            &format!("{url:?} is not a URL without a path and without :443 or :80, such as https://chat.example.com"),
        );
    }
    if let Some(folder) = &config.http.pages_dir {
        check_file("http.pages_dir", &folder.join("chat.html"), values);
    }
    if !config.http.pages_csp.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        values.problem("http.pages_csp", "is not a Content-Security-Policy: visible ASCII characters only, on one line");
    }
}

/// As browsers send it: scheme, host, and the port if it is not the scheme's own.
fn is_origin(text: &str) -> bool {
    let parts = text.strip_prefix("https://").map(|rest| (rest, 443)).or_else(|| Some((text.strip_prefix("http://")?, 80)));
    let Some((rest, own_port)) = parts else { return false };
    // An IPv6 address has colons of its own, within its brackets.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok() && !address.contains(|c: char| c.is_ascii_uppercase()),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c)),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|number| number != own_port && number.to_string() == port);
    is_host && port.is_none_or(is_port)
}

fn check_nats(nats: &Nats, values: &mut Values) {
    // The URL may hold a password by mistake, so it is never shown here.
    if let Some(url) = &nats.url {
        for server in url.split(',').map(str::trim) {
            let address = server.strip_prefix("nats://").or_else(|| server.strip_prefix("tls://")).unwrap_or(server);
            if address.contains('@') {
                values.problem("nats.url", "holds a user or password: set nats.user and nats.password instead");
            } else if address.is_empty() || address.contains("://") || address.contains(char::is_whitespace) {
                values.problem("nats.url", "is not a list of servers, such as nats://n1:4222,nats://n2:4222");
            }
        }
    }
    if nats.replicas.is_multiple_of(2) {
        values.problem("nats.replicas", &format!("{} is even: a majority needs 1, 3 or 5", nats.replicas));
    }
    let ways = [nats.user.is_some(), nats.token.is_some(), nats.nkey_seed.is_some(), nats.creds_file.is_some()];
    if ways.into_iter().filter(|given| *given).count() > 1 {
        values.problem("nats.user", "only one of nats.user, nats.token, nats.nkey_seed and nats.creds_file can be set");
    }
    if nats.user.is_some() != nats.password.is_some() {
        values.problem("nats.password", "nats.user and nats.password come together");
    }
    for (key, file) in [("nats.creds_file", &nats.creds_file), ("nats.tls_ca_file", &nats.tls_ca_file)] {
        if let Some(file) = file {
            check_file(key, file, values);
        }
    }
}

fn check_file(key: &str, file: &Path, values: &mut Values) {
    if let Err(error) = std::fs::File::open(file) {
        values.problem(key, &format!("{:?} cannot be read: {error}", file.display().to_string()));
    }
}

fn check_database(config: &Config, role: Role, values: &mut Values) {
    let Some(url) = &config.database.url else {
        if role == Role::Persister {
            values.problem("database.url", "is not set; the persister needs it, as postgres://… or sqlite://…");
        }
        return;
    };
    if let Some(problem) = database_url::problem(url.expose()) {
        values.problem("database.url", problem);
    }
}

/// Shorter ones are mistakes in the unit, and delete what nobody meant.
const MIN_RETENTION: Duration = Duration::from_hours(1);

/// Longer ones mean for good, which is said by nothing.
const MAX_RETENTION: Duration = Duration::from_hours(24 * 365 * 100);

fn check_retention(retention: &Retention, values: &mut Values) {
    for (key, keep) in [("retention.messages", retention.messages), ("retention.notifications", retention.notifications)] {
        if keep.is_some_and(|keep| keep < MIN_RETENTION) {
            values.problem(key, "is shorter than an hour; unset, they are kept for good");
        }
        if keep.is_some_and(|keep| keep > MAX_RETENTION) {
            values.problem(key, "is longer than a hundred years; unset, they are kept for good");
        }
    }
}

/// Frames that a client sends beside its requests: `connect`, a pong and a close.
const FRAMES_BESIDE: u32 = 3;

/// A client that keeps to the rates, as natter.js does, sends a quarter of a second's at once, and then a frame.
fn check_bursts(limits: &Limits, values: &mut Values) {
    let frames = limits.frames_per_second / 4 + 1 + FRAMES_BESIDE;
    if limits.frames_burst < frames {
        let message =
            format!("is smaller than {frames}, what clients send at once under limits.frames_per_second: raise it, or lower that");
        values.problem("limits.frames_burst", &message);
    }
    let frames = limits.user_frames_per_second / 4 + 1;
    if limits.user_frames_burst < frames {
        let message =
            format!("is smaller than {frames}, what clients send at once under limits.user_frames_per_second: raise it, or lower that");
        values.problem("limits.user_frames_burst", &message);
    }
    let bytes = limits.bytes_per_second / 4 + limits.frame_bytes + limits.connect_frame_bytes;
    if limits.bytes_burst < bytes {
        let message = format!(
            "is smaller than {bytes} bytes, what clients send at once: a quarter of limits.bytes_per_second, limits.frame_bytes and \
             limits.connect_frame_bytes together"
        );
        values.problem("limits.bytes_burst", &message);
    }
}

/// A group and its position in a `connect` frame, as JSON: 42 bytes, and the position's digits.
const RESUMED_GROUP_BYTES: usize = 64;

fn check_limits(limits: &Limits, role: Role, values: &mut Values) {
    // Around the text there is the frame, and JSON may escape what is in it.
    if limits.body_bytes >= limits.frame_bytes {
        values.problem("limits.body_bytes", "is not smaller than limits.frame_bytes, which it has to fit in");
    }
    if limits.backlog_bytes < limits.frame_bytes {
        values.problem("limits.backlog_bytes", "is smaller than limits.frame_bytes: one frame has to fit in");
    }
    check_bursts(limits, values);
    // A client with more would be closed for good whenever it comes back. Frames are a gateway's: a persister is told of the groups alone.
    let resumed_bytes = limits.groups_per_connection * RESUMED_GROUP_BYTES;
    if role != Role::Persister && resumed_bytes > limits.connect_frame_bytes {
        let message = format!(
            "to resume {} groups takes up to {resumed_bytes} bytes, more than limits.connect_frame_bytes ({}): raise that, or lower this",
            limits.groups_per_connection, limits.connect_frame_bytes
        );
        values.problem("limits.groups_per_connection", &message);
    }
    if limits.header_timeout > limits.handshake_timeout {
        values.problem("limits.header_timeout", "is longer than limits.handshake_timeout, which it is a part of");
    }
}
