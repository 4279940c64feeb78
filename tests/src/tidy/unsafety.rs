//! `unsafe` stays in the few named files, and every file that is named needs it.

use proc_macro2::TokenTree;

use super::config::CONFIG_PATH;
use super::tree::{each_run, line_of};
use super::{Config, Finding, RustFile, Tree};

/// No `unsafe`, and no attribute that lets it in, outside `unsafe_modules`; no file there that has none.
pub(super) fn check(tree: &Tree, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust().iter().filter(|file| !config.unsafe_modules.contains(&file.path)) {
        let lines = uses(file, &["unsafe", "unsafe_code"]);
        if let Some(&first) = lines.first() {
            let text = format!(
                "unsafe ({} times) outside the files that {CONFIG_PATH} names: use what those offer",
                lines.len()
            );
            findings.push(Finding::new(&file.path, first, text));
        }
    }
    for path in &config.unsafe_modules {
        let file = tree.rust().iter().find(|file| &file.path == path);
        if file.is_none_or(|file| uses(file, &["unsafe"]).is_empty()) {
            let text = format!("{path} has no unsafe: remove it from unsafe_modules");
            findings.push(Finding::new(CONFIG_PATH, 1, text));
        }
    }
    findings
}

fn uses(file: &RustFile, words: &[&str]) -> Vec<usize> {
    let mut lines = Vec::new();
    each_run(&file.tokens, &mut |run| {
        let named =
            |token: &&TokenTree| matches!(token, TokenTree::Ident(name) if words.iter().any(|w| name == w));
        lines.extend(run.iter().filter(named).map(line_of));
    });
    lines.sort_unstable();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("samples/unsafe.rs.txt");

    fn findings(text: &str, named: &str) -> Vec<String> {
        let config = Config::parse(&format!("unsafe_modules = [{named}]"), "").unwrap();
        let tree = Tree::from_samples(&[("a/src/lib.rs", text)]).unwrap();
        check(&tree, &config).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn every_form_of_it_is_found_and_its_mention_is_not() {
        let found = findings(SAMPLE, "");
        assert!(found.len() == 1 && found[0].starts_with("a/src/lib.rs:1: unsafe (6 times)"), "{found:?}");
        assert_eq!(findings("/// unsafe\nfn safe() -> &str { \"unsafe\" }", ""), [""; 0]);
    }

    #[test]
    fn a_named_file_may_have_it_and_has_to() {
        assert_eq!(findings(SAMPLE, "'a/src/lib.rs'"), [""; 0]);
        for named in ["'a/src/lib.rs'", "'a/src/gone.rs'"] {
            let found = findings("fn safe() {}", named);
            assert!(found.len() == 1 && found[0].contains("has no unsafe: remove it"), "{found:?}");
        }
    }
}
