//! The architecture rules R1 to R6 and the invariants of `ARCHITECTURE.md`, as far as a test can check them.
#![cfg(test)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

static PACKAGES: LazyLock<Vec<Package>> = LazyLock::new(|| {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec();
    metadata.expect("cargo metadata must run").packages
});

/// R1: `core` depends on `schema` and on nothing that does I/O.
#[test]
fn core_depends_on_vocabulary_only() {
    // `sha2` computes only: recordings name a failed call by its digest.
    let may_use = ["serde", "serde_json", "sha2", "tholepin-schema", "thiserror"];
    assert_uses_only("tholepin-core", &may_use);
    assert_uses_only("tholepin-schema", &["serde", "serde_json", "thiserror"]);
}

/// R2: each large library is a dependency of the crates that wrap it and of no other; an allowance that no crate
/// uses fails as well.
#[test]
fn each_library_has_one_home() {
    let homes: &[(&str, &[&str])] = &[
        ("kube", &["tholepin-agent", "tholepin-kube", "tholepin-local"]),
        // Only tests use it, as an oracle.
        ("redis", &[]),
        ("wasmtime", &["tholepin-guest"]),
        ("wit-bindgen", &["tholepin-sdk"]),
        ("clap", &["tholepin"]),
        ("hyper", &["tholepin-admin", "tholepin-apiserver", "tholepin-http"]),
        ("rcgen", &["tholepin-apiserver"]),
        ("nix", &["tholepin-agent", "tholepin-guest", "tholepin-local"]),
        ("metrics-exporter-prometheus", &["tholepin"]),
    ];
    for (library, allowed) in homes {
        let uses = |package: &&Package| normal(package).any(|name| name == *library);
        let users: BTreeSet<&str> = shipped().filter(uses).map(|package| &**package.name).collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        assert_eq!(users, allowed, "the packages that use {library}, and those that may");
    }
}

/// R3: the crates of the host depend on `core` and `schema` and not on each other; only the binary wires them. A
/// line of the table that allows more than the crate uses fails as well.
#[test]
fn parts_of_the_host_do_not_know_each_other() {
    let may_see: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("tholepin-core", &["tholepin-schema"] as &[_]),
        ("tholepin-admin", &["tholepin-core", "tholepin-http"]),
        ("tholepin-controller", &["tholepin-core", "tholepin-schema"]),
        ("tholepin-gate", &["tholepin-core", "tholepin-schema"]),
        ("tholepin-guest", &["tholepin-core", "tholepin-schema"]),
        ("tholepin-probe", &["tholepin-core", "tholepin-schema"]),
        ("tholepin-redis", &["tholepin-core", "tholepin-schema"]),
        ("tholepin-kube", &["tholepin-core", "tholepin-schema"]),
        ("tholepin-crd", &[]),
        ("tholepin-http", &[]),
        ("tholepin-devkit", &["tholepin-core"]),
        // The local host stands apart from the engine: it is a cluster, not a part of the host.
        ("tholepin-apimachinery", &[]),
        ("tholepin-apiserver", &["tholepin-apimachinery", "tholepin-http"]),
        ("tholepin-agent", &[]),
        ("tholepin-local", &["tholepin-agent", "tholepin-apiserver"]),
    ]);
    for package in shipped().filter(|package| is_under(package, "host")) {
        let Some(allowed) = may_see.get(package.name.as_str()) else {
            assert_eq!(package.name.as_str(), "tholepin", "a new part needs a line in this table");
            continue;
        };
        let used: BTreeSet<&str> =
            normal(package).filter(|name| name.starts_with("tholepin")).collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        assert_eq!(used, allowed, "what {} depends on, and what it may", package.name);
    }
}

/// R4: planner crates depend on nothing that does I/O.
#[test]
fn planners_depend_on_nothing_that_acts() {
    let may_use = ["serde", "serde_json", "tholepin-redis-types", "tholepin-schema", "thiserror"];
    let planners = PACKAGES.iter().filter(|package| package.name.ends_with("-plan"));
    for package in planners {
        assert_uses_only(package.name.as_str(), &may_use);
        let root = fs::read_to_string(directory(package).join("src/lib.rs")).unwrap();
        assert!(root.contains("#![no_std]"), "{} must be no_std", package.name);
    }
}

