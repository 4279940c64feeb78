//! Links in the documents lead somewhere: to a file that exists, to a heading that it has.
//!
//! A path in `code` that begins with a folder of the project is held to the same, so that documents follow the files.

use std::collections::BTreeSet;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::{Config, Finding, Tree};

/// Every relative link of every Markdown file leads to a file, folder or heading.
pub(super) fn check(tree: &Tree, _config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts().filter(|(path, _)| path.ends_with(".md")) {
        for (event, range) in Parser::new_ext(text, Options::all()).into_offset_iter() {
            let line = || text[..range.start].matches('\n').count() + 1;
            let dead = match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    dead_link(tree, path, &dest_url)
                }
                // A change log names files as they were.
                Event::Code(code) if path != "CHANGELOG.md" => dead_path(tree, &code),
                _ => None,
            };
            findings.extend(dead.map(|what| Finding::new(path, line(), what)));
        }
    }
    findings
}

fn dead_link(tree: &Tree, from: &str, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    let target = if file.is_empty() { from.to_owned() } else { join(folder, file) };
    if !tree.exists(&target) {
        return Some(format!("the link leads to {target}, which does not exist"));
    }
    if !anchor.is_empty()
        && target.ends_with(".md")
        && !headings(tree.text(&target).unwrap_or_default()).contains(anchor)
    {
        return Some(format!("{target} has no heading #{anchor}"));
    }
    None
}

/// A path of the project in code, such as `tests/run --quick`, that does not exist.
fn dead_path(tree: &Tree, code: &str) -> Option<String> {
    let path = code.split([' ', ':', '#']).next()?.trim_start_matches("./");
    let plain = path.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-'));
    let (top, rest) = path.split_once('/')?;
    if !plain || top.is_empty() || !tree.exists(top) || rest.is_empty() || tree.exists(path) {
        return None;
    }
    Some(format!("{path} does not exist"))
}

fn join(folder: &str, relative: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// The anchors that the usual hosts make of a document's headings: lower case, words joined by hyphens.
fn headings(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut title: Option<String> = None;
    for event in Parser::new_ext(text, Options::all()) {
        match event {
            Event::Start(Tag::Heading { .. }) => title = Some(String::new()),
            Event::Text(part) | Event::Code(part) => {
                if let Some(title) = &mut title {
                    title.push_str(&part);
                }
            }
            Event::End(TagEnd::Heading(_)) => {
                let kept = title.take().unwrap_or_default().to_lowercase();
                let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                found.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let others = [("docs/a.md", "# One `two`, three\n"), ("bench/src/lib.rs", ""), ("tests/run", "")];
        let tree = Tree::from_samples(&[&others[..], &[(path, text)]].concat()).unwrap();
        check(&tree, &Config::default()).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn links_that_lead_somewhere_are_no_findings() {
        let text = "# Here\n[a](docs/a.md) [b](docs/a.md#one-two-three) [c](#here) [d](docs) [e](https://x.y/z)\n\
                    `tests/run --quick` `bench/src/` `bench/src/*.rs` `and/or` `/dev/null` `1/2` `bench/src/lib.rs:12`\n";
        assert_eq!(findings("README.md", text), [""; 0]);
        assert_eq!(findings("docs/b.md", "[a](a.md) [up](../tests/run)"), [""; 0]);
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        for (bad, what) in [
            ("[a](docs/gone.md)", "leads to docs/gone.md"),
            ("![a](plot.svg)", "leads to plot.svg"),
            ("[a](docs/a.md#four)", "no heading #four"),
            ("[a](#nowhere)", "no heading #nowhere"),
            ("`bench/src/gone.rs`", "bench/src/gone.rs does not exist"),
            ("`./tests/go --quick`", "tests/go does not exist"),
        ] {
            let found = findings("README.md", &format!("\n{bad}"));
            assert!(
                found.len() == 1 && found[0].starts_with("README.md:2: ") && found[0].contains(what),
                "{bad}: {found:?}"
            );
        }
    }
}
