//! WebSocket frames by hand (RFC 6455, 5.2): as few bytes copied as can be, on either side.

/// A text frame.
pub const TEXT: u8 = 1;
/// A close frame.
pub const CLOSE: u8 = 8;
/// A ping.
pub const PING: u8 = 9;
/// A pong.
pub const PONG: u8 = 10;

/// Marks a length of two bytes, and of eight.
const LONG: u8 = 0x7e;
const LONGER: u8 = 0x7f;
/// The bit of a masked frame.
const MASKED: u8 = 0x80;

/// With what client frames are masked. It protects proxies from browsers' pages; any key does here.
const KEY: [u8; 4] = [0x5a, 0xc3, 0x0f, 0x96];

/// A frame that has come whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its opcode; 0 for the continuation of a message.
    pub opcode: u8,
    /// Whether its payload is masked, as clients' are, and where the mask is.
    pub mask: Option<[u8; 4]>,
    /// Where its payload begins.
    pub start: usize,
    /// Where it ends, and the next one begins.
    pub end: usize,
}

fn header(out: &mut Vec<u8>, opcode: u8, length: usize, masked: u8) {
    out.push(0x80 | opcode);
    if length < 126 {
        out.push(masked | length as u8);
    } else if let Ok(length) = u16::try_from(length) {
        out.push(masked | LONG);
        out.extend(length.to_be_bytes());
    } else {
        out.push(masked | LONGER);
        out.extend((length as u64).to_be_bytes());
    }
}

/// Appends a client's frame.
pub fn from_client(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    header(out, opcode, payload.len(), MASKED);
    out.extend(KEY);
    out.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Appends a server's frame.
pub fn from_server(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    header(out, opcode, payload.len(), 0);
    out.extend(payload);
}

/// The frame that begins at `from`, if all of it is there.
pub fn parse(bytes: &[u8], from: usize) -> Option<Frame> {
    let rest = bytes.get(from..)?;
    let (&first, &second) = (rest.first()?, rest.get(1)?);
    let (mut at, length) = match second & !MASKED {
        LONG => (4, usize::from(u16::from_be_bytes(*rest.get(2..)?.first_chunk()?))),
        LONGER => (10, usize::try_from(u64::from_be_bytes(*rest.get(2..)?.first_chunk()?)).ok()?),
        short => (2, usize::from(short)),
    };
    let mask = if second & MASKED == 0 {
        None
    } else {
        at += 4;
        Some(*rest.get(at - 4..)?.first_chunk()?)
    };
    let end = at.checked_add(length)?;
    (end <= rest.len()).then(|| Frame { opcode: first & 15, mask, start: from + at, end: from + end })
}

/// Takes the mask off a payload.
pub fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_each_length_comes_back_whole_and_never_early() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut bytes = b"before".to_vec();
            from_client(&mut bytes, TEXT, &payload);
            let found = parse(&bytes, 6).unwrap();
            assert_eq!((found.opcode, found.end), (TEXT, bytes.len()));
            assert!(parse(&bytes[..bytes.len() - 1], 6).is_none());
            let mut told = bytes[found.start..found.end].to_vec();
            unmask(&mut told, found.mask.unwrap());
            assert_eq!(told, payload);

            let mut bytes = Vec::new();
            from_server(&mut bytes, PING, &payload);
            let found = parse(&bytes, 0).unwrap();
            assert_eq!((found.opcode, found.mask, &bytes[found.start..found.end]), (PING, None, &payload[..]));
        }
    }
}
