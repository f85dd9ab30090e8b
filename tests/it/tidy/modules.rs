//! Imports among the modules of a service: in one direction, without circles.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::{assert_none, files, root};

/// A module, as the names on its path: `["member", "store"]`.
type Module = Vec<String>;

/// The imports of each module.
type Imports = BTreeMap<Module, BTreeSet<Module>>;

/// The source folders of all crates below `services/`.
fn source_folders() -> Vec<String> {
    let services = fs::read_dir(root().join("services")).unwrap().flatten();
    let names = services.map(|it| it.file_name().to_string_lossy().into_owned());
    let folders = names
        .flat_map(|name| [format!("services/{name}/src/"), format!("services/{name}/rules/src/")]);
    folders.filter(|folder| root().join(folder).exists()).collect()
}

/// The code of each file below a folder, without comments, string literals and tests. `lib.rs` and `main.rs`
/// connect all modules and are left out.
fn modules(folder: &str) -> BTreeMap<Module, String> {
    let mut modules = BTreeMap::new();
    for file in files(folder, &[".rs"]) {
        let path = file.path[folder.len()..].trim_end_matches(".rs");
        let module: Module = path.split('/').map(str::to_owned).collect();
        if ["lib", "main"].contains(&path) || module.contains(&"tests".to_owned()) {
            continue;
        }
        let production = file.text.split("#[cfg(test)]\nmod ").next().unwrap();
        modules.insert(module, super::language::code_only(production));
    }
    modules
}

/// The paths in a `use` declaration: `a::{b, c::d}` has the paths `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let Some((prefix, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap().trim().to_owned()];
    };
    let inner = rest.trim_end().strip_suffix('}').unwrap_or(rest);
    let mut depth = 0;
    let parts = inner.split(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let parts = parts.map(str::trim).filter(|part| !part.is_empty());
    parts.flat_map(expand).map(|path| prefix.trim().to_owned() + &path).collect()
}

/// The paths in code that begin with `crate`, `super` or `self`.
fn paths(code: &str) -> Vec<String> {
    let mut paths = vec![];
    let mut other_code = String::new();
    let mut rest = code;
    while let Some(start) = rest.find("use ") {
        let end = rest[start..].find(';').map_or(rest.len(), |length| start + length);
        other_code += &rest[..start];
        paths.extend(expand(&rest[start + "use ".len()..end]));
        rest = &rest[end..];
    }
    other_code += rest;
    let words = other_code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    paths.extend(words.map(str::to_owned));
    paths.retain(|path| ["crate::", "super::", "self::"].iter().any(|it| path.starts_with(it)));
    paths
}

/// The module in which the item of a path is, seen from `module`; `None` for the crate itself.
fn resolve(path: &str, module: &Module, known: &BTreeMap<Module, String>) -> Option<Module> {
    let mut resolved = module.clone();
    for name in path.split("::") {
        match name {
            "crate" => resolved.clear(),
            "super" => _ = resolved.pop(),
            "self" => {}
            name => resolved.push(name.to_owned()),
        }
    }
    while !resolved.is_empty() && !known.contains_key(&resolved) {
        resolved.pop();
    }
    Some(resolved).filter(|it| !it.is_empty())
}

/// The imports among modules, each cut to the first `depth` names of its path. A module and its own parts are
/// one unit: imports between them are left out.
fn imports(modules: &BTreeMap<Module, String>, depth: usize) -> Imports {
    let cut = |module: &Module| module[..module.len().min(depth)].to_vec();
    let mut imports = Imports::new();
    for (module, code) in modules {
        let from = cut(module);
        let targets = paths(code).into_iter().filter_map(|path| resolve(&path, module, modules));
        let targets = targets.map(|it| cut(&it));
        let targets = targets.filter(|to| !to.starts_with(&from) && !from.starts_with(to));
        imports.entry(from.clone()).or_default().extend(targets.collect::<Vec<_>>());
    }
    imports
}

/// The modules that are on a circle or import one. Empty if imports have one direction.
fn circles(mut imports: Imports) -> Vec<String> {
    loop {
        let free: Vec<_> =
            imports.iter().filter(|it| it.1.is_empty()).map(|it| it.0.clone()).collect();
        if free.is_empty() {
            return imports.into_keys().map(|it| it.join("::")).collect();
        }
        for module in free {
            imports.remove(&module);
            for targets in imports.values_mut() {
                targets.remove(&module);
            }
        }
    }
}

/// A crate is ordered by concept: its top-level modules import each other in one direction. A service whose
/// concepts depend on each other is ordered by layer instead: its files do. Rules are always ordered by
/// concept.
#[test]
fn modules_have_no_circles() {
    let mut violations = vec![];
    for folder in source_folders() {
        let modules = modules(&folder);
        let by_concept = circles(imports(&modules, 1));
        let by_layer = circles(imports(&modules, 2));
        if !by_concept.is_empty() && (folder.ends_with("/rules/src/") || !by_layer.is_empty()) {
            violations.push(format!(
                "{folder}: {}; files: {}",
                by_concept.join(", "),
                by_layer.join(", ")
            ));
        }
    }
    assert_none(&violations, "imports among modules have one direction");
}

#[test]
fn a_circle_is_found() {
    let source = |module: &str, code: &str| (vec![module.to_owned()], code.to_owned());
    let one_way = [
        source("a", "use crate::{b::{self, X}, c};"),
        source("b", ""),
        source("c", "crate::b::f()"),
    ];
    assert!(circles(imports(&one_way.into(), 1)).is_empty());
    let circle =
        [source("a", "use crate::b::X;"), source("b", "fn f() { super::a::f() }"), source("c", "")];
    assert_eq!(circles(imports(&circle.into(), 1)), ["a", "b"]);
}
