//! The functions of the contract that a plugin can import, and the reply to a plugin without a grant.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result};

/// Each import that needs a grant, and a text that its refusal must contain.
pub const DENIED: &[(&str, &str)] = &[
    ("kubernetes/get", "`get`"),
    ("kubernetes/list", "`list`"),
    ("kubernetes/apply", "`apply`"),
    ("kubernetes/apply-status", "`apply-status`"),
    ("kubernetes/merge-patch", "`merge-patch`"),
    ("kubernetes/delete", "`delete`"),
    ("kubernetes/publish", "`publish`"),
    ("kubernetes/warnings", "`list`"),
    ("redis/pipeline", "ping"),
    ("redis/fan-out", "ping"),
    ("redis/observe", "observe"),
    ("redis/act", "meet"),
    ("runtime/wait", "`get`"),
    ("runtime/probe", "port 6379"),
];

/// The imports that need no grant because they reach nothing outside the host, and how their answer begins.
pub const ALLOWED: &[(&str, &str)] = &[
    ("runtime/now", "ok "),
    ("runtime/random", "ok "),
    ("runtime/parameters", "ok "),
    ("runtime/log", "logged"),
];

/// Returns the functions that the contract lets a plugin import, as `package/function`.
///
/// # Errors
///
/// Fails if the WIT files cannot be read.
pub fn of_the_contract() -> Result<BTreeSet<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/deps");
    let mut functions = BTreeSet::new();
    for package in fs::read_dir(folder)? {
        let package = package?;
        let name = package
            .file_name()
            .into_string()
            .ok()
            .context("the package's folder name is not UTF-8")?;
        let name =
            name.split_once('@').context("the package's folder name has no version")?.0.to_owned();
        // A plugin exports the functions of this package and does not import them.
        if name == "plugin" {
            continue;
        }
        for file in fs::read_dir(package.path())? {
            let text = fs::read_to_string(file?.path())?;
            let found = text.lines().filter_map(|line| line.trim().split_once(": func("));
            functions.extend(
                found.map(|(function, _)| format!("{name}/{}", function.trim_start_matches('%'))),
            );
        }
    }
    Ok(functions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_of_the_contract_is_in_the_tables() {
        let tables = DENIED.iter().chain(ALLOWED).map(|(function, _)| (*function).to_owned());
        assert_eq!(of_the_contract().unwrap(), tables.collect());
    }
}
