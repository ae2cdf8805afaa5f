//! Looks at the directory of plugins: which files are there, and whether they are the same as before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use serde_json::Value;
use tholepin_core::PluginName;

use crate::settings::PluginObject;

/// The largest `NAME.yaml` in bytes.
const SETTINGS_BYTES_MAX: u64 = 256 << 10;

/// What the directory holds.
#[derive(Debug, Default)]
pub(super) struct DirectoryScan {
    /// Plugins with a `NAME.yaml`.
    pub(super) plugins: BTreeMap<PluginName, FoundPlugin>,
    /// Components that no settings name, by the name of the file without `.wasm`.
    pub(super) orphans: BTreeSet<PluginName>,
    /// Files whose names cannot be a plugin's.
    pub(super) misnamed: BTreeSet<String>,
}

/// One plugin as found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FoundPlugin {
    /// Its settings, or why they cannot be read.
    pub(super) settings: Result<PluginSettingsFile, String>,
    /// Its component's file; absent if there is none.
    pub(super) component: Option<FileFingerprint>,
}

/// Settings as read, in both forms.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PluginSettingsFile {
    /// For us.
    pub(super) plugin: PluginObject,
    /// For the `Plugin` object in Kubernetes: with everything that the user wrote.
    pub(super) object: Value,
}

/// Tells whether a file is the same as before, links followed: a file written in place, replaced by a
/// rename, or behind another link has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileFingerprint {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileFingerprint {
    /// Looks at a file; absent if it cannot be seen.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Looks at the whole directory. Blocks.
pub(super) fn survey(directory: &Path) -> io::Result<DirectoryScan> {
    let mut survey = DirectoryScan::default();
    let mut components = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let file = entry?.file_name();
        let Some(name) = file.to_str() else {
            survey.misnamed.insert(file.to_string_lossy().into_owned());
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        if name.ends_with(".yml") {
            survey.misnamed.insert(name.to_owned());
        } else if let Some(stem) = name.strip_suffix(".yaml") {
            match stem.parse::<PluginName>() {
                Ok(plugin) => {
                    let found = look(directory, &plugin);
                    survey.plugins.insert(plugin, found);
                }
                Err(_) => {
                    survey.misnamed.insert(name.to_owned());
                }
            }
        } else if name.ends_with(".wasm") {
            components.insert(name.to_owned());
        }
    }
    for found in survey.plugins.values() {
        if let Ok(settings) = &found.settings {
            components.remove(&settings.plugin.spec.source.file);
        }
    }
    for name in components {
        match name.trim_end_matches(".wasm").parse::<PluginName>() {
            Ok(plugin) if survey.plugins.contains_key(&plugin) => {}
            Ok(plugin) => {
                survey.orphans.insert(plugin);
            }
            Err(_) => {
                survey.misnamed.insert(name);
            }
        }
    }
    Ok(survey)
}

/// Looks at the files of one plugin. Blocks.
pub(super) fn look(directory: &Path, name: &PluginName) -> FoundPlugin {
    let settings = read_settings(&directory.join(format!("{name}.yaml")), name);
    let component = settings.as_ref().ok().and_then(|settings| {
        FileFingerprint::of(&directory.join(&settings.plugin.spec.source.file))
    });
    FoundPlugin { settings, component }
}

fn read_settings(path: &Path, name: &PluginName) -> Result<PluginSettingsFile, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        // To read a pipe would wait for whoever writes into it.
        return Err("it is no regular file".to_owned());
    }
    let bytes = metadata.len();
    if SETTINGS_BYTES_MAX < bytes {
        return Err(format!("it has {bytes} bytes, more than {SETTINGS_BYTES_MAX}"));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let plugin: PluginObject = serde_saphyr::from_str(&text).map_err(|error| one_line(&error))?;
    let object: Value = serde_saphyr::from_str(&text).map_err(|error| one_line(&error))?;
    check(&plugin, name)?;
    Ok(PluginSettingsFile { plugin, object })
}

