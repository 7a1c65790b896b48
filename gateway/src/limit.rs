//! The limits that refuse somebody, by the name of their key in the config: one vocabulary for
//! metrics and logs.

use natter_shared::frame::CloseCode;

macro_rules! limits {
    ($($(#[doc = $doc:literal])* $name:ident = $key:literal,)*) => {
        /// A limit of the config's section `limits`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Limit {
            $($(#[doc = $doc])* $name,)*
        }

        impl Limit {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its key within the section.
            pub fn key(self) -> &'static str {
                match self {
                    $(Self::$name => $key,)*
                }
            }
        }
    };
}

limits! {
    /// Of the process.
    Connections = "connections",
    /// From one address.
    ConnectionsPerIp = "connections_per_ip",
    /// Of one user.
    ConnectionsPerUser = "connections_per_user",
    /// Of the process.
    HandshakesPerSecond = "handshakes_per_second",
    /// Of the process.
    MemoryBytes = "memory_bytes",
    /// Headers of a request, in bytes or in number.
    HeaderBytes = "header_bytes",
    /// For a request's headers.
    HeaderTimeout = "header_timeout",
    /// For the whole handshake.
    HandshakeTimeout = "handshake_timeout",
    /// For the `connect` frame.
    ConnectTimeout = "connect_timeout",
    /// A message's size.
    FrameBytes = "frame_bytes",
    /// Frames of one connection, control frames and fragments counted.
    FramesPerSecond = "frames_per_second",
    /// What one user's connections ask to be stored, or told to others.
    UserFramesPerSecond = "user_frames_per_second",
    /// Notifications of one user to groups.
    GroupNotificationsPerMinute = "group_notifications_per_minute",
    /// Bytes of one connection.
    BytesPerSecond = "bytes_per_second",
    /// Frames of one message.
    Fragments = "fragments",
    /// For one message, from its first frame to its last.
    AssemblyTimeout = "assembly_timeout",
    /// What waits for a slow reader, in frames or in bytes.
    Backlog = "backlog_bytes",
    /// For a sign of life.
    HeartbeatTimeout = "heartbeat_timeout",
    /// Requests of one connection in flight.
    InFlightSends = "in_flight_sends",
    /// Groups of one connection.
    GroupsPerConnection = "groups_per_connection",
    /// A request's body.
    HttpBodyBytes = "http_body_bytes",
    /// For a request.
    HttpTimeout = "http_timeout",
    /// Calls of one user.
    HttpRequestsPerSecond = "http_requests_per_second",
    /// Calls of one key.
    ServerRequestsPerSecond = "server_requests_per_second",
}

impl Limit {
    /// The limit behind a close, where there is but one.
    pub fn of_close(code: CloseCode) -> Option<Self> {
        match code {
            CloseCode::SlowConsumer => Some(Self::Backlog),
            CloseCode::Normal
            | CloseCode::GoingAway
            | CloseCode::Protocol
            | CloseCode::NotUtf8
            | CloseCode::TooBig
            | CloseCode::Restart
            | CloseCode::TryAgain
            | CloseCode::BadFrame
            | CloseCode::Token
            | CloseCode::NotAllowed
            | CloseCode::Replaced
            | CloseCode::HeartbeatLost
            | CloseCode::RateLimited => None,
        }
    }
}
