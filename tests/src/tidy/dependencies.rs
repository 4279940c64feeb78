//! The workspace's dependencies: one table of versions, every entry used, and no package knows whom it should not.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::TokenTree;
use toml::{Table, Value};

use super::tree::each_run;
use super::{Config, Finding, RustFile, Tree};

const ROOT: &str = "Cargo.toml";

/// Each entry of `[workspace.dependencies]` is used by a package, each package takes its versions from there, and
/// names each of its dependencies in its sources.
pub(super) fn used(tree: &Tree, config: &Config) -> Vec<Finding> {
    let Workspace { versions, members } = match Workspace::parse(tree) {
        Ok(workspace) => workspace,
        Err(finding) => return vec![finding],
    };
    let mut findings = Vec::new();
    let wanted: BTreeSet<&str> =
        members.iter().flat_map(|member| member.dependencies.iter().map(|d| d.name.as_str())).collect();
    for name in versions.iter().filter(|name| !wanted.contains(name.as_str())) {
        findings.push(Finding::new(ROOT, 1, format!("no package uses {name}: remove it from the table")));
    }
    for member in &members {
        let idents = Idents::of(tree, &member.folder);
        for dependency in &member.dependencies {
            if !dependency.from_workspace {
                let text = format!("{} has a version of its own: use `workspace = true`", dependency.name);
                findings.push(Finding::new(&member.path, 1, text));
            }
            if !idents.name(dependency, config) {
                let text =
                    format!("{} is not used by the package's {}", dependency.name, dependency.kind.sources());
                findings.push(Finding::new(&member.path, 1, text));
            }
        }
    }
    findings
}

/// Packages of the workspace depend only on those that `graph` allows them.
pub(super) fn graph(tree: &Tree, config: &Config) -> Vec<Finding> {
    let members = match Workspace::parse(tree) {
        Ok(workspace) => workspace.members,
        Err(finding) => return vec![finding],
    };
    let ours: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let nobody = BTreeSet::new();
    let mut findings = Vec::new();
    for member in &members {
        let allowed = config.graph.get(&member.name).unwrap_or(&nobody);
        for dependency in member.dependencies.iter().filter(|d| ours.contains(d.name.as_str())) {
            if !allowed.contains(&dependency.name) {
                let text = format!("{} may not depend on {}", member.name, dependency.name);
                findings.push(Finding::new(&member.path, 1, text));
            }
        }
    }
    findings
}

struct Workspace {
    versions: BTreeSet<String>,
    members: Vec<Member>,
}

struct Member {
    name: String,
    folder: String,
    path: String,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    kind: Kind,
    from_workspace: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Dev,
    Build,
}

impl Kind {
    const ALL: [(&'static str, Kind); 3] = [
        ("dependencies", Kind::Normal),
        ("dev-dependencies", Kind::Dev),
        ("build-dependencies", Kind::Build),
    ];

    fn sources(self) -> &'static str {
        match self {
            Kind::Normal => "src",
            Kind::Dev => "src, tests, benches or examples",
            Kind::Build => "build.rs",
        }
    }
}

impl Workspace {
    fn parse(tree: &Tree) -> Result<Workspace, Finding> {
        let root = manifest(tree, ROOT)?;
        let workspace = root.get("workspace").and_then(Value::as_table);
        let entries = workspace.and_then(|w| w.get("dependencies")).and_then(Value::as_table);
        let folders = workspace.and_then(|w| w.get("members")).and_then(Value::as_array);
        let (Some(entries), Some(folders)) = (entries, folders) else {
            return Err(Finding::new(ROOT, 1, "there is no [workspace] with members and dependencies"));
        };
        let members = folders.iter().filter_map(Value::as_str).map(|folder| Member::parse(tree, folder));
        Ok(Workspace {
            versions: entries.keys().cloned().collect(),
            members: members.collect::<Result<_, _>>()?,
        })
    }
}

impl Member {
    fn parse(tree: &Tree, folder: &str) -> Result<Member, Finding> {
        let path = format!("{folder}/Cargo.toml");
        let table = manifest(tree, &path)?;
        let name = table.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
        let name = name.ok_or_else(|| Finding::new(&path, 1, "the package has no name"))?.to_owned();
        let targets = table.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
        let tables = std::iter::once(&table).chain(targets.filter_map(Value::as_table));
        Ok(Member {
            name,
            folder: folder.to_owned(),
            dependencies: tables.flat_map(dependencies).collect(),
            path,
        })
    }
}

fn dependencies(table: &Table) -> Vec<Dependency> {
    let mut found = Vec::new();
    for (key, kind) in Kind::ALL {
        for (name, value) in table.get(key).and_then(Value::as_table).into_iter().flatten() {
            let from_workspace = value.get("workspace").and_then(Value::as_bool) == Some(true);
            found.push(Dependency { name: name.clone(), kind, from_workspace });
        }
    }
    found
}

