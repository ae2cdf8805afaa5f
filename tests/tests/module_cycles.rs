//! No two modules of one crate import each other, directly or through others; a parent and its own children
//! may.
//!
//! Each crate's sources are parsed with `syn`. A path that begins with `crate`, `self` or `super` is an import
//! of the module that defines what it names, through re-exports. Between the two modules the edge is drawn at
//! the level where their paths part, so that `a::x` using `b::y` makes `a` depend on `b`.
#![cfg(test)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what syn's other kinds of items are does not matter here"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::MetadataCommand;
use syn::{
    Attribute, Item, ItemMod, UseTree,
    visit::{self, Visit},
};

/// A path of module names from the crate's root, which itself is the empty path.
type Module = Vec<String>;

/// How many re-exports are followed for one path.
const REEXPORTS_MAX: usize = 8;

/// What the sources of one crate say.
#[derive(Default)]
struct CrateModules {
    modules: BTreeSet<Module>,
    /// Where a name of a module really is, by module and name.
    reexports: BTreeMap<(Module, String), Module>,
    /// Glob re-exports by module.
    globs: BTreeMap<Module, Vec<Module>>,
    /// Paths as they were resolved from `crate`, `self` and `super`, by the module that has them.
    paths: Vec<(Module, Module)>,
}

#[test]
fn no_two_modules_of_a_crate_import_each_other() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec();
    let metadata = metadata.expect("cargo metadata must run");
    let mut cycles = Vec::new();
    let mut edges = 0;
    for package in &metadata.packages {
        let roots = package.targets.iter().filter(|target| target.is_lib() || target.is_bin());
        for root in roots {
            let mut found = CrateModules::default();
            found.read(root.src_path.as_std_path(), &Vec::new(), true);
            let graph = found.graph();
            edges += graph.values().map(BTreeSet::len).sum::<usize>();
            let texts = circles(&graph).into_iter().map(|circle| {
                let names: Vec<_> = circle.iter().map(|module| module.join("::")).collect();
                format!("{} {}: {}", package.name, root.name, names.join(" <-> "))
            });
            cycles.extend(texts);
        }
    }
    assert!(500 < edges, "only {edges} imports were found");
    assert!(cycles.is_empty(), "{} circles:\n{}", cycles.len(), cycles.join("\n"));
}

impl CrateModules {
    fn read(&mut self, file: &Path, module: &Module, is_root: bool) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let parent = file.parent().unwrap();
        let is_mod_file = is_root || file.ends_with("mod.rs");
        let folder =
            if is_mod_file { parent.to_owned() } else { parent.join(file.file_stem().unwrap()) };
        self.read_items(&parsed.items, module, &folder, parent);
    }

    fn read_items(&mut self, items: &[Item], module: &Module, folder: &Path, beside: &Path) {
        self.modules.insert(module.clone());
        let mut paths = Paths { module, found: Vec::new() };
        for item in items.iter().filter(|item| !is_for_tests(attributes(item))) {
            match item {
                Item::Mod(child) => self.read_child(child, module, folder, beside),
                Item::Use(used) => {
                    let is_reexport = !matches!(used.vis, syn::Visibility::Inherited);
                    let mut names = Vec::new();
                    flatten(&used.tree, &mut Vec::new(), &mut names);
                    for (path, name) in names {
                        self.used(module, &path, name, is_reexport);
                    }
                }
                _ => paths.visit_item(item),
            }
        }
        let found = paths.found.into_iter().filter_map(|path| absolute(module, &path));
        let found: Vec<_> = found.map(|path| (module.clone(), path)).collect();
        self.paths.extend(found);
    }

    fn read_child(&mut self, child: &ItemMod, module: &Module, folder: &Path, beside: &Path) {
        let name = child.ident.to_string();
        if name.ends_with("tests") {
            return;
        }
        let path: Module = module.iter().cloned().chain([name.clone()]).collect();
        if let Some((_, items)) = &child.content {
            return self.read_items(items, &path, &folder.join(&name), beside);
        }
        let named = child.attrs.iter().find_map(path_attribute).map(|path| beside.join(path));
        let file: PathBuf = named.unwrap_or_else(|| folder.join(format!("{name}.rs")));
        let file = if file.exists() { file } else { folder.join(&name).join("mod.rs") };
        self.read(&file, &path, false);
    }

    fn used(&mut self, module: &Module, path: &[String], name: Option<String>, is_reexport: bool) {
        let begins_here = path.first().is_some_and(|first| {
            let child: Module = module.iter().cloned().chain([first.clone()]).collect();
            self.modules.contains(&child) || !is_keyword(first)
        });
        let target = match absolute(module, path) {
            Some(target) => target,
            // `pub use child::Name`, in the crate's own modules.
            None if is_reexport && begins_here => {
                module.iter().chain(path).cloned().collect::<Module>()
            }
            None => return,
        };
        self.paths.push((module.clone(), target.clone()));
        if is_reexport {
            match name {
                Some(name) => drop(self.reexports.insert((module.clone(), name), target)),
                None => self.globs.entry(module.clone()).or_default().push(target),
            }
        }
    }

    /// The module that defines what a path names.
    fn module_of(&self, path: &Module) -> Option<Module> {
        let mut path = path.clone();
        for _ in 0..REEXPORTS_MAX {
            let longest = (0..=path.len()).rev().find(|length| {
                path.get(..*length).is_some_and(|start| self.modules.contains(start))
            })?;
            let module: Module = path.get(..longest)?.to_vec();
            let Some(name) = path.get(longest) else { return Some(module) };
            match self.reexports.get(&(module.clone(), name.clone())) {
                Some(target) if *target != path => path = target.clone(),
                _ => return Some(module),
            }
        }
        None
    }

    /// Which modules import which, between siblings.
    fn graph(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let mut graph: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
        for (from, path) in &self.paths {
            let Some(to) = self.module_of(path) else { continue };
            let shared = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
            // One is the other's ancestor.
            if from.len() == shared || to.len() == shared {
                continue;
            }
            let cut = |module: &Module| module.iter().take(shared + 1).cloned().collect::<Module>();
            graph.entry(cut(from)).or_default().insert(cut(&to));
        }
        graph
    }
}

