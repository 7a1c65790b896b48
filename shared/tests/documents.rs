//! The documents hold together: every relative link in every `*.md` leads to a file, its anchor to a
//! heading, and what is quoted of a file is in it.
//!
//! A quote is a fence after the comment `<!-- quote: path/from/the/root -->`: its text is found in
//! that file as it is.

#![allow(clippy::unwrap_used, clippy::panic, clippy::case_sensitive_file_extension_comparisons, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What holds no documents of ours, besides hidden folders.
const FOREIGN: [&str; 3] = ["target", "data", "node_modules"];

/// A document: its prose without code, its headings' anchors, its quotes.
#[derive(Debug, Default)]
struct Document {
    links: Vec<String>,
    anchors: BTreeSet<String>,
    quotes: Vec<(String, String)>,
}

impl Document {
    fn parse(text: &str) -> Self {
        let mut document = Self::default();
        let mut seen = BTreeMap::<String, usize>::new();
        let mut quoted_file = None;
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(fence) = fence(line) {
                let code: Vec<&str> = lines.by_ref().take_while(|line| !line.trim_start().starts_with(&fence)).collect();
                if let Some(file) = quoted_file.take() {
                    document.quotes.push((file, code.join("\n")));
                }
                continue;
            }
            if let Some(file) = line.trim().strip_prefix("<!-- quote:").and_then(|rest| rest.strip_suffix("-->")) {
                quoted_file = Some(file.trim().to_owned());
            }
            if line.starts_with('#') {
                let slug = slug(line.trim_start_matches('#').trim());
                let count = seen.entry(slug.clone()).or_default();
                document.anchors.insert(if *count == 0 { slug } else { format!("{slug}-{count}") });
                *count += 1;
            }
            document.anchors.extend(attribute(line, "id").map(str::to_owned));
            let prose = without_code(line);
            document.links.extend(prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()).map(str::to_owned));
            document.links.extend(attribute(&prose, "src").chain(attribute(&prose, "href")).map(str::to_owned));
        }
        document
    }
}

/// The backticks that a fenced block begins and ends with.
fn fence(line: &str) -> Option<String> {
    let ticks: String = line.trim_start().chars().take_while(|c| *c == '`').collect();
    (ticks.len() >= 3).then_some(ticks)
}

/// The values of an HTML attribute in a line.
fn attribute<'a>(line: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let start = format!(" {name}=\"");
    line.match_indices(&start)
        .map(|(at, found)| at + found.len())
        .collect::<Vec<_>>()
        .into_iter()
        .filter_map(|at| line.get(at..)?.split('"').next())
}

/// The line without its `inline code`.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// A heading's anchor as GitHub makes it.
fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') || FOREIGN.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            documents(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// Everything that is wrong with the documents below a folder.
fn mistakes(root: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    documents(root, &mut paths);
    paths.sort();
    let mut mistakes = Vec::new();
    for path in &paths {
        let document = Document::parse(&fs::read_to_string(path).unwrap());
        let name = path.strip_prefix(root).unwrap().display();
        for link in &document.links {
            if let Some(problem) = wrong_link(link, path, &document) {
                mistakes.push(format!("{name}: the link {link} {problem}"));
            }
        }
        for (file, quote) in &document.quotes {
            match fs::read_to_string(root.join(file)) {
                Ok(text) if text.contains(quote.as_str()) => {}
                Ok(_text) => mistakes.push(format!("{name}: this is not in {file}:\n{quote}")),
                Err(error) => mistakes.push(format!("{name}: {file}, which it quotes, cannot be read: {error}")),
            }
        }
    }
    mistakes
}

fn wrong_link(link: &str, of: &Path, document: &Document) -> Option<String> {
    if link.starts_with("http://") || link.starts_with("https://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let target = of.parent().unwrap().join(file);
    if !file.is_empty() && !target.exists() {
        return Some("leads to no file".to_owned());
    }
    let anchor = anchor?;
    let found = if file.is_empty() {
        document.anchors.contains(anchor)
    } else {
        !file.ends_with(".md") || Document::parse(&fs::read_to_string(&target).unwrap()).anchors.contains(anchor)
    };
    (!found).then(|| "leads to no heading".to_owned())
}

/// What is quoted of a NATS config's accounts, in its order: the subjects that each identity may use. `from` begins them.
fn subjects(text: &str, from: &str) -> Vec<String> {
    let accounts = text.split_once(from).unwrap().1;
    let lines = accounts.lines().take_while(|line| !line.starts_with("```")).filter(|line| !line.trim_start().starts_with('#'));
    lines.flat_map(|line| line.split('"').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn nats_gives_each_identity_the_same_by_either_config() {
    let read = |path: &str| fs::read_to_string(Path::new(ROOT).join(path)).unwrap();
    let of_the_file = subjects(&read("deploy/nats.conf"), "\naccounts {");
    assert!(of_the_file.len() > 40, "{of_the_file:?}");
    assert_eq!(of_the_file, subjects(&read("docs/kubernetes.md"), "\n    accounts:"));
}

#[test]
fn links_lead_somewhere_and_quotes_are_what_they_quote() {
    let mistakes = mistakes(Path::new(ROOT));
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn mistakes_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let text = "# One `two`, three\n[a](b.md) [c](#one-two-three) [d](#four) ![e](e.png) `[not](a-link)`\n\
        <img src=\"f.png\"> [g](c.rs#L3) [h](https://example.com/)\n\
        <!-- quote: c.rs -->\n```rust\nfn main() {}\n```\n<!-- quote: c.rs -->\n```rust\nfn other() {}\n```\n";
    fs::write(folder.path().join("a.md"), text).unwrap();
    fs::write(folder.path().join("c.rs"), "// x\nfn main() {}\n").unwrap();
    assert_eq!(
        mistakes(folder.path()),
        [
            "a.md: the link b.md leads to no file",
            "a.md: the link #four leads to no heading",
            "a.md: the link e.png leads to no file",
            "a.md: the link f.png leads to no file",
            "a.md: this is not in c.rs:\nfn other() {}",
        ]
    );
}
