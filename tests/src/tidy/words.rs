//! Nothing is unfinished: no placeholder macros, no ignored tests, no notes to come back later.

use proc_macro2::{Delimiter, TokenTree};

use super::tree::{each_run, is_punct, line_of};
use super::{Config, Finding, RustFile, Tree};

/// No macro of `banned_macros`, no word of `banned_words` and no ignored test in any Rust file.
pub(super) fn check(tree: &Tree, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        check_tokens(file, config, &mut findings);
    }
    for (path, text) in tree.texts().filter(|(path, _)| path.ends_with(".rs")) {
        for (line, text) in (1..).zip(text.lines()) {
            check_words(path, line, text, config, &mut findings);
        }
    }
    findings
}

fn check_tokens(file: &RustFile, config: &Config, findings: &mut Vec<Finding>) {
    each_run(&file.tokens, &mut |run| {
        for (index, token) in run.iter().enumerate() {
            let next = run.get(index + 1);
            match token {
                // `a != b` is the other way to have an exclamation mark behind a name.
                TokenTree::Ident(name)
                    if is_punct(next, '!')
                        && !is_punct(run.get(index + 2), '=')
                        && config.banned_macros.contains(&name.to_string()) =>
                {
                    let text = format!("{name}! stands for unfinished work");
                    findings.push(Finding::new(&file.path, line_of(token), text));
                }
                TokenTree::Punct(hash) if hash.as_char() == '#' && ignores(next) => {
                    let text = "an ignored test says nothing: make it run, or print why it is skipped";
                    findings.push(Finding::new(&file.path, line_of(token), text));
                }
                _ => {}
            }
        }
    });
}

/// Whether a group is an attribute that ignores a test, perhaps on a condition.
fn ignores(attribute: Option<&TokenTree>) -> bool {
    let Some(TokenTree::Group(group)) = attribute else { return false };
    if group.delimiter() != Delimiter::Bracket {
        return false;
    }
    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
    let names = |token: &TokenTree, wanted: &str| matches!(token, TokenTree::Ident(name) if name == wanted);
    match tokens.as_slice() {
        [first, ..] if names(first, "ignore") => true,
        [first, TokenTree::Group(rest)] if names(first, "cfg_attr") => {
            rest.stream().into_iter().any(|token| names(&token, "ignore"))
        }
        _ => false,
    }
}

fn check_words(path: &str, line: usize, text: &str, config: &Config, findings: &mut Vec<Finding>) {
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()) {
        if config.banned_words.contains(word) {
            findings.push(Finding::new(path, line, format!("{word} stands for unfinished work")));
        }
    }
    let comment = text.trim_start();
    if (comment.starts_with("///") || comment.starts_with("//!"))
        && let Some((_, language)) = comment.split_once("```")
        && language.split(',').any(|tag| tag.trim() == "ignore")
    {
        findings.push(Finding::new(path, line, "an ignored example is not checked: use `no_run` or `text`"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        let config = "banned_macros = ['todo', 'dbg', 'unimplemented']\nbanned_words = ['LATER']";
        let config = Config::parse(config, "").unwrap();
        let tree = Tree::from_samples(&[("a/src/lib.rs", text), ("README.md", "LATER")]).unwrap();
        let mut lines: Vec<usize> = check(&tree, &config).iter().map(|finding| finding.line).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn placeholders_and_ignored_tests_are_found_and_their_mention_is_not() {
        assert_eq!(lines(include_str!("samples/unfinished.rs.txt")), [1, 2, 2, 4, 6, 11]);
    }

    #[test]
    fn notes_to_come_back_are_found_as_whole_words() {
        assert_eq!(lines("// LATER: speed\nconst NOT_LATER_X: u8 = 1; // (LATER)\n// LATERAL"), [1, 2, 2]);
    }
}
