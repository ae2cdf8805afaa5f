//! Scans the plugin directory: reads the settings, and takes fingerprints of the components.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use serde_json::Value;
use tholepin_core::PluginName;

use crate::settings::PluginYamlObject;

/// The largest `NAME.yaml` in bytes.
const SETTINGS_BYTES_MAX: u64 = 256 << 10;

/// The content of the plugin directory.
#[derive(Debug, Default)]
pub(super) struct DirectoryScan {
    /// Plugins with a `NAME.yaml`.
    pub(super) plugins: BTreeMap<PluginName, FoundPlugin>,
    /// Components that no settings refer to, by the name of the file without `.wasm`.
    pub(super) orphans: BTreeSet<PluginName>,
    /// Files whose names cannot be those of a plugin.
    pub(super) misnamed: BTreeSet<String>,
}

/// The files of one plugin.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FoundPlugin {
    /// The settings, or why they cannot be read.
    pub(super) settings: Result<PluginSettingsFile, String>,
    /// The fingerprint of the component; absent if it does not exist.
    pub(super) component: Option<FileFingerprint>,
}

/// The parsed settings of a plugin.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PluginSettingsFile {
    /// The settings that this crate uses.
    pub(super) plugin: PluginYamlObject,
    /// The complete document, for the `Plugin` object in Kubernetes.
    pub(super) object: Value,
}

/// A fingerprint of a file, with links followed. It changes when the file is written in place or replaced by a
/// rename, and when the link points to another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileFingerprint {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileFingerprint {
    /// Returns the fingerprint of a file; absent if it is not a regular file or cannot be read.
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

/// Scans the whole directory. Blocks.
pub(super) fn scan(directory: &Path) -> io::Result<DirectoryScan> {
    let mut scan = DirectoryScan::default();
    let mut components = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let file = entry?.file_name();
        let Some(name) = file.to_str() else {
            scan.misnamed.insert(file.to_string_lossy().into_owned());
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        if name.ends_with(".yml") {
            scan.misnamed.insert(name.to_owned());
        } else if let Some(stem) = name.strip_suffix(".yaml") {
            match stem.parse::<PluginName>() {
                Ok(plugin) => {
                    let found = read_plugin(directory, &plugin);
                    scan.plugins.insert(plugin, found);
                }
                Err(_) => {
                    scan.misnamed.insert(name.to_owned());
                }
            }
        } else if name.ends_with(".wasm") {
            components.insert(name.to_owned());
        }
    }
    for found in scan.plugins.values() {
        if let Ok(settings) = &found.settings {
            components.remove(&settings.plugin.spec.source.file);
        }
    }
    for name in components {
        match name.trim_end_matches(".wasm").parse::<PluginName>() {
            Ok(plugin) if scan.plugins.contains_key(&plugin) => {}
            Ok(plugin) => {
                scan.orphans.insert(plugin);
            }
            Err(_) => {
                scan.misnamed.insert(name);
            }
        }
    }
    Ok(scan)
}

/// Reads the files of one plugin. Blocks.
pub(super) fn read_plugin(directory: &Path, name: &PluginName) -> FoundPlugin {
    let settings = read_settings(&directory.join(format!("{name}.yaml")), name);
    let component = settings.as_ref().ok().and_then(|settings| {
        FileFingerprint::of(&directory.join(&settings.plugin.spec.source.file))
    });
    FoundPlugin { settings, component }
}

fn read_settings(path: &Path, name: &PluginName) -> Result<PluginSettingsFile, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        // Opening a pipe would block until another process writes to it.
        return Err("it is not a regular file".to_owned());
    }
    let bytes = metadata.len();
    if SETTINGS_BYTES_MAX < bytes {
        return Err(format!(
            "it has {bytes} bytes, more than {SETTINGS_BYTES_MAX}; make it smaller"
        ));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let plugin: PluginYamlObject =
        serde_saphyr::from_str(&text).map_err(|error| one_line_message(&error))?;
    let object: Value = serde_saphyr::from_str(&text).map_err(|error| one_line_message(&error))?;
    check(&plugin, name)?;
    Ok(PluginSettingsFile { plugin, object })
}

/// Formats a parse error as one line with its position, without the parser's excerpt of the file, because
/// tables and events show only one line.
fn one_line_message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    if text.contains("multiple YAML documents") {
        return "it holds several YAML documents; put each Plugin into a file of its own"
            .to_owned();
    }
    // Removes advice of the parser that is meant for programmers.
    let text = text.split(", set DuplicateKeyPolicy").next().unwrap_or_default();
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Checks the kind, name, component file, digest and limits of a `Plugin` object.
fn check(plugin: &PluginYamlObject, name: &PluginName) -> Result<(), String> {
    let kind = (plugin.api_version.as_str(), plugin.kind.as_str());
    if kind != ("tholepin.dev/v1alpha1", "Plugin") {
        let (api_version, kind) = kind;
        return Err(format!(
            "it is a {api_version} {kind}; set apiVersion to tholepin.dev/v1alpha1 and kind to Plugin"
        ));
    }
    if plugin.metadata.name != name.as_str() {
        return Err(format!(
            "metadata.name is `{}`; change it to `{name}`, or rename the file",
            plugin.metadata.name
        ));
    }
    let file = &plugin.spec.source.file;
    if file.contains('/') || file.starts_with('.') || !file.ends_with(".wasm") {
        return Err(format!(
            "spec.source.file is `{file}`; set it to the name of a .wasm file in the same directory, without a path"
        ));
    }
    if let Some(digest) = plugin.spec.digest.as_ref().filter(|digest| !is_sha256(digest)) {
        return Err(format!(
            "spec.digest is `{digest}`; set it to the component's SHA-256 as 64 lowercase hexadecimal digits, as \
             `sha256sum {file}` prints it"
        ));
    }
    plugin.spec.limits.unwrap_or_default().limits().map(|_| ())
}

fn is_sha256(digest: &str) -> bool {
    digest.len() == 64 && digest.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_names_similar_to_a_plugins_are_listed() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let odd = std::ffi::OsStr::from_bytes(b"n\xff.yaml");
        for name in ["p.yml", "Bad_Name.wasm", "README.md", ".hidden.yaml"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::write(folder.path().join(odd), "").unwrap();
        let misnamed = scan(folder.path()).unwrap().misnamed;
        let misnamed: Vec<_> = misnamed.iter().map(String::as_str).collect();
        assert_eq!(misnamed, ["Bad_Name.wasm", "n\u{fffd}.yaml", "p.yml"]);
    }

    #[test]
    fn an_unreadable_file_is_described_in_one_line_with_the_line_number() {
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
        for (text, expected) in [
            (format!("{whole}---\n{whole}"), "several YAML documents"),
            (format!("{whole}{whole}"), "duplicate mapping key"),
            (format!("{whole}  digest: abc\n"), "`abc`; set it to the component's SHA-256"),
            (format!("{whole}  digest: {capital}\n"), "lowercase"),
        ] {
            fs::write(&path, &text).unwrap();
            let error = read_settings(&path, &name).unwrap_err();
            assert!(error.contains(expected) && !error.contains("Policy"), "{text}: {error}");
        }
        fs::write(&path, format!("{whole}  digest: {}\n", "a1".repeat(32))).unwrap();
        read_settings(&path, &name).unwrap();
        // Opening a pipe would block until another process writes to it.
        fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        assert_eq!(read_settings(&path, &name).unwrap_err(), "it is not a regular file");
    }
}
