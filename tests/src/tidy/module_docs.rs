//! Every module opens with `//!`: what it is for, and its invariants.

use syn::AttrStyle;

use super::{Config, Finding, RustFile, Tree};

/// Every Rust file below a package's `src` folder has a module comment.
pub(super) fn check(tree: &Tree, _config: &Config) -> Vec<Finding> {
    let silent = |file: &&RustFile| {
        file.path.split('/').nth(1) == Some("src") && !file.ast.attrs.iter().any(is_module_comment)
    };
    let finding = |file: &RustFile| Finding::new(&file.path, 1, "the module does not open with `//!`");
    tree.rust().iter().filter(silent).map(finding).collect()
}

fn is_module_comment(attr: &syn::Attribute) -> bool {
    matches!(attr.style, AttrStyle::Inner(_)) && attr.path().is_ident("doc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_without_a_comment_is_found() {
        let tree = Tree::from_samples(&[
            ("a/src/silent.rs", "// No doc comment.\n/// Of the item only.\nfn f() {}"),
            ("a/src/said.rs", "//! Said.\nfn f() {}"),
            ("a/src/after.rs", "#![allow(dead_code)]\n//! Said.\nfn f() {}"),
            ("a/tests/other.rs", "fn f() {}"),
        ])
        .unwrap();
        let found: Vec<String> = check(&tree, &Config::default()).into_iter().map(|f| f.path).collect();
        assert_eq!(found, ["a/src/silent.rs"]);
    }
}
