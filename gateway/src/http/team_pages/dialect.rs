//! Django's template language, as far as chat-room pages need it, written as the engine's
//! (Jinja's). Lines stay where they are, so that the engine's errors name those of the file.

use super::filters;

/// What is wrong with a template, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) message: String,
}

/// Tags that both languages have, with expressions in them.
const SHARED: [&str; 12] = ["if", "elif", "else", "endif", "for", "endfor", "block", "endblock", "extends", "include", "with", "endwith"];

/// The template in the engine's language.
pub(super) fn translate(source: &str) -> Result<String, Mistake> {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let (text, tag) = rest.split_at(start);
        out.push_str(text);
        let line = line_of(source, tag);
        let at = |message: String| Mistake { line, message };
        if let Some(inner) = tag.strip_prefix("{#") {
            let (comment, after) = inner.split_once("#}").ok_or_else(|| at("{# has no #}".to_owned()))?;
            keep_lines(&mut out, comment);
            rest = after;
        } else if let Some(inner) = tag.strip_prefix("{{") {
            let (inner, after) = inner.split_once("}}").ok_or_else(|| at("{{ has no }}".to_owned()))?;
            out.extend(["{{ ", &expression(inner).map_err(at)?, " }}"]);
            rest = after;
        } else if let Some(inner) = tag.strip_prefix("{%") {
            let (inner, after) = inner.split_once("%}").ok_or_else(|| at("{% has no %}".to_owned()))?;
            rest = translate_tag(&mut out, inner, after).map_err(at)?;
        } else {
            out.push('{');
            rest = tag.get(1..).unwrap_or_default();
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Writes one tag, and what follows it as far as the tag takes that up; returns the rest.
fn translate_tag<'a>(out: &mut String, inner: &str, after: &'a str) -> Result<&'a str, String> {
    let trimmed = inner.trim();
    let (name, arguments) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
    match name {
        "load" => keep_lines(out, inner),
        "csrf_token" => out.push_str("{{ csrf_input }}"),
        "empty" => out.push_str("{% else %}"),
        "static" => match arguments.rsplit_once(" as ") {
            Some((path, variable)) => out.extend(["{% set ", variable.trim(), " = static(", &expression(path)?, ") %}"]),
            None => out.extend(["{{ static(", &expression(arguments)?, ") }}"]),
        },
        "autoescape" => match arguments.trim() {
            "on" => out.push_str("{% autoescape true %}"),
            "off" => out.push_str("{% autoescape false %}"),
            other => return Err(format!("{{% autoescape {other} %}}: it is on or off")),
        },
        "endautoescape" => out.push_str("{% endautoescape %}"),
        "comment" => {
            let (comment, rest) = until(after, "endcomment")?;
            keep_lines(out, comment);
            return Ok(rest);
        }
        "verbatim" => {
            let (text, rest) = until(after, "endverbatim")?;
            out.extend(["{% raw %}", text, "{% endraw %}"]);
            return Ok(rest);
        }
        "url" => {
            let message = format!("{{% url {arguments} %}} is not supported: there are no Django routes here; write the path itself");
            return Err(message);
        }
        "for" if arguments.trim_end().ends_with(" reversed") => {
            let list = arguments.trim_end().trim_end_matches("reversed");
            out.extend(["{% for ", expression(list)?.trim_end(), "|reverse %}"]);
        }
        shared if SHARED.contains(&shared) => out.extend(["{% ", shared, " ", &expression(arguments)?, " %}"]),
        other => return Err(format!("{{% {other} %}} is not supported")),
    }
    Ok(after)
}

/// Splits at the tag that ends a block, whatever is in between.
fn until<'a>(text: &'a str, end: &str) -> Result<(&'a str, &'a str), String> {
    let mut from = 0;
    while let Some(found) = text.get(from..).and_then(|rest| rest.find("{%")) {
        let start = from + found;
        let tag = text.get(start + 2..).unwrap_or_default();
        if let Some((inner, rest)) = tag.split_once("%}")
            && inner.split_whitespace().next() == Some(end)
        {
            return Ok((text.get(..start).unwrap_or_default(), rest));
        }
        from = start + 2;
    }
    Err(format!("there is no {{% {end} %}}"))
}