/// Groups of modules of which each reaches each other.
fn circles(graph: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<Module>> {
    let reached = |from: &Module| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&Module> = graph.get(from).into_iter().flatten().collect();
        while let Some(next) = open.pop() {
            if seen.insert(next.clone()) {
                open.extend(graph.get(next).into_iter().flatten());
            }
        }
        seen
    };
    let reach: BTreeMap<&Module, BTreeSet<Module>> =
        graph.keys().map(|module| (module, reached(module))).collect();
    let mut circles: BTreeSet<Vec<Module>> = BTreeSet::new();
    for (module, reached) in &reach {
        if reached.contains(*module) {
            let back =
                |other: &&Module| reach.get(*other).is_some_and(|others| others.contains(*module));
            circles.insert(reached.iter().filter(back).cloned().collect());
        }
    }
    circles.into_iter().collect()
}

/// The paths of code that begin with `crate`, `self` or `super`.
struct Paths<'a> {
    module: &'a Module,
    found: Vec<Vec<String>>,
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|it| it.ident.to_string()).collect();
        if absolute(self.module, &names).is_some() {
            self.found.push(names);
        }
        visit::visit_path(self, path);
    }
}

fn is_keyword(name: &str) -> bool {
    matches!(name, "crate" | "self" | "super")
}

/// A path from the crate's root, of one that begins with `crate`, `self` or `super`.
fn absolute(module: &Module, path: &[String]) -> Option<Module> {
    let first = path.first().filter(|first| is_keyword(first))?;
    let mut base = if first == "crate" { Vec::new() } else { module.clone() };
    let mut rest = path.iter();
    for name in rest.by_ref().take_while(|name| is_keyword(name)) {
        if name == "super" {
            base.pop()?;
        }
    }
    let keywords = path.iter().take_while(|name| is_keyword(name)).count();
    base.extend(path.iter().skip(keywords).cloned());
    Some(base)
}

/// Each name that a `use` brings in: its path, and the name it has here; none for a glob.
fn flatten(
    tree: &UseTree,
    before: &mut Vec<String>,
    found: &mut Vec<(Vec<String>, Option<String>)>,
) {
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, found);
            before.pop();
        }
        UseTree::Name(name) if name.ident == "self" => {
            found.push((before.clone(), before.last().cloned()));
        }
        UseTree::Name(name) => {
            let path = before.iter().cloned().chain([name.ident.to_string()]).collect();
            found.push((path, Some(name.ident.to_string())));
        }
        UseTree::Rename(renamed) => {
            let path = before.iter().cloned().chain([renamed.ident.to_string()]).collect();
            found.push((path, Some(renamed.rename.to_string())));
        }
        UseTree::Glob(_) => found.push((before.clone(), None)),
        UseTree::Group(group) => {
            group.items.iter().for_each(|tree| flatten(tree, before, found));
        }
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Mod(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        _ => &[],
    }
}

/// Whether something exists in tests alone.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    let is_cfg = |attribute: &&Attribute| attribute.path().is_ident("cfg");
    attributes
        .iter()
        .filter(is_cfg)
        .any(|attribute| attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "test"))
}

/// The file that `#[path = "…"]` names.
fn path_attribute(attribute: &Attribute) -> Option<String> {
    let value = &attribute.meta.require_name_value().ok()?.value;
    let is_path = attribute.path().is_ident("path");
    match value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) if is_path => {
            Some(text.value())
        }
        _ => None,
    }
}
