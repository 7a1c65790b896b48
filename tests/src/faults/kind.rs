//! The faults that there are.

use crate::{
    cluster::{Builder, Cluster, Store},
    traffic::{Extras, Plan},
};

use std::time::Duration;

/// Something that goes wrong, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing at all.
    Calm,
    /// A gateway is killed.
    GatewayKill,
    /// A gateway is told to end.
    Drain,
    /// NATS is killed and started again.
    NatsRestart,
    /// The store of NATS is lost.
    NatsStoreLost,
    /// The disk of NATS is full.
    NatsDiskFull,
    /// The leader of a shard in a cluster of three is killed.
    NatsLeaderKill,
    /// The leader of a shard in a cluster of three is cut off.
    NatsPartition,
    /// NATS is slow to reach.
    NatsSlow,
    /// Acks of NATS are lost with their connections.
    LostAcks,
    /// Connections to NATS are half open.
    HalfOpen,
    /// Members join while messages are sent, over a slow link.
    Joins,
    /// A publish comes out of a disconnected client long after it was made.
    LateCopy,
    /// Persisters are killed.
    PersisterKill,
    /// The database is away.
    DatabaseDown,
    /// The database is slow.
    DatabaseSlow,
    /// The database is locked by somebody.
    DatabaseLocked,
    /// The database's disk is full.
    DatabaseFull,
    /// Clients stop reading.
    SlowReaders,
    /// The clocks of gateways and persisters jump.
    ClockJump,
    /// All of it, at random.
    Chaos,
}

impl Fault {
    /// All, in the order in which they run.
    pub const ALL: [Self; 21] = [
        Self::Calm,
        Self::GatewayKill,
        Self::Drain,
        Self::NatsRestart,
        Self::NatsStoreLost,
        Self::NatsDiskFull,
        Self::NatsLeaderKill,
        Self::NatsPartition,
        Self::NatsSlow,
        Self::LostAcks,
        Self::HalfOpen,
        Self::Joins,
        Self::LateCopy,
        Self::PersisterKill,
        Self::DatabaseDown,
        Self::DatabaseSlow,
        Self::DatabaseLocked,
        Self::DatabaseFull,
        Self::SlowReaders,
        Self::ClockJump,
        Self::Chaos,
    ];

