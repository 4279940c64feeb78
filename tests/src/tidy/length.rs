//! Files and functions are short, or stand in the ratchet with the length that they have now.
//!
//! The ratchet turns one way: an entry that a file has outgrown fails, and so does one that is larger than needed.

use std::collections::BTreeMap;

use syn::visit::{self, Visit};

use super::config::RATCHET_PATH;
use super::{Config, Finding, RustFile, Tree};

/// Rust files have at most `file_lines` lines.
pub(super) fn files(tree: &Tree, config: &Config) -> Vec<Finding> {
    let measure = |file: &RustFile| Measured {
        path: file.path.clone(),
        key: file.path.clone(),
        line: 1,
        lines: file.lines,
    };
    let found: Vec<Measured> = tree.rust().iter().map(measure).collect();
    compare("file", &found, config.file_lines, &config.ratchet.files)
}

/// Functions have at most `function_lines` lines, from `fn` to the closing brace.
pub(super) fn functions(tree: &Tree, config: &Config) -> Vec<Finding> {
    let found: Vec<Measured> = tree.rust().iter().flat_map(measure_functions).collect();
    compare("function", &found, config.function_lines, &config.ratchet.functions)
}

struct Measured {
    path: String,
    key: String,
    line: usize,
    lines: usize,
}

fn compare(what: &str, found: &[Measured], limit: usize, ratchet: &BTreeMap<String, usize>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut longest: BTreeMap<&str, usize> = BTreeMap::new();
    for one in found {
        let known = longest.entry(&one.key).or_default();
        *known = (*known).max(one.lines);
        let allowed = ratchet.get(&one.key).copied().unwrap_or(limit);
        if one.lines > allowed {
            let text = format!("{what} {} has {} lines, {allowed} are allowed: split it", one.key, one.lines);
            findings.push(Finding::new(&one.path, one.line, text));
        }
    }
    for (key, &allowed) in ratchet {
        let advice = match longest.get(key.as_str()) {
            None => format!("there is no {what} {key} any more: remove the entry"),
            Some(&now) if now <= limit => format!("{what} {key} has only {now} lines: remove the entry"),
            Some(&now) if now < allowed => {
                format!("{what} {key} has only {now} lines: lower the entry to that")
            }
            Some(_) => continue,
        };
        findings.push(Finding::new(RATCHET_PATH, 1, advice));
    }
    findings
}

fn measure_functions(file: &RustFile) -> Vec<Measured> {
    let mut visitor = Functions { path: &file.path, found: Vec::new() };
    visitor.visit_file(&file.ast);
    visitor.found
}

struct Functions<'a> {
    path: &'a str,
    found: Vec<Measured>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let line = signature.fn_token.span.start().line;
        let lines = body.brace_token.span.close().end().line + 1 - line;
        let key = format!("{}::{}", self.path, signature.ident);
        self.found.push(Measured { path: self.path.to_owned(), key, line, lines });
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.measure(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(ratchet: &str) -> Config {
        Config::parse("file_lines = 5\nfunction_lines = 3", ratchet).unwrap()
    }

    fn findings(rule: super::super::Rule, text: &str, ratchet: &str) -> Vec<String> {
        let tree = Tree::from_samples(&[("a/src/lib.rs", text)]).unwrap();
        rule(&tree, &config(ratchet)).iter().map(Finding::to_string).collect()
    }

    const SIX_LINES: &str = "//\n//\n//\n//\n//\n//\n";

    #[test]
    fn a_long_file_is_found() {
        assert_eq!(findings(files, "//\n//\n//\n//\n//\n", ""), [""; 0]);
        let found = findings(files, SIX_LINES, "");
        assert_eq!(found, ["a/src/lib.rs:1: file a/src/lib.rs has 6 lines, 5 are allowed: split it"]);
    }

    #[test]
    fn an_entry_allows_exactly_what_is_needed() {
        assert_eq!(findings(files, SIX_LINES, "[files]\n'a/src/lib.rs' = 6"), [""; 0]);
        let larger = findings(files, SIX_LINES, "[files]\n'a/src/lib.rs' = 7");
        assert!(larger[0].contains("has only 6 lines: lower the entry"), "{larger:?}");
        let needless = findings(files, "//\n", "[files]\n'a/src/lib.rs' = 6");
        assert!(needless[0].contains("has only 1 lines: remove the entry"), "{needless:?}");
        let gone = findings(files, "//\n", "[files]\n'b/src/lib.rs' = 6");
        assert!(gone[0].contains("no file b/src/lib.rs any more"), "{gone:?}");
        let outgrown = findings(files, &format!("{SIX_LINES}//\n"), "[files]\n'a/src/lib.rs' = 6");
        assert!(outgrown[0].contains("has 7 lines, 6 are allowed"), "{outgrown:?}");
    }

    #[test]
    fn long_functions_are_found_wherever_they_stand() {
        let body = "{\n\n\n}";
        for text in [
            format!("fn long() {body}"),
            format!("impl A {{ fn long(&self) {body} }}"),
            format!("trait A {{ fn long(&self) {body} }}"),
            format!("mod tests {{ fn long() {body} }}"),
            format!("fn outer() {{ fn long() {body} }}"),
        ] {
            let found = findings(functions, &text, "");
            assert!(
                found.iter().any(|f| f.contains("function a/src/lib.rs::long has 4 lines")),
                "{text}: {found:?}"
            );
        }
        assert_eq!(findings(functions, "/// Doc.\n/// Doc.\n#[inline]\nfn short() {\n}", ""), [""; 0]);
    }

    #[test]
    fn the_longest_function_of_a_name_counts() {
        let text = "impl A { fn f() {\n\n\n} }\nimpl B { fn f() {\n\n\n\n} }";
        let exact = "[functions]\n'a/src/lib.rs::f' = 5";
        assert_eq!(findings(functions, text, exact), [""; 0]);
    }
}
