//! NATS's client protocol, as much as a [`Link`](super::Link) needs of it
//! (<https://docs.nats.io/reference/reference-protocols/nats-protocol>).

use std::io::Write as _;

use serde::Deserialize;

use super::Publication;

/// A line of the protocol is no longer than that, the server's own words about itself in a large cluster included.
const LINE: usize = 64 * 1024;

/// A message is no larger: the server's bound is `max_payload`, 64 MiB at most.
const MESSAGE: usize = 64 << 20;

/// The status of an answer where nobody listens on the subject.
pub(super) const NO_RESPONDERS: u16 = 503;

/// A message as it lies in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Incoming<'a> {
    pub(in super::super) subject: &'a str,
    /// What the server says instead of a message.
    pub(super) status: Option<u16>,
    /// Lines of names and values, after the version; empty where there are none.
    headers: &'a str,
    pub(in super::super) payload: &'a [u8],
}

impl<'a> Incoming<'a> {
    /// The first value of this name.
    pub(in super::super) fn header(&self, name: &str) -> Option<&'a str> {
        let mut lines = self.headers.split('\n');
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }
}

/// What the server says.
#[derive(Debug, PartialEq)]
pub(super) enum Op<'a> {
    Message { id: u64, message: Incoming<'a> },
    Info(Box<Info>),
    Ping,
    Pong,
    Ok,
    Err(&'a str),
}

/// What a server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Info {
    #[serde(default)]
    pub(super) version: String,
    #[serde(default)]
    pub(super) nonce: Option<String>,
    #[serde(default)]
    pub(super) tls_required: bool,
    #[serde(default)]
    pub(super) tls_available: bool,
    #[serde(default)]
    pub(super) connect_urls: Vec<String>,
    /// Bytes of headers and payload.
    #[serde(default)]
    pub(super) max_payload: Option<usize>,
    /// It is about to close.
    #[serde(default, rename = "ldm")]
    pub(super) lame_duck: bool,
}

/// What is no NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an answer that is not NATS's: {0}")]
pub(super) struct Foreign(pub(super) &'static str);

/// The first operation in `buffer` and how long it is; none where its end is not there yet.
pub(super) fn parse(buffer: &[u8]) -> Result<Option<(Op<'_>, usize)>, Foreign> {
    let Some(end) = buffer.iter().position(|byte| *byte == b'\n') else {
        return if buffer.len() > LINE { Err(Foreign("a line without an end")) } else { Ok(None) };
    };
    let rest = end + 1;
    let line = buffer.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Foreign("a line that ends otherwise"))?;
    let line = std::str::from_utf8(line).map_err(|_| Foreign("a line that is no text"))?;
    let (name, arguments) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let op = match name {
        "MSG" | "HMSG" => return message(name == "HMSG", arguments, buffer, rest),
        "PING" => Op::Ping,
        "PONG" => Op::Pong,
        "+OK" => Op::Ok,
        "-ERR" => Op::Err(arguments.trim().trim_matches('\'')),
        "INFO" => Op::Info(serde_json::from_str(arguments).map_err(|_| Foreign("an INFO that is none"))?),
        _ => return Err(Foreign("an operation that is not known")),
    };
    Ok(Some((op, rest)))
}

