//! Each connection is an open file, and systems give a process few of them unless it asks for more.

/// Files for all but connections: to the broker, to the database, and those without a place who are told so.
const RESERVED: u64 = 256;

/// Raises what this process may open to what the system lets it, and says how many connections that is good for, of `wanted`.
pub(crate) fn bound(wanted: usize) -> usize {
    let files = match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => files,
        Err(error) => {
            tracing::warn!(%error, "open_files_not_raised");
            return wanted;
        }
    };
    let connections = connections(wanted, files);
    if connections < wanted {
        tracing::warn!(
            open_files = files,
            connections,
            wanted,
            "open_files_bound_connections: raise the hard limit of open files (ulimit -Hn, LimitNOFILE, ulimits), or lower limits.connections"
        );
    }
    connections
}

fn connections(wanted: usize, files: u64) -> usize {
    let room = files.saturating_sub(RESERVED).max(1);
    usize::try_from(room).map_or(wanted, |room| wanted.min(room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_leave_room_for_what_is_no_connection() {
        assert_eq!(connections(100_000, 1_024), 768);
        assert_eq!(connections(100, 1_024), 100);
        assert_eq!(connections(100, 64), 1, "never none");
        assert_eq!(connections(usize::MAX, u64::MAX), usize::try_from(u64::MAX - RESERVED).unwrap_or(usize::MAX));
    }
}
