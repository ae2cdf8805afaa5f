//! No definition has a name that was given up for the field's standard term (glossary in `ARCHITECTURE.md`).
#![cfg(test)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Names of types and traits that were private terms, or that said less than the type is.
const TYPES: &[&str] = &[
    "Addresses",
    "Armed",
    "Asked",
    "Beside",
    "Book",
    "Books",
    "BoundedPrefix",
    "ClosedContext",
    "Decision",
    "Deed",
    "Depth",
    "DryRunRequest",
    "Durability",
    "EmptyResource",
    "EndedPart",
    "Envelope",
    "Everything",
    "FileError",
    "Found",
    "Hex20",
    "Hope",
    "HostPaths",
    "IdleConnections",
    "IndexEntry",
    "Judged",
    "Kept",
    "KeptSpec",
    "KindRow",
    "KnownPod",
    "Left",
    "Look",
    "Looked",
    "Looks",
    "Marks",
    "Mirror",
    "Mirrors",
    "Named",
    "NamedKind",
    "Names",
    "NotDone",
    "Note",
    "Noted",
    "Notes",
    "ObjectPart",
    "ObjectUsage",
    "Offered",
    "One",
    "OpenConnection",
    "OpenContext",
    "Order",
    "Parser",
    "Part",
    "Pass",
    "Passes",
    "PathFilter",
    "Place",
    "PollSpec",
    "Prober",
    "Pulse",
    "Question",
    "ReloadError",
    "RowFlags",
    "Said",
    "Saved",
    "Scene",
    "Scheduler",
    "Seat",
    "Seen",
    "SetRevisions",
    "Shelf",
    "Shown",
    "Sight",
    "Situation",
    "StartError",
    "Story",
    "StreamEnd",
    "Tally",
    "Tenure",
    "Told",
    "Turn",
    "Verdict",
    "Vitals",
    "VolumeError",
    "Volumes",
    "Waiting",
    "Wanted",
    "Wishes",
    "Witness",
    "WriteError",
];
/// Names of modules.
const MODULES: &[&str] = &[
    "book", "clash", "kit", "lift", "marks", "mirror", "mirrors", "notes", "picture", "pulse",
    "story", "strays", "told", "vitals", "witness", "word", "work",
];
/// Names of functions.
const FUNCTIONS: &[&str] = &[
    "arm",
    "beat",
    "complain",
    "condemning",
    "deed",
    "disarm",
    "feel",
    "give_back",
    "hear",
    "hurry",
    "lend",
    "lift",
    "look",
    "mute",
    "put_back",
    "say",
    "take_back",
    "take_in",
    "tell",
    "told",
    "under_way",
    "until_told",
    "went_wrong",
    "wishes",
];

#[test]
fn no_definition_has_a_name_that_was_given_up() {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = ["host", "plugins", "tests", "wit"].map(|folder| tree.join(folder));
    let files: Vec<_> = folders.iter().flat_map(|folder| rust_files(folder)).collect();
    assert!(200 < files.len(), "only {} files were found", files.len());
    let found: Vec<_> = files.iter().flat_map(|file| given_up(file)).collect();
    assert!(found.is_empty(), "{} old names:\n{}", found.len(), found.join("\n"));
}

#[test]
fn a_name_that_was_given_up_is_found() {
    assert_eq!(old_name("pub(crate) struct Scene<'a> {"), Some("Scene"));
    assert_eq!(old_name("    async fn tell(&self) {"), Some("tell"));
    assert_eq!(old_name("mod word;"), Some("word"));
    assert_eq!(old_name("type Sight = u8;"), Some("Sight"));
    for line in ["struct SceneGraph;", "let told = 1;", "// struct Scene", "fn tell_apart() {"] {
        assert_eq!(old_name(line), None, "{line}");
    }
}

fn given_up(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().enumerate();
    let found = lines.filter_map(|(at, line)| Some((at + 1, old_name(line)?)));
    found.map(|(at, name)| format!("{}:{at}: {name}", file.display())).collect()
}

/// The old name that a line defines.
fn old_name(line: &str) -> Option<&'static str> {
    let mut words = line.trim_start().split(|c: char| !(c.is_alphanumeric() || c == '_'));
    if line.trim_start().starts_with("//") {
        return None;
    }
    let kind = words.find(|word| {
        matches!(*word, "struct" | "enum" | "trait" | "type" | "mod" | "fn" | "union")
    })?;
    let before = line.split(kind).next()?;
    let is_definition = before.chars().all(|c| c.is_alphanumeric() || " _()".contains(c));
    let name = words.next().filter(|_| is_definition)?;
    let names = match kind {
        "mod" => MODULES,
        "fn" => FUNCTIONS,
        _ => TYPES,
    };
    names.iter().find(|old| **old == name).copied()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
