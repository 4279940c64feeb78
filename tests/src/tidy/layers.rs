//! Modules name only whom they may: the halves of the engine stay apart.
//!
//! Paths are taken from the tokens, so that those within macros count, and `self`, `super` and braces of `use` are
//! resolved.

use proc_macro2::{Delimiter, TokenTree};

use super::tree::{is_punct, line_of};
use super::{Config, Finding, RustFile, Tree};

/// No path of a layer's `may_not_name` in a file within it.
pub(super) fn check(tree: &Tree, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for layer in &config.layers {
        let inside = |path: &str| {
            path.strip_prefix(&layer.within).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        for file in tree.rust().iter().filter(|file| inside(&file.path)) {
            for (path, line) in paths(file) {
                let names = |banned: &&String| path == **banned || path.starts_with(&format!("{banned}::"));
                if let Some(banned) = layer.may_not_name.iter().find(names) {
                    let text = format!("{} may not name {banned}: {}", layer.within, layer.because);
                    findings.push(Finding::new(&file.path, line, text));
                }
            }
        }
    }
    findings
}

/// Every path that a file names, with its line: `crate::a::b`, `other_crate::c`, or a local name.
fn paths(file: &RustFile) -> Vec<(String, usize)> {
    let mut walk = Walk { module: module_of(&file.path), found: Vec::new() };
    let tokens: Vec<TokenTree> = file.tokens.clone().into_iter().collect();
    walk.run(&tokens, &[]);
    walk.found
}

/// `engine/src/aio/ring.rs` is `["crate", "aio", "ring"]`.
fn module_of(path: &str) -> Vec<String> {
    let inside = path.split_once("/src/").map_or("", |(_, inside)| inside);
    let stem = inside.trim_end_matches(".rs").trim_end_matches("/mod");
    let names = stem.split('/').filter(|name| !matches!(*name, "" | "lib" | "main"));
    std::iter::once("crate").chain(names).map(str::to_owned).collect()
}

struct Walk {
    module: Vec<String>,
    found: Vec<(String, usize)>,
}

impl Walk {
    /// Walks sibling tokens, each path in which begins behind `prefix`.
    fn run(&mut self, tokens: &[TokenTree], prefix: &[String]) {
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at = match token {
                TokenTree::Ident(name) if name == "mod" && self.enters_module(tokens, at) => at + 3,
                TokenTree::Ident(_) => self.path(tokens, at, prefix),
                TokenTree::Group(group) => {
                    self.run(&group.stream().into_iter().collect::<Vec<_>>(), &[]);
                    at + 1
                }
                _ => at + 1,
            };
        }
    }

    /// Walks `mod name { ... }` at `at`, if that is what stands there.
    fn enters_module(&mut self, tokens: &[TokenTree], at: usize) -> bool {
        let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
            (tokens.get(at + 1), tokens.get(at + 2))
        else {
            return false;
        };
        self.module.push(name.to_string());
        self.run(&body.stream().into_iter().collect::<Vec<_>>(), &[]);
        self.module.pop();
        true
    }

    /// Takes the path that begins with the name at `at`; gives the index behind it.
    fn path(&mut self, tokens: &[TokenTree], mut at: usize, prefix: &[String]) -> usize {
        let line = line_of(&tokens[at]);
        let mut names = prefix.to_vec();
        while let Some(TokenTree::Ident(name)) = tokens.get(at) {
            names.push(name.to_string());
            at += 1;
            if !(is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')) {
                break;
            }
            at += 2;
        }
        match tokens.get(at) {
            Some(TokenTree::Group(group))
                if group.delimiter() == Delimiter::Brace && is_punct(tokens.get(at.wrapping_sub(1)), ':') =>
            {
                self.run(&group.stream().into_iter().collect::<Vec<_>>(), &names);
                at + 1
            }
            _ => {
                self.found.push((self.resolve(&names).join("::"), line));
                at
            }
        }
    }

    fn resolve(&self, names: &[String]) -> Vec<String> {
        let mut resolved: Vec<String> = Vec::new();
        // In `use ::other::name` the keyword stands where a path's first name would.
        let keyword =
            names.first().is_some_and(|name| matches!(name.as_str(), "use" | "as" | "dyn" | "impl" | "in"));
        for (index, name) in names.iter().skip(usize::from(keyword)).enumerate() {
            match name.as_str() {
                "self" if index == 0 => resolved.clone_from(&self.module),
                "self" => {}
                "super" => {
                    if index == 0 {
                        resolved.clone_from(&self.module);
                    }
                    resolved.pop();
                }
                _ => resolved.push(name.clone()),
            }
        }
        resolved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str =
        "[[layers]]\nwithin = 'engine/src/aio'\nmay_not_name = ['crate::block', 'drivers']\nbecause = 'x'";

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let tree = Tree::from_samples(&[(path, text)]).unwrap();
        let mut lines: Vec<usize> =
            check(&tree, &Config::parse(CONFIG, "").unwrap()).iter().map(|finding| finding.line).collect();
        lines.dedup();
        lines
    }

    #[test]
    fn every_way_to_name_it_is_found() {
        for bad in [
            "use crate::block::Request;",
            "use crate::block;",
            "use crate::{aio::Ring, block};",
            "use crate::{aio::{self, Ring}, block::{Op, Tag}};",
            "use super::super::block::Op;",
            "mod tests { use super::super::super::block::Op; }",
            "fn f() { assert!(crate::block::works()); }",
            "fn f(x: Vec<crate::block::Op>) {}",
            "use drivers::file;",
            "use ::drivers::file;",
        ] {
            assert_eq!(lines("engine/src/aio/ring.rs", bad), [1], "{bad}");
        }
    }

    #[test]
    fn what_merely_resembles_it_is_not() {
        for good in [
            "use crate::blocking::Pool;",
            "use crate::aio::block::Op;",
            "use super::block::Op;",
            "fn f() { let block = 1; self.block(); self::block(); }",
            "use crate::aio::{self, Ring}; mod block { fn f() {} }",
            "use other::{block, crate_block};",
        ] {
            assert_eq!(lines("engine/src/aio/ring.rs", good), [0; 0], "{good}");
        }
    }

    #[test]
    fn only_the_layer_itself_is_bound() {
        assert_eq!(lines("engine/src/aio/mod.rs", "use super::block::Op;"), [1]);
        assert_eq!(lines("engine/src/aio_tools/a.rs", "use crate::block::Op;"), [0; 0]);
        assert_eq!(lines("engine/src/block/mod.rs", "use crate::block::Op;"), [0; 0]);
    }
}
