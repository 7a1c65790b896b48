//! Every limit has a test of its edge: just below it passes, just above it is refused as documented; and
//! every rule of docs/security.md has the test it names. Here is which; a key that is not here, or a test that is not there, fails.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeSet, fs, path::Path};

use natter_shared::config::Config;

/// Key, file, test; a key that is looked at in two places has two.
const EDGES: &[(&str, &str, &str)] = &[
    ("frame_bytes", "gateway/src/network_tests/socket_limits.rs", "frame_bytes_by_what_the_header_says"),
    ("connect_frame_bytes", "gateway/src/network_tests/socket_limits.rs", "connect_frame_bytes_are_for_the_first_frame_only"),
    ("body_bytes", "gateway/src/publish/draft.rs", "body_bytes_at_the_edge"),
    ("backlog_messages", "gateway/src/socket/outlet/tests.rs", "limits_hold_at_their_edge"),
    ("backlog_bytes", "gateway/src/socket/outlet/tests.rs", "limits_hold_at_their_edge"),
    ("frames_per_second", "gateway/src/socket/meter/tests.rs", "frames_at_the_edge_control_frames_and_fragments_counted"),
    ("frames_burst", "gateway/src/network_tests/socket_limits.rs", "frames_per_second_counts_pings_and_fragments"),
    ("user_frames_per_second", "gateway/src/connections.rs", "a_users_connections_have_one_rate_and_coming_back_brings_no_more"),
    ("user_frames_burst", "gateway/src/session/tests.rs", "what_a_users_connections_have_stored_takes_of_one_rate"),
    ("group_notifications_per_minute", "gateway/src/session/limits_tests.rs", "notifications_to_groups_take_of_the_users_rate"),
    ("group_notifications_per_minute", "gateway/src/http/tests/api.rs", "notifications_to_groups_are_held_to_their_rate"),
    ("bytes_per_second", "gateway/src/socket/meter/tests.rs", "bytes_at_the_edge"),
    ("bytes_burst", "gateway/src/network_tests/socket_limits.rs", "bytes_per_second"),
    ("fragments", "gateway/src/network_tests/socket_limits.rs", "fragments_of_a_message"),
    ("assembly_timeout", "gateway/src/socket/meter/tests.rs", "a_message_that_drips_has_its_time_and_no_more"),
    ("http_requests_per_second", "gateway/src/network_tests/http_limits.rs", "calls_of_a_user_and_of_a_key"),
    ("http_requests_burst", "gateway/src/http/tests/api.rs", "callers_are_held_to_their_rate"),
    ("server_requests_per_second", "gateway/src/network_tests/http_limits.rs", "calls_of_a_user_and_of_a_key"),
    ("server_requests_burst", "gateway/src/http/tests/api.rs", "api_keys_are_held_to_their_rate"),
    ("http_body_bytes", "gateway/src/network_tests/http_limits.rs", "bodies_by_size"),
    ("http_timeout", "gateway/src/network_tests/http_limits.rs", "a_body_that_does_not_come_to_its_end"),
    ("connections", "gateway/src/admission/tests.rs", "connections_of_the_process_at_the_edge"),
    ("connections_per_ip", "gateway/src/admission/tests.rs", "connections_of_an_address_at_the_edge_before_they_say_a_word"),
    ("connections_per_user", "gateway/src/network_tests/socket_limits.rs", "connections_of_a_user"),
    ("handshakes_per_second", "gateway/src/admission/tests.rs", "handshakes_per_second_at_the_edge"),
    ("sign_ins", "gateway/src/session/together.rs", "sign_ins_at_the_edge"),
    ("memory_bytes", "gateway/src/admission/tests.rs", "memory_at_the_edge"),
    ("groups_per_connection", "gateway/src/session/limits_tests.rs", "groups_per_connection_at_the_edge"),
    ("in_flight_sends", "gateway/src/session/limits_tests.rs", "in_flight_sends_at_the_edge"),
    ("in_flight_sends", "tests/tests/natter/sending.rs", "windows_that_are_full_answer_busy_at_once"),
    ("ring_bytes", "gateway/src/delivery/ring.rs", "the_budget_is_kept_across_topics"),
    ("ring_events_per_group", "gateway/src/delivery/ring.rs", "the_floor_rises_with_what_is_dropped"),
    ("recovery_events", "tests/tests/natter/limits.rs", "recovery_events_and_a_page_of_history_at_the_edge"),
    ("gap_fill_timeout", "gateway/src/delivery/limits_tests.rs", "gap_fill_timeout_at_the_edge"),
    ("recoveries", "gateway/src/delivery/limits_tests.rs", "recoveries_at_the_edge"),
    ("group_members", "persister/tests/persister/commands.rs", "a_group_takes_as_many_as_it_may"),
    ("groups_by_others", "persister/tests/persister/commands.rs", "others_bring_nobody_into_more_groups_than_there_may_be"),
    ("groups_made_per_day", "persister/tests/persister/commands.rs", "one_user_makes_so_many_groups_and_joins_what_there_is"),
    ("inbox_counted", "persister/tests/persister/inbox.rs", "counts_are_of_the_newest"),
    ("history_page", "tests/tests/natter/limits.rs", "recovery_events_and_a_page_of_history_at_the_edge"),
    ("header_bytes", "gateway/src/network_tests/http_limits.rs", "headers_by_number_and_by_bytes"),
    ("headers", "gateway/src/network_tests/http_limits.rs", "headers_by_number_and_by_bytes"),
    ("header_timeout", "gateway/src/network_tests/http_limits.rs", "headers_have_their_time_and_so_has_a_connection_that_is_kept"),
    ("handshake_timeout", "gateway/src/network_tests/http_limits.rs", "a_handshake_has_its_time"),
    ("connect_timeout", "gateway/src/network_tests/socket_limits.rs", "the_connect_frame_has_its_time"),
    ("heartbeat_interval", "gateway/src/session/heartbeat.rs", "a_silent_client_is_lost_after_the_timeout_and_one_that_speaks_is_not"),
    ("heartbeat_timeout", "gateway/src/network_tests/socket_limits.rs", "the_heartbeat_ends_who_is_silent_and_nobody_else"),
    ("send_deadline", "gateway/src/session/limits_tests.rs", "send_deadline_at_the_edge"),
    ("slow_close_timeout", "gateway/src/network_tests/socket_limits.rs", "who_does_not_close_after_our_close_is_cut_off_in_time"),
];