/// Django's `value|filter:argument` as `value|filter(argument)`, and its names as ours.
fn expression(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    let mut after_pipe = false;
    while let Some(first) = rest.chars().next() {
        if first == '"' || first == '\'' {
            let (literal, after) = string(rest)?;
            out.push_str(literal);
            rest = after;
        } else if first.is_alphabetic() || first == '_' {
            let (path, after) = word(rest);
            rest = after;
            if after_pipe {
                if !filters::is_known(path) {
                    return Err(format!("the filter {path} is not supported; there are {}", filters::NAMES.join(", ")));
                }
                out.push_str(path);
                if let Some(argument) = rest.strip_prefix(':') {
                    let (argument, after) = operand(argument)?;
                    out.extend(["(", &argument, ")"]);
                    rest = after;
                }
            } else if path == "_" && rest.starts_with('(') {
                return Err("translations, _(…), are not supported".to_owned());
            } else {
                out.push_str(&variable(path)?);
            }
        } else if first.is_ascii_digit() {
            let (number, after) = word(rest);
            out.push_str(number);
            rest = after;
        } else {
            out.push(first);
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
            after_pipe = first == '|' || (after_pipe && first.is_whitespace());
            continue;
        }
        after_pipe = false;
    }
    Ok(out)
}

/// A filter's argument: one string, number or variable.
fn operand(text: &str) -> Result<(String, &str), String> {
    if text.starts_with(['"', '\'']) {
        let (literal, after) = string(text)?;
        return Ok((literal.to_owned(), after));
    }
    let (path, after) = word(text);
    match path.chars().next() {
        Some(first) if first.is_ascii_digit() => Ok((path.to_owned(), after)),
        Some(_) => Ok((variable(path)?, after)),
        None => Err("a filter's `:` has no argument".to_owned()),
    }
}

/// A variable with its attributes, as ours are called.
fn variable(path: &str) -> Result<String, String> {
    let mut segments = path.split('.');
    let first = segments.next().unwrap_or_default();
    let mut segments: Vec<&str> = segments.collect();
    if first == "forloop" {
        let attribute = match segments.as_slice() {
            ["counter"] => "index",
            ["counter0"] => "index0",
            ["revcounter"] => "revindex",
            ["revcounter0"] => "revindex0",
            ["first"] => "first",
            ["last"] => "last",
            ["length"] => "length",
            _other => return Err(format!("{path} is not supported")),
        };
        return Ok(format!("loop.{attribute}"));
    }
    // A queryset's: ours are lists already.
    let counted = segments.last() == Some(&"count");
    if counted || segments.last() == Some(&"all") {
        segments.pop();
    }
    let mut out = first.to_owned();
    for segment in segments {
        if segment.bytes().all(|byte| byte.is_ascii_digit()) && !segment.is_empty() {
            out.extend(["[", segment, "]"]);
        } else {
            out.extend([".", segment]);
        }
    }
    Ok(if counted { format!("({out}|length)") } else { out })
}

/// Letters, digits, `_` and `.`.
fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).unwrap_or(text.len());
    text.split_at(end)
}

/// A string with its quotes.
fn string(text: &str) -> Result<(&str, &str), String> {
    let mut characters = text.char_indices();
    let quote = characters.next().map(|(_, quote)| quote);
    let mut escaped = false;
    for (at, character) in characters {
        if !escaped && Some(character) == quote {
            return Ok(text.split_at(at + 1));
        }
        escaped = character == '\\' && !escaped;
    }
    Err(format!("a string has no end: {text}"))
}

fn keep_lines(out: &mut String, dropped: &str) {
    out.extend(dropped.chars().filter(|c| *c == '\n'));
}

fn line_of(source: &str, rest: &str) -> usize {
    let before = source.len().saturating_sub(rest.len());
    1 + source.bytes().take(before).filter(|byte| *byte == b'\n').count()
}
