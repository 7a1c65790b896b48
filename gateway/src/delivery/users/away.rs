//! What a shard's users are told while they cannot be followed. Unread, a mailbox would keep the sessions of everybody who
//! gave up waiting.

use std::collections::HashMap;

use natter_shared::id::{SessionId, UserKey};
use tokio::sync::mpsc;

use super::{User, UserCommand};
use crate::delivery::join::Answer;

/// What `made` makes. Until then whoever joins is told to ask again, and who leaves is forgotten; a check that
/// asks for the list waits in `asked`, the last one alone.
pub(super) async fn meanwhile<T>(
    users: &mut HashMap<UserKey, User>,
    mailbox: &mut mpsc::Receiver<UserCommand>,
    asked: &mut Option<UserCommand>,
    made: impl Future<Output = T>,
) -> T {
    tokio::pin!(made);
    loop {
        tokio::select! {
            made = &mut made => return made,
            Some(command) = mailbox.recv() => match command {
                UserCommand::Join(join) => {
                    let _ = join.answer.send(Answer::Unavailable("the shard's users cannot be followed now".to_owned()));
                }
                UserCommand::Leave(user, id) => leave(users, user, id),
                UserCommand::List(..) => *asked = Some(command),
                UserCommand::Checked(_) => {}
            },
        }
    }
}

/// Forgets a session, and its user with the last of them.
pub(super) fn leave(users: &mut HashMap<UserKey, User>, user: UserKey, id: SessionId) {
    if let Some(entry) = users.get_mut(&user) {
        entry.listeners.retain(|listener| listener.session.id != id);
        if entry.listeners.is_empty() {
            users.remove(&user);
        }
    }
}
