//! No file names a folder of somebody's machine: a clone works wherever it lies.

use super::{Config, Finding, Tree};

/// No absolute path below one of `machine_folders`, in any text file.
pub(super) fn check(tree: &Tree, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts() {
        for (line, text) in (1..).zip(text.lines()) {
            for folder in config.machine_folders.iter().filter(|folder| names(text, folder)) {
                let text = format!("/{folder} is a folder of one machine: name it relative to the project");
                findings.push(Finding::new(path, line, text));
            }
        }
    }
    findings
}

/// Whether `text` has `/folder` as the begin of an absolute path.
fn names(text: &str, folder: &str) -> bool {
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut rest = text;
    let mut before = None;
    while let Some(at) = rest.find('/') {
        before = rest[..at].chars().next_back().or(before);
        let behind = &rest[at + 1..];
        let ends = |after: &str| !after.chars().next().is_some_and(in_name);
        if !before.is_some_and(|c| in_name(c) || matches!(c, '/' | '}' | ')' | '*'))
            && behind.strip_prefix(folder).is_some_and(ends)
        {
            return true;
        }
        before = Some('/');
        rest = behind;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> bool {
        let config = Config::parse("machine_folders = ['home', 'tmp/mine']", "").unwrap();
        let tree = Tree::from_samples(&[("tests/run", text)]).unwrap();
        !check(&tree, &config).is_empty()
    }

    #[test]
    fn a_machine_s_folder_is_found() {
        let home = |before: &str, after: &str| format!("{before}/home{after}");
        for bad in
            [home("cd ", "/me/src"), home("", ""), home("x = \"", "\""), home("(", ")"), home("a/b c=", "/x")]
        {
            assert!(found(&bad), "{bad}");
        }
        assert!(found(&format!("`/{}`", "tmp/mine/target")));
    }

    #[test]
    fn what_merely_resembles_it_is_not() {
        let home = |before: &str, after: &str| format!("{before}/home{after}");
        for good in [
            home("https://host", ""),
            home("..", "/x"),
            home("", "page"),
            home("$ROOT", "/a"),
            home("${ROOT}", "/a"),
            home("/", "/a"),
            "/tmp/minette".to_owned(),
            "/tmp/other".to_owned(),
            "sweet home".to_owned(),
        ] {
            assert!(!found(&good), "{good}");
        }
    }
}
