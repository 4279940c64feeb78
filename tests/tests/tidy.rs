//! The tidy check over the project itself. See `corelane_tests::tidy` for the rules.

use std::path::Path;

use corelane_tests::tidy::{Config, Finding, RULES, Tree};

#[test]
fn the_tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package has a folder of its own");
    let tree = Tree::load(root).unwrap_or_else(|err| panic!("{err}"));
    let read = |path: &str| tree.text(path).unwrap_or_else(|| panic!("there is no {path}"));
    let config = Config::parse(read("tests/tidy.toml"), read("tests/tidy-ratchet.toml"))
        .unwrap_or_else(|err| panic!("{err}"));

    let mut report = String::new();
    for (name, rule) in RULES {
        let mut findings: Vec<Finding> = rule(&tree, &config);
        findings.sort();
        for finding in findings {
            report += &format!("{finding} [{name}]\n");
        }
    }
    assert!(report.is_empty(), "the tree is not tidy:\n{report}");
}
