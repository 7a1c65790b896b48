//! docs/configuration.md has every key as the schema declares it. Below its marker it is generated:
//! `UPDATE_DOCS=1 cargo test -p natter-shared --test config_doc` writes it anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{env, fmt::Write, fs};

use natter_shared::config::{Config, Key, KeySection};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
const MARKER: &str = "<!-- From here on generated from the schema: see CONTRIBUTING.md, \"Documents\". -->\n";
const AGAIN: &str = "UPDATE_DOCS=1 cargo test -p natter-shared --test config_doc";

/// Everything below the marker.
fn generated() -> String {
    let mut out = String::new();
    for section in Config::describe() {
        heading(&mut out, &section);
        for key in &section.keys {
            entry(&mut out, key);
        }
    }
    out
}

fn heading(out: &mut String, section: &KeySection) {
    match section.name {
        "" => out.push_str("\n## Above all sections\n"),
        name => write!(out, "\n## [{name}]\n\n{}\n", section.about).unwrap(),
    }
}

fn entry(out: &mut String, key: &Key) {
    let path = if key.section.is_empty() { key.name.to_owned() } else { format!("{}.{}", key.section, key.name) };
    let variable = Config::variable_of(key.section, key.name);
    write!(out, "\n### {path}\n\n{}\n\n", key.about).unwrap();
    if key.shape == "tables" {
        out.push_str("- In the file only.\n");
    } else if key.secret {
        writeln!(out, "- Variable: `{variable}`, or `{variable}_FILE` with the path of a file that holds it (`{}_file`)", key.name)
            .unwrap();
    } else {
        writeln!(out, "- Variable: `{variable}`").unwrap();
    }
    match &key.range {
        Some((least, greatest)) => writeln!(out, "- Value: {}, from {} to {}", shape(key), bare(least), bare(greatest)).unwrap(),
        None => writeln!(out, "- Value: {}", shape(key)).unwrap(),
    }
    match &key.default {
        Some(default) => writeln!(out, "- Default: `{default}`").unwrap(),
        None => out.push_str("- Default: not set\n"),
    }
}

/// What its values are, without the examples that the head of the document gives for all.
fn shape(key: &Key) -> &str {
    let shape = key.shape.split_once(", such as").map_or(key.shape, |(shape, _)| shape);
    match shape {
        "text that says something" => "text",
        "a whole number in range" => "a whole number",
        other => other,
    }
}

/// A bound for reading: `25s`, not `"25s"`.
fn bare(value: &str) -> &str {
    value.trim_matches('"')
}

#[test]
fn the_document_has_every_key_as_the_schema_declares_it() {
    let written = fs::read_to_string(PATH).unwrap();
    let (head, _) = written.split_once(MARKER).unwrap_or_else(|| panic!("no marker in {PATH}: {MARKER}"));
    let expected = format!("{head}{MARKER}{}", generated());
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(PATH, expected).unwrap();
        return;
    }
    let first = written.lines().zip(expected.lines()).find(|(written, expected)| written != expected);
    assert!(written == expected, "docs/configuration.md is not what the schema says; {AGAIN} writes it anew. First difference: {first:#?}");
}

#[test]
fn every_key_says_what_it_is() {
    for key in Config::describe().iter().flat_map(|section| &section.keys) {
        assert!(key.about.ends_with('.'), "{}.{} says {:?}", key.section, key.name, key.about);
    }
}