#[test]
fn every_limit_has_a_test_of_its_edge() {
    let all = Config::describe();
    let keys: BTreeSet<&str> =
        all.iter().filter(|section| section.name == "limits").flat_map(|section| &section.keys).map(|key| key.name).collect();
    assert!(keys.len() > 30);
    let tried: BTreeSet<&str> = EDGES.iter().map(|(key, ..)| *key).collect();
    let missing: Vec<_> = keys.difference(&tried).collect();
    assert!(missing.is_empty(), "limits without a test of their edge: {missing:?}");
    let gone: Vec<_> = tried.difference(&keys).collect();
    assert!(gone.is_empty(), "no limits any more: {gone:?}");
}

#[test]
fn every_test_that_is_named_is_there_and_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let document: &'static str = fs::read_to_string(root.join("docs/security.md")).unwrap().leak();
    let rules = document.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [rule, file, test] = *cells.as_slice() else { return None };
        let bare = |cell: &'static str| cell.strip_prefix('`')?.strip_suffix('`');
        Some((rule, bare(file)?, bare(test)?))
    });
    let rules: Vec<_> = rules.collect();
    assert!(rules.len() >= 20, "the table of docs/security.md is not read");
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    for (key, file, _) in EDGES {
        assert!(read(file).to_lowercase().contains(key), "{file} names neither {key} nor its variable");
    }
    for (key, file, test) in EDGES.iter().copied().chain(rules) {
        let source = read(file);
        if on_both_stores(&source).any(|name| name == test) {
            continue;
        }
        let at = source.find(&format!("fn {test}()")).unwrap_or_else(|| panic!("{key}: no {test} in {file}"));
        let attributes = source.get(..at).unwrap().rsplit("\n\n").next().unwrap();
        assert!(attributes.contains("test"), "{key}: {test} is no test");
        assert!(!attributes.contains("ignore"), "{key}: {test} is switched off");
    }
}

/// The tests that a file of the integration tests has run over each store, by a macro.
fn on_both_stores(source: &str) -> impl Iterator<Item = &str> {
    let listed = ["on_both_stores!(", "on_both!("].into_iter().find_map(|of| source.split_once(of)?.1.split_once(");"));
    listed.into_iter().flat_map(|(tests, _)| tests.split(',')).map(str::trim)
}