/// R5: host and plugins share only `wit/`.
#[test]
fn host_and_plugins_do_not_import_each_other() {
    let names = |root| -> BTreeSet<&str> {
        shipped().filter(|package| is_under(package, root)).map(|package| &**package.name).collect()
    };
    let (host, plugins) = (names("host"), names("plugins"));
    for package in shipped() {
        for name in normal(package) {
            let crosses = is_under(package, "host") && plugins.contains(name)
                || is_under(package, "plugins") && host.contains(name);
            assert!(!crosses, "{} must not use {name}", package.name);
        }
    }
}

/// Every source file is reached from a crate root: a file that is not compiled looks tested and is not.
#[test]
fn every_source_file_is_compiled() {
    for package in PACKAGES.iter() {
        let mut reached = BTreeSet::new();
        for target in &package.targets {
            reach(target.src_path.as_std_path(), true, &mut reached);
        }
        for folder in ["src", "tests", "examples"] {
            for file in rust_files(&directory(package).join(folder)) {
                assert!(reached.contains(&file), "no crate compiles {}", file.display());
            }
        }
    }
}

/// A file with more than 500 lines besides its tests usually holds a second concept.
#[test]
fn files_are_short() {
    const LINES_MAX: usize = 500;
    let long: Vec<_> = shipped()
        .flat_map(|package| rust_files(&directory(package).join("src")))
        .filter(|file| !file.file_stem().unwrap().to_string_lossy().ends_with("tests"))
        .filter_map(|file| {
            let text = fs::read_to_string(&file).unwrap();
            let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
            (LINES_MAX < lines).then(|| format!("{}: {lines} lines", file.display()))
        })
        .collect();
    assert!(long.is_empty(), "split by reason to change:\n{}", long.join("\n"));
}

/// Adds `file` and the files of its `mod name;` lines.
fn reach(file: &Path, is_root: bool, reached: &mut BTreeSet<PathBuf>) {
    let Ok(text) = fs::read_to_string(file) else { return };
    if !reached.insert(file.to_owned()) {
        return;
    }
    let parent = file.parent().unwrap();
    let folder = if is_root { parent.to_owned() } else { parent.join(file.file_stem().unwrap()) };
    let mut path_attribute = None;
    for line in text.lines() {
        let line = line.trim();
        if let Some(path) = line.strip_prefix("#[path = \"") {
            path_attribute = path.split('"').next().map(|path| parent.join(path));
            continue;
        }
        let declaration = line.split_once("mod ").filter(|(before, _)| {
            before.is_empty() || before.starts_with("pub") && before.ends_with(' ')
        });
        let Some(name) = declaration.and_then(|(_, name)| name.strip_suffix(';')) else {
            continue;
        };
        let path = path_attribute.take().unwrap_or_else(|| folder.join(format!("{name}.rs")));
        let path = if path.exists() { path } else { folder.join(name).join("mod.rs") };
        reach(&path, path.ends_with("mod.rs"), reached);
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The packages that users get: all but the tests, their fakes and their guests.
fn shipped() -> impl Iterator<Item = &'static Package> {
    PACKAGES.iter().filter(|package| !is_under(package, "tests"))
}

#[track_caller]
fn assert_uses_only(package: &str, may_use: &[&str]) {
    let package = PACKAGES.iter().find(|candidate| *candidate.name == package).unwrap();
    for name in normal(package) {
        assert!(may_use.contains(&name), "{} must not use {name}", package.name);
    }
}

fn normal(package: &Package) -> impl Iterator<Item = &str> {
    let normal = package.dependencies.iter().filter(|dep| dep.kind == DependencyKind::Normal);
    normal.map(|dependency| dependency.name.as_str())
}

fn directory(package: &Package) -> &Path {
    package.manifest_path.parent().unwrap().as_std_path()
}

fn is_under(package: &Package, root: &str) -> bool {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    directory(package).strip_prefix(tree).is_ok_and(|path| path.starts_with(root))
}