/// `MSG <subject> <id> [reply] <bytes>`, or `HMSG <subject> <id> [reply] <bytes of headers> <bytes in all>`.
fn message<'a>(has_headers: bool, arguments: &'a str, buffer: &'a [u8], begin: usize) -> Result<Option<(Op<'a>, usize)>, Foreign> {
    const SHAPE: Foreign = Foreign("a message of another shape");
    let mut fields = arguments.split_ascii_whitespace();
    let (subject, id) = (fields.next().ok_or(SHAPE)?, fields.next().ok_or(SHAPE)?);
    let mut sizes = fields.rev().map(str::parse::<usize>);
    let mut size = || sizes.next().and_then(Result::ok).filter(|size| *size <= MESSAGE).ok_or(SHAPE);
    let in_all = size()?;
    let of_headers = if has_headers { size()? } else { 0 };
    let (id, end) = (id.parse().map_err(|_| SHAPE)?, begin + in_all);
    let Some(after) = buffer.get(end..end + 2) else { return Ok(None) };
    if after != b"\r\n" {
        return Err(SHAPE);
    }
    let (headers, payload) = buffer.get(begin..end).and_then(|all| all.split_at_checked(of_headers)).ok_or(SHAPE)?;
    let headers = std::str::from_utf8(headers).map_err(|_| SHAPE)?;
    // The first line is the version, and perhaps a status and what it means.
    let (first, headers) = headers.split_once("\r\n").map_or(("", ""), |(first, lines)| (first, lines.trim_end()));
    let status = first.split_ascii_whitespace().nth(1).and_then(|status| status.parse().ok());
    Ok(Some((Op::Message { id, message: Incoming { subject, status, headers, payload } }, end + 2)))
}

pub(super) fn subscribe(out: &mut Vec<u8>, subject: &str, id: u64) {
    // Nothing that is written to a Vec fails.
    let _ = write!(out, "SUB {subject} {id}\r\n");
}

pub(super) fn unsubscribe(out: &mut Vec<u8>, id: u64) {
    let _ = write!(out, "UNSUB {id}\r\n");
}

