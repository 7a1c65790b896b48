//! Users' standings: who is blocked, and whose tokens were revoked. SQL has the list; every gateway
//! keeps to a copy of it.

use serde::{Deserialize, Serialize};

use super::rpc;
use crate::{
    id::{InstanceId, UserId},
    timestamp::Timestamp,
};

/// How a user stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The user.
    pub user: UserId,
    /// No delivery, no call, no sign-in.
    pub blocked: bool,
    /// Tokens issued before then are void; the epoch where none are.
    pub void_before: Timestamp,
    /// The list's version with the last change of this.
    pub version: u64,
}

/// Changes how a user stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChangeStanding {
    /// The user, known or not.
    pub user: UserId,
    /// What changes.
    pub change: StandingChange,
}

/// What changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StandingChange {
    /// The user is blocked.
    Block,
    /// The user is not blocked.
    Unblock,
    /// Tokens issued before then are void, for good; without a time, those issued until now.
    Revoke(Option<Timestamp>),
}

/// The change is committed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StandingChanged {
    /// How the user stands now.
    pub standing: Standing,
    /// Gateways that keep to it.
    pub confirmed: Vec<InstanceId>,
    /// Gateways that were there a moment ago and have not said so: each ends its sessions by itself
    /// where it is cut off, and is told again and again where it is not.
    pub unconfirmed: Vec<InstanceId>,
}
rpc!("change_standing", ChangeStanding => StandingChanged);

/// What changed after a version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Standings {
    /// Only later changes.
    pub after: u64,
    /// How many at most.
    pub limit: u32,
}

/// A page of changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StandingsPage {
    /// By version.
    pub standings: Vec<Standing>,
    /// There are more: go on after the last one's version.
    pub more: bool,
    /// With these, and no more, one is at this version.
    pub version: u64,
}
rpc!("standings", Standings => StandingsPage, repeatable);
