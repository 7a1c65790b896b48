//! The codes of `error` frames, and the one table of close codes.

use serde::{Deserialize, Serialize};

/// What went wrong, for programs; the message beside it is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not one JSON object with a `type`.
    BadFrame,
    /// A `type` this protocol does not have.
    UnknownType,
    /// Missing or wrong fields.
    BadRequest,
    /// The token is missing, forged, expired or not for us.
    Unauthorized,
    /// The group or user is not there, or not for this user to know of.
    NotFound,
    /// Not allowed to this member.
    Forbidden,
    /// The user is blocked.
    Blocked,
    /// The nonce was used with another group or body.
    NonceReused,
    /// The body or frame is larger than `limits` says.
    TooLarge,
    /// A second `connect`, or another frame before it.
    OutOfOrder,
    /// More groups than `limits` says.
    TooManyGroups,
    /// Too many requests in flight: try again.
    Busy,
    /// Frames come faster than `limits` says.
    RateLimited,
    /// Something behind the gateway is away: try again.
    Unavailable,
    /// Not known whether it was stored: try again with the same nonce.
    Pending,
    /// This gateway is shutting down: try again elsewhere.
    Draining,
}

impl ErrorCode {
    /// Whether the same request may work later.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Busy | Self::RateLimited | Self::Unavailable | Self::Pending | Self::Draining => true,
            Self::BadFrame
            | Self::UnknownType
            | Self::BadRequest
            | Self::Unauthorized
            | Self::NotFound
            | Self::Forbidden
            | Self::Blocked
            | Self::NonceReused
            | Self::TooLarge
            | Self::OutOfOrder
            | Self::TooManyGroups => false,
        }
    }

    /// As written in frames.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadFrame => "bad_frame",
            Self::UnknownType => "unknown_type",
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
            Self::Blocked => "blocked",
            Self::NonceReused => "nonce_reused",
            Self::TooLarge => "too_large",
            Self::OutOfOrder => "out_of_order",
            Self::TooManyGroups => "too_many_groups",
            Self::Busy => "busy",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Pending => "pending",
            Self::Draining => "draining",
        }
    }
}

/// What a client does after a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconnect {
    /// At once, resuming.
    Now,
    /// After a pause with jitter.
    Later,
    /// Not before a person has done something.
    Never,
}

/// Why the server closes a connection (RFC 6455 section 7.4; 4000–4999 are ours).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// 1000: both are done.
    Normal,
    /// 1001: the process ends.
    GoingAway,
    /// 1002: against RFC 6455.
    Protocol,
    /// 1007: text that is not UTF-8.
    NotUtf8,
    /// 1009: a message over `limits.frame_bytes` or `limits.fragments`.
    TooBig,
    /// 1012: the gateway restarts.
    Restart,
    /// 1013: cannot go on now, for instance because what was missed could not be fetched.
    TryAgain,
    /// 4400: a frame that is none, binary, or out of order.
    BadFrame,
    /// 4401: no token, or one that does not hold, or not any more.
    Token,
    /// 4403: from an origin that is not allowed, or not allowed at all.
    NotAllowed,
    /// 4408: reads slower than it is sent to.
    SlowConsumer,
    /// 4409: replaced by a newer connection.
    Replaced,
    /// 4410: the heartbeat was not answered, or `connect`, or a message's end, does not come.
    HeartbeatLost,
    /// 4429: sends frames or bytes faster than allowed.
    RateLimited,
}

impl CloseCode {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::Protocol => 1002,
            Self::NotUtf8 => 1007,
            Self::TooBig => 1009,
            Self::Restart => 1012,
            Self::TryAgain => 1013,
            Self::BadFrame => 4400,
            Self::Token => 4401,
            Self::NotAllowed => 4403,
            Self::SlowConsumer => 4408,
            Self::Replaced => 4409,
            Self::HeartbeatLost => 4410,
            Self::RateLimited => 4429,
        }
    }

    /// The reason on the wire.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Normal => "",
            Self::GoingAway => "going away",
            Self::Protocol => "protocol error",
            Self::NotUtf8 => "text is UTF-8",
            Self::TooBig => "message too big",
            Self::Restart => "restart",
            Self::TryAgain => "try again",
            Self::BadFrame => "bad frame",
            Self::Token => "token",
            Self::NotAllowed => "not allowed",
            Self::SlowConsumer => "slow consumer",
            Self::Replaced => "replaced",
            Self::HeartbeatLost => "heartbeat lost",
            Self::RateLimited => "rate limited",
        }
    }

    /// What the client does then.
    pub fn reconnect(self) -> Reconnect {
        match self {
            Self::SlowConsumer | Self::HeartbeatLost => Reconnect::Now,
            Self::GoingAway | Self::Restart | Self::TryAgain | Self::RateLimited => Reconnect::Later,
            Self::Normal
            | Self::Protocol
            | Self::NotUtf8
            | Self::TooBig
            | Self::BadFrame
            | Self::Token
            | Self::NotAllowed
            | Self::Replaced => Reconnect::Never,
        }
    }

    /// All of them, for the documentation's test.
    pub const ALL: [Self; 14] = [
        Self::Normal,
        Self::GoingAway,
        Self::Protocol,
        Self::NotUtf8,
        Self::TooBig,
        Self::Restart,
        Self::TryAgain,
        Self::BadFrame,
        Self::Token,
        Self::NotAllowed,
        Self::SlowConsumer,
        Self::Replaced,
        Self::HeartbeatLost,
        Self::RateLimited,
    ];
}