/// More than the server takes: it would close the connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// `PUB <subject> [reply] <bytes>`, or `HPUB <subject> [reply] <bytes of headers> <bytes in all>`.
pub(super) fn publish(out: &mut Vec<u8>, publication: Publication<'_>, max_payload: usize) -> Result<(), TooLarge> {
    const VERSION: &str = "NATS/1.0\r\n";
    let Publication { subject, reply, headers, payload } = publication;
    let lines: usize = headers.iter().map(|(name, value)| AsRef::<str>::as_ref(name).len() + value.len() + ": \r\n".len()).sum();
    let of_headers = if headers.is_empty() { 0 } else { VERSION.len() + lines + "\r\n".len() };
    let in_all = of_headers + payload.len();
    if in_all > max_payload {
        return Err(TooLarge);
    }
    let (reply, space) = reply.map_or(("", ""), |reply| (reply, " "));
    if headers.is_empty() {
        let _ = write!(out, "PUB {subject} {reply}{space}{in_all}\r\n");
    } else {
        let _ = write!(out, "HPUB {subject} {reply}{space}{of_headers} {in_all}\r\n{VERSION}");
        for (name, value) in headers {
            let name: &str = name.as_ref();
            for part in [name, ": ", value, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderName;
    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> Option<(Op<'_>, usize)> {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn messages_are_read_once_they_are_whole() {
        let text = "HMSG live.0.g.x 7 34 39\r\nNATS/1.0\r\nNats-Sequence: 12\r\nA:b\r\n\r\nhello\r\nPING\r\n";
        // The figures have to be those of the text.
        let of_headers = text.find("hello").unwrap() - text.find("NATS/").unwrap();
        let text = text.replace("34 39", &format!("{of_headers} {}", of_headers + 5));
        for cut in 0..text.find("PING").unwrap() {
            assert_eq!(message(&text[..cut]), None, "{cut}");
        }
        let Some((Op::Message { id, message: read }, end)) = message(&text) else { panic!("a message") };
        assert_eq!((id, read.subject, read.payload), (7, "live.0.g.x", &b"hello"[..]));
        assert_eq!((read.header("Nats-Sequence"), read.header("A"), read.header("Nats")), (Some("12"), Some("b"), None));
        assert_eq!(message(&text[end..]), Some((Op::Ping, 6)));
        let plain = "MSG a.b 3 reply.to 2\r\nhi\r\n";
        let Some((Op::Message { id, message: read }, end)) = message(plain) else { panic!("a message") };
        assert_eq!((id, read.subject, read.header("A"), read.payload, end), (3, "a.b", None, &b"hi"[..], plain.len()));
    }

    fn published(publication: Publication<'_>) -> String {
        let mut out = Vec::new();
        publish(&mut out, publication, 100).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_published_is_read_again() {
        let headers = [(HeaderName::from_static("Nats-Msg-Id"), "1"), (HeaderName::from_static("Natter-At"), "17")];
        for reply in [None, Some("_INBOX.x.1")] {
            let text = published(Publication { subject: "ev.0.c.x", reply, headers: &headers, payload: b"{}" });
            let text = text.replace("HPUB ev.0.c.x", "HMSG ev.0.c.x 1");
            let Some((Op::Message { message: read, .. }, _)) = message(&text) else { panic!("a message") };
            assert_eq!((read.header("Nats-Msg-Id"), read.header("Natter-At"), read.payload), (Some("1"), Some("17"), &b"{}"[..]));
        }
        let plain = Publication { subject: "live.0.c.x", reply: None, headers: &[], payload: b"hi" };
        assert_eq!(published(plain), "PUB live.0.c.x 2\r\nhi\r\n");
        assert_eq!(published(Publication { reply: Some("_INBOX.x.1"), ..plain }), "PUB live.0.c.x _INBOX.x.1 2\r\nhi\r\n");
    }

    #[test]
    fn no_more_is_published_than_the_server_takes() {
        let mut out = Vec::new();
        let publication = |payload| Publication { subject: "a", reply: None, headers: &[], payload };
        assert_eq!(publish(&mut out, publication(&[0; 101]), 100), Err(TooLarge));
        assert!(out.is_empty());
        assert_eq!(publish(&mut out, publication(&[0; 100]), 100), Ok(()));
        let headers = [(HeaderName::from_static("A"), "b")];
        out.clear();
        assert_eq!(publish(&mut out, Publication { headers: &headers, ..publication(&[0; 83]) }, 100), Err(TooLarge), "headers count");
        assert_eq!(publish(&mut out, Publication { headers: &headers, ..publication(&[0; 82]) }, 100), Ok(()));
    }

    #[test]
    fn a_status_is_told_from_a_message() {
        fn status(text: &str) -> (Option<u16>, Option<&str>) {
            match message(text) {
                Some((Op::Message { message: read, .. }, _)) => (read.status, read.header("A")),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(status("HMSG a 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"), (Some(NO_RESPONDERS), None));
        assert_eq!(status("HMSG a 1 29 29\r\nNATS/1.0 100 Idle\r\nA: 503\r\n\r\n\r\n").0, Some(100));
        assert_eq!(status("HMSG a 1 18 18\r\nNATS/1.0\r\nA: b\r\n\r\n\r\n"), (None, Some("b")));
    }

    #[test]
    fn errors_and_infos_are_told() {
        assert_eq!(message("-ERR 'Authorization Violation'\r\n"), Some((Op::Err("Authorization Violation"), 32)));
        let text = "INFO {\"version\":\"2.15.1\",\"nonce\":\"abc\",\"tls_required\":true,\"max_payload\":1}\r\n";
        let Some((Op::Info(info), _)) = message(text) else { panic!("an info") };
        assert_eq!((info.version.as_str(), info.nonce.as_deref(), info.tls_required), ("2.15.1", Some("abc"), true));
        assert_eq!(info.max_payload, Some(1));
        for foreign in
            ["HTTP/1.1 400 Bad Request\r\n", "MSG a\r\n", "MSG a b 3\r\nabc\r\n", "MSG a 1 1\r\nabc\r\n", "HMSG a 1 9 3\r\nabc\r\n"]
        {
            assert!(parse(foreign.as_bytes()).is_err(), "{foreign}");
        }
        assert!(parse(&vec![b'x'; LINE + 1]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), op in "(MSG|HMSG|INFO|-ERR)? ?[a-z0-9 ]{0,20}\r\n") {
            let _ = parse(&bytes);
            let all = [op.as_bytes(), &bytes].concat();
            let _ = parse(&all);
        }
    }
}
