//! Embeds the files of a new plugin's project in the binary: the SDK, the WIT contract and the sample, as text.
//!
//! `tholepin plugin new` must work on machines without this source tree, so the binary contains the files.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{Error, Result},
    path::{Path, PathBuf},
};

/// The constants to write: name, folders whose files it contains, and folder to which their paths are relative.
const TABLES: &[(&str, &[&str], &str)] = &[
    ("SDK", &["plugins/sdk", "wit"], ""),
    ("SAMPLE", &["plugins/samples/site-config"], "plugins/samples/site-config"),
];

fn main() -> Result<()> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let tree = here.join("../..").canonicalize()?;
    let mut text = String::new();
    for (constant, folders, start) in TABLES {
        let mut files = BTreeMap::new();
        for folder in *folders {
            let folder = tree.join(folder);
            println!("cargo::rerun-if-changed={}", folder.display());
            collect(&folder, &tree.join(start), &mut files)?;
        }
        text.push_str(&format!("pub(crate) const {constant}: &[(&str, &str)] = &[\n"));
        for (path, file) in files {
            text.push_str(&format!("    ({path:?}, include_str!({file:?})),\n"));
        }
        text.push_str("];\n");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("embedded.rs"), text)
}

/// Adds every file under a folder by its path relative to `start`. Leaves out dot files, such as those of editors.
fn collect(folder: &Path, start: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_scratch =
            path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_scratch {
            continue;
        }
        if path.is_dir() {
            collect(&path, start, files)?;
        } else {
            let name = path.strip_prefix(start).map_err(Error::other)?;
            files.insert(name.to_string_lossy().into_owned(), path);
        }
    }
    Ok(())
}