/// What is wrong with a file, in one line with its place: tables and events have no room for the excerpt of the
/// file that the parser adds.
fn one_line(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    if text.contains("multiple YAML documents") {
        return "it holds several YAML documents; each Plugin has a file of its own".to_owned();
    }
    // What the parser advises to programmers.
    let text = text.split(", set DuplicateKeyPolicy").next().unwrap_or_default();
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Whether the object is one that this host reads, and names what its file names.
fn check(plugin: &PluginObject, name: &PluginName) -> Result<(), String> {
    let kind = (plugin.api_version.as_str(), plugin.kind.as_str());
    if kind != ("tholepin.dev/v1alpha1", "Plugin") {
        let (api_version, kind) = kind;
        return Err(format!("it is a {api_version} {kind}; use tholepin.dev/v1alpha1 Plugin"));
    }
    if plugin.metadata.name != name.as_str() {
        return Err(format!(
            "metadata.name is `{}`, but the file is `{name}.yaml`: they must be equal",
            plugin.metadata.name
        ));
    }
    let file = &plugin.spec.source.file;
    if file.contains('/') || file.starts_with('.') || !file.ends_with(".wasm") {
        return Err(format!("spec.source.file is `{file}`: name a .wasm file beside this one"));
    }
    if let Some(digest) = plugin.spec.digest.as_ref().filter(|digest| !is_sha256(digest)) {
        return Err(format!(
            "spec.digest is `{digest}`: write the component's SHA-256 as 64 lowercase hexadecimal digits, as \
             `sha256sum {file}` prints it"
        ));
    }
    plugin.spec.limits.unwrap_or_default().limits().map(|_| ())
}

fn is_sha256(digest: &str) -> bool {
    digest.len() == 64 && digest.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_look_like_a_plugins_and_are_none_are_told() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let odd = std::ffi::OsStr::from_bytes(b"n\xff.yaml");
        for name in ["p.yml", "Bad_Name.wasm", "README.md", ".hidden.yaml"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::write(folder.path().join(odd), "").unwrap();
        let misnamed = survey(folder.path()).unwrap().misnamed;
        let misnamed: Vec<_> = misnamed.iter().map(String::as_str).collect();
        assert_eq!(misnamed, ["Bad_Name.wasm", "n\u{fffd}.yaml", "p.yml"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_of_in_one_line_with_the_line_of_the_file() {
        let head = "# a comment\napiVersion: tholepin.dev/v1alpha1\nkind: Plugin\nmetadata: {name: p}\nspec:\n";
        let cases = [
            ("  source: {file: p.wasm\n  grants: asRequested\n", "line 7"),
            ("  source: {file: p.wasm}\n  grants: asRequested\n  limitz: {}\n", "line 8"),
            (
                "  source: {file: p.wasm}\n  grants: asRequested\n  limits: {memoryMiB: x}\n",
                "line 8",
            ),
            ("  source: {file: p.wasm}\n  grants: {kubernets: []}\n", "line 7"),
            ("  source: {file: p.wasm}\n", "line 6"),
        ];
        let folder = tempfile::tempdir().unwrap();
        let (path, name) = (folder.path().join("p.yaml"), "p".parse().unwrap());
        for (tail, line) in cases {
            fs::write(&path, format!("{head}{tail}")).unwrap();
            let error = read_settings(&path, &name).unwrap_err();
            assert!(error.contains(line) && !error.contains('\n'), "{tail}: {error}");
        }
        let whole = format!("{head}  source: {{file: p.wasm}}\n  grants: asRequested\n");
        let capital = "A".repeat(64);
        for (text, words) in [
            (format!("{whole}---\n{whole}"), "several YAML documents"),
            (format!("{whole}{whole}"), "duplicate mapping key"),
            (format!("{whole}  digest: abc\n"), "`abc`: write the component's SHA-256"),
            (format!("{whole}  digest: {capital}\n"), "lowercase"),
        ] {
            fs::write(&path, &text).unwrap();
            let error = read_settings(&path, &name).unwrap_err();
            assert!(error.contains(words) && !error.contains("Policy"), "{text}: {error}");
        }
        fs::write(&path, format!("{whole}  digest: {}\n", "a1".repeat(32))).unwrap();
        read_settings(&path, &name).unwrap();
        // Whoever opens a pipe waits for whoever writes into it.
        fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        assert_eq!(read_settings(&path, &name).unwrap_err(), "it is no regular file");
    }
}
