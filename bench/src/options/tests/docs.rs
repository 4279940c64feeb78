//! `docs/bench.md` lists every option, as the table has it.

use std::path::Path;

use super::super::{options_markdown, table};

const BEGIN: &str = "<!-- options: begin -->\n";
const END: &str = "<!-- options: end -->";

/// With `CORELANE_WRITE_DOCS=1` in the environment the list is written anew.
#[test]
fn the_list_of_options_is_the_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bench.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the marker before the list");
    let (listed, after) = rest.split_once(END).expect("the marker after the list");
    let list = options_markdown();
    if std::env::var_os("CORELANE_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{list}{END}{after}")).unwrap();
        return;
    }
    for option in table::all() {
        assert!(
            listed.contains(&format!("| `{}`", option.name)),
            "docs/bench.md does not name {}",
            option.name
        );
    }
    assert!(
        listed == list,
        "docs/bench.md is behind the table; CORELANE_WRITE_DOCS=1 with this test writes it"
    );
}