fn manifest(tree: &Tree, path: &str) -> Result<Table, Finding> {
    let text = tree.text(path).ok_or_else(|| Finding::new(path, 1, "there is no such manifest"))?;
    text.parse().map_err(|err: toml::de::Error| Finding::new(path, 1, err.message()))
}

/// The names in a package's sources, by the folder below the package's.
struct Idents(BTreeMap<String, BTreeSet<String>>);

impl Idents {
    fn of(tree: &Tree, folder: &str) -> Idents {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for file in tree.rust().iter().filter(|file| file.package_folder() == folder) {
            let below = file.path.get(folder.len() + 1..).unwrap_or_default();
            let top = below.split('/').next().unwrap_or_default().to_owned();
            found.entry(top).or_default().extend(idents(file));
        }
        Idents(found)
    }

    fn name(&self, dependency: &Dependency, config: &Config) -> bool {
        let ident = match config.crate_names.get(&dependency.name) {
            Some(name) => name.clone(),
            None => dependency.name.replace('-', "_"),
        };
        let belongs = |top: &str| match dependency.kind {
            Kind::Normal => top == "src",
            Kind::Dev => matches!(top, "src" | "tests" | "benches" | "examples"),
            Kind::Build => top == "build.rs",
        };
        self.0.iter().any(|(top, idents)| belongs(top) && idents.contains(&ident))
    }
}

fn idents(file: &RustFile) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    each_run(&file.tokens, &mut |run| {
        found.extend(run.iter().filter_map(|token| match token {
            TokenTree::Ident(name) => Some(name.to_string()),
            _ => None,
        }));
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT_TOML: &str = "[workspace]\nmembers = ['a', 'b']\n[workspace.dependencies]\nlib-x = '1'\nmd-5 = '1'\nb = { path = 'b' }";
    const B_TOML: &str = "[package]\nname = 'b'";
    const CONFIG: &str = "crate_names = { md-5 = 'md5' }\ngraph = { a = ['b'] }";

    fn findings(rule: super::super::Rule, files: &[(&str, &str)]) -> Vec<String> {
        let all = [&[("Cargo.toml", ROOT_TOML)], files].concat();
        let tree = Tree::from_samples(&all).unwrap();
        rule(&tree, &Config::parse(CONFIG, "").unwrap()).iter().map(Finding::to_string).collect()
    }

    fn with_a(dependencies: &str, source: &str) -> Vec<String> {
        let manifest = format!("[package]\nname = 'a'\n{dependencies}");
        findings(used, &[("a/Cargo.toml", &manifest), ("b/Cargo.toml", B_TOML), ("a/src/lib.rs", source)])
    }

    const ALL_USED: &str = "[dependencies]\nlib-x.workspace = true\nb.workspace = true\n\
                            [target.'cfg(unix)'.dev-dependencies]\nmd-5.workspace = true";

    #[test]
    fn what_is_used_is_no_finding() {
        assert_eq!(with_a(ALL_USED, "use lib_x::Y; use b::Z; mod tests { use md5::Md5; }"), [""; 0]);
    }

    #[test]
    fn an_unused_dependency_is_found() {
        let found = with_a(
            ALL_USED,
            "/// lib_x in a comment, \"lib_x\" in a text.\nuse b::Z; fn f() { md5::f(\"lib_x\") }",
        );
        assert_eq!(found, ["a/Cargo.toml:1: lib-x is not used by the package's src"]);
    }

    #[test]
    fn an_unused_version_and_one_of_its_own_are_found() {
        let found = with_a("[dependencies]\nlib-x = '1'", "use lib_x::Y;");
        assert_eq!(
            found,
            [
                "Cargo.toml:1: no package uses b: remove it from the table",
                "Cargo.toml:1: no package uses md-5: remove it from the table",
                "a/Cargo.toml:1: lib-x has a version of its own: use `workspace = true`",
            ]
        );
    }

    #[test]
    fn a_dependency_of_the_sources_is_not_used_by_its_tests() {
        let manifest = format!("[package]\nname = 'a'\n{ALL_USED}");
        let files = [
            ("a/Cargo.toml", manifest.as_str()),
            ("b/Cargo.toml", B_TOML),
            ("a/src/lib.rs", "use b::Z;"),
            ("a/tests/t.rs", "use lib_x::Y; use md5::Md5;"),
        ];
        assert_eq!(findings(used, &files), ["a/Cargo.toml:1: lib-x is not used by the package's src"]);
    }

    #[test]
    fn a_dependency_against_the_graph_is_found() {
        let b = "[package]\nname = 'b'\n[dev-dependencies]\na.workspace = true";
        let a = format!("[package]\nname = 'a'\n{ALL_USED}");
        let found = findings(graph, &[("a/Cargo.toml", &a), ("b/Cargo.toml", b)]);
        assert_eq!(found, ["b/Cargo.toml:1: b may not depend on a"]);
    }

    #[test]
    fn a_missing_manifest_is_found() {
        assert_eq!(findings(graph, &[]), ["a/Cargo.toml:1: there is no such manifest"]);
    }
}
