//! The files that the rules look at: those that git tracks or would add, with the Rust ones parsed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use proc_macro2::{TokenStream, TokenTree};

/// The project's files, by path relative to its folder.
#[derive(Default)]
pub struct Tree {
    texts: BTreeMap<String, Option<String>>,
    rust: Vec<RustFile>,
}

/// A Rust file, lexed and parsed.
pub struct RustFile {
    /// Relative to the project's folder.
    pub path: String,
    /// How many lines it has.
    pub lines: usize,
    /// All of its tokens. Comments are not tokens; doc comments are string literals.
    pub tokens: TokenStream,
    /// Its items.
    pub ast: syn::File,
}

/// A tree that cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// Git did not list the files.
    #[error("cannot list the files of {root} with git: {reason}")]
    List {
        /// The project's folder.
        root: String,
        /// What git said.
        reason: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Relative to the project's folder.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A Rust file does not parse.
    #[error("{path}:{line}: {reason}")]
    Parse {
        /// Relative to the project's folder.
        path: String,
        /// The line, from 1 up.
        line: usize,
        /// What the parser said.
        reason: String,
    },
}

impl Tree {
    /// Reads the project in `root`: what git tracks, and what it would add.
    ///
    /// # Errors
    /// When `root` is no git work tree, or a file cannot be read or parsed.
    pub fn load(root: &Path) -> Result<Tree, TreeError> {
        let mut tree = Tree::default();
        for path in list(root)? {
            let on_disk = root.join(&path);
            // A file deleted but not yet committed, or a link: neither has a text of its own.
            if !on_disk.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                continue;
            }
            let bytes =
                std::fs::read(&on_disk).map_err(|source| TreeError::Read { path: path.clone(), source })?;
            tree.insert(path, String::from_utf8(bytes).ok())?;
        }
        Ok(tree)
    }

    /// A made-up tree, for the rules' own tests.
    ///
    /// # Errors
    /// When a Rust file among them does not parse.
    pub fn from_samples(files: &[(&str, &str)]) -> Result<Tree, TreeError> {
        let mut tree = Tree::default();
        for (path, text) in files {
            tree.insert((*path).to_owned(), Some((*text).to_owned()))?;
        }
        Ok(tree)
    }

    fn insert(&mut self, path: String, text: Option<String>) -> Result<(), TreeError> {
        if let Some(text) = &text
            && path.ends_with(".rs")
        {
            self.rust.push(RustFile::parse(&path, text)?);
        }
        self.texts.insert(path, text);
        Ok(())
    }

    /// The Rust files.
    pub fn rust(&self) -> &[RustFile] {
        &self.rust
    }

    /// Every file that is text, with its path.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)))
    }

    /// The text of one file.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path)?.as_deref()
    }

    /// Whether there is such a file or folder.
    pub fn exists(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        path.is_empty()
            || self.texts.contains_key(path)
            || self.texts.range(folder.clone()..).next().is_some_and(|(next, _)| next.starts_with(&folder))
    }
}

impl RustFile {
    fn parse(path: &str, text: &str) -> Result<RustFile, TreeError> {
        let broken = |err: syn::Error| TreeError::Parse {
            path: path.to_owned(),
            line: err.span().start().line,
            reason: err.to_string(),
        };
        let ast = syn::parse_file(text).map_err(broken)?;
        let tokens = text.parse::<TokenStream>().map_err(|err| broken(err.into()))?;
        Ok(RustFile { path: path.to_owned(), lines: text.lines().count(), tokens, ast })
    }

    /// The folder of the package that the file belongs to: what stands before the folder that cargo gives its kind of
    /// source, or the folder that it lies in itself (`build.rs`).
    pub fn package_folder(&self) -> &str {
        let kinds = ["/src/", "/tests/", "/benches/", "/examples/"];
        let end = kinds.iter().filter_map(|kind| self.path.find(kind)).min();
        let end = end.or_else(|| self.path.rfind('/')).unwrap_or(0);
        &self.path[..end]
    }
}

/// Calls `visit` with each run of sibling tokens: the stream itself, then the content of every group in it.
pub(super) fn each_run(tokens: &TokenStream, visit: &mut impl FnMut(&[TokenTree])) {
    let run: Vec<TokenTree> = tokens.clone().into_iter().collect();
    visit(&run);
    for token in &run {
        if let TokenTree::Group(group) = token {
            each_run(&group.stream(), visit);
        }
    }
}

/// The line of a token, from 1 up.
pub(super) fn line_of(token: &TokenTree) -> usize {
    token.span().start().line
}

/// Whether the token is this punctuation.
pub(super) fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn list(root: &Path) -> Result<Vec<String>, TreeError> {
    let failed = |reason: String| TreeError::List { root: root.display().to_string(), reason };
    let output = Command::new("git")
        // Containers often have the files of another user; nothing of their configuration is run here.
        .args(["-c", "safe.directory=*", "-C"])
        .arg(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"])
        .output()
        .map_err(|err| failed(err.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(output
        .stdout
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_files_exist_and_their_prefixes_do_not() {
        let tree = Tree::from_samples(&[("docs/a.md", ""), ("docs-old", "")]).unwrap();
        for there in ["docs/a.md", "docs", "docs/", "docs-old", ""] {
            assert!(tree.exists(there), "{there}");
        }
        for missing in ["docs/a", "doc", "docs/a.md/x", "docs-"] {
            assert!(!tree.exists(missing), "{missing}");
        }
    }

    #[test]
    fn a_file_that_does_not_parse_is_named_with_its_line() {
        let err = Tree::from_samples(&[("a/src/lib.rs", "fn f() {}\nfn (")]).err().unwrap();
        assert!(err.to_string().starts_with("a/src/lib.rs:2:"), "{err}");
    }
}