    /// As it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::GatewayKill => "gateway-kill",
            Self::Drain => "drain",
            Self::NatsRestart => "nats-restart",
            Self::NatsStoreLost => "nats-store-lost",
            Self::NatsDiskFull => "nats-disk-full",
            Self::NatsLeaderKill => "nats-leader-kill",
            Self::NatsPartition => "nats-partition",
            Self::NatsSlow => "nats-slow",
            Self::LostAcks => "lost-acks",
            Self::HalfOpen => "half-open",
            Self::Joins => "joins",
            Self::LateCopy => "late-copy",
            Self::PersisterKill => "persister-kill",
            Self::DatabaseDown => "database-down",
            Self::DatabaseSlow => "database-slow",
            Self::DatabaseLocked => "database-locked",
            Self::DatabaseFull => "database-full",
            Self::SlowReaders => "slow-readers",
            Self::ClockJump => "clock-jump",
            Self::Chaos => "chaos",
        }
    }

    /// What it does.
    pub fn about(self) -> &'static str {
        match self {
            Self::Calm => "nothing goes wrong",
            Self::GatewayKill => "one of three gateways is killed; 300 clients come back: 99 % within 10 s",
            Self::Drain => "gateways get SIGTERM under traffic, end with status 0 and start again",
            Self::NatsRestart => "NATS is killed and started again, now and then after a pause",
            Self::NatsStoreLost => "NATS loses its store after SQL has all of it: a new epoch",
            Self::NatsDiskFull => "the disk of NATS is full, is given room, and NATS restarts",
            Self::NatsLeaderKill => {
                "of three servers with three copies, the one that leads a shard is killed: accepted again within 2 s of the next election"
            }
            Self::NatsPartition => "the one that leads a shard is cut off from all: accepted again within 2 s of the next election",
            Self::NatsSlow => "gateways reach NATS with 50 to 300 ms of delay, changing",
            Self::LostAcks => "acks of gateways' publishes are held up, and the connection is cut",
            Self::HalfOpen => "connections to NATS fall silent for good, one kind after the other",
            Self::Joins => "members join while messages are sent that nothing follows, over a slow link",
            Self::LateCopy => "copies of publishes arrive 100 s after they were made, when NATS has forgotten their ids",
            Self::PersisterKill => "one of two persisters is killed every 300 ms, and starts again",
            Self::DatabaseDown => "PostgreSQL is away; its rows follow",
            Self::DatabaseSlow => "every answer of PostgreSQL takes 100 to 300 ms longer",
            Self::DatabaseLocked => "somebody holds an exclusive lock on the messages",
            Self::DatabaseFull => "the disk of the SQLite file is full, and is given room",
            Self::SlowReaders => "second connections stop reading now and then, and come back",
            Self::ClockJump => "the clocks of gateways and persisters jump by ten minutes, ahead and back",
            Self::Chaos => "every second something of the above at random",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// Whether it may leave a gap that has to be declared: something of the log is lost, or full, or clients are far behind,
    /// or live delivery could not be checked in time. After all others the log is whole, and clients can be told all of it.
    pub(super) fn may_reset(self) -> bool {
        match self {
            Self::NatsStoreLost
            | Self::NatsDiskFull
            | Self::NatsLeaderKill
            | Self::NatsPartition
            | Self::HalfOpen
            | Self::DatabaseFull
            | Self::SlowReaders
            | Self::Chaos => true,
            Self::Calm
            | Self::GatewayKill
            | Self::Drain
            | Self::NatsRestart
            | Self::NatsSlow
            | Self::LostAcks
            | Self::Joins
            | Self::LateCopy
            | Self::PersisterKill
            | Self::DatabaseDown
            | Self::DatabaseSlow
            | Self::DatabaseLocked
            | Self::ClockJump => false,
        }
    }

    /// Whether clients lose their connections by it, and by nothing else: they have to recover what they missed.
    pub(super) fn recovers(self) -> bool {
        matches!(self, Self::GatewayKill | Self::Drain)
    }

    /// What it happens to.
    pub(super) fn cluster(self) -> Builder {
        let two = || Cluster::builder().gateways(2);
        match self {
            Self::Calm
            | Self::LateCopy
            | Self::NatsStoreLost
            | Self::NatsRestart
            | Self::NatsDiskFull
            | Self::DatabaseFull
            | Self::SlowReaders
            | Self::Drain
            | Self::ClockJump => two(),
            Self::GatewayKill => two().gateways(3),
            Self::NatsLeaderKill => two().nats_nodes(3),
            Self::NatsPartition => two().nats_apart(3),
            Self::NatsSlow | Self::LostAcks | Self::HalfOpen | Self::Joins => two().proxied(),
            Self::PersisterKill | Self::DatabaseDown | Self::DatabaseLocked => two().persisters(2).store(Store::Postgres),
            Self::DatabaseSlow => two().persisters(2).store(Store::Postgres).proxied(),
            Self::Chaos => two().gateways(3).persisters(2).store(Store::Postgres).proxied(),
        }
    }

    /// Who talks meanwhile.
    pub(super) fn traffic(self, seed: u64) -> (Plan, Extras) {
        let plan = Plan {
            users: 40,
            groups: 12,
            groups_per_user: 3,
            messages: 100_000_000,
            reconnects: 2,
            moves: 3,
            pause: Duration::from_millis(40),
            label: "f",
        };
        let extras = Extras {
            seed: Some(seed),
            private_groups: 6,
            notifications: 6,
            removals: 10,
            bursts: 4,
            tabs: 6,
            slow_tabs: false,
            padding: 0,
        };
        match self {
            // Who comes, joins or notifies while SQL is away is told to come later, as it should be.
            Self::DatabaseDown | Self::DatabaseLocked | Self::DatabaseFull => (
                Plan { users: 50, pause: Duration::from_millis(90), reconnects: 0, moves: 0, ..plan },
                Extras { notifications: 0, removals: 0, ..extras },
            ),
            Self::SlowReaders => (
                Plan { pause: Duration::from_millis(10), groups: 6, ..plan },
                Extras { slow_tabs: true, tabs: 15, padding: 20_000, ..extras },
            ),
            Self::Chaos => (Plan { pause: Duration::from_millis(80), ..plan }, extras),
            // Who comes back does so for this.
            Self::GatewayKill | Self::Drain => (Plan { reconnects: 0, ..plan }, extras),
            Self::Calm
            | Self::NatsRestart
            | Self::NatsStoreLost
            | Self::NatsDiskFull
            | Self::NatsLeaderKill
            | Self::NatsPartition
            | Self::NatsSlow
            | Self::LostAcks
            | Self::HalfOpen
            | Self::Joins
            | Self::LateCopy
            | Self::PersisterKill
            | Self::DatabaseSlow
            | Self::ClockJump => (plan, extras),
        }
    }
}
