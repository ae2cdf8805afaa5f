//! The initial project of a plugin: the sample of this tree under the requested names, with the SDK and the WIT
//! contract.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use tholepin_core::PluginName;

use crate::{
    SDK_DIRECTORY, lock,
    substitution::{kind_of, plural_of, substitute},
};

mod embedded {
    //! The files that `build.rs` embeds, as pairs of path and text.
    include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
}

/// The default API group of a new kind; the top-level domain `.example` is reserved and belongs to nobody.
pub const DEFAULT_GROUP: &str = "samples.example";

/// The longest name of a kind, because its lower-case form must be a DNS label.
const KIND_LENGTH_MAX: usize = 63;

/// The dependencies in the template's `Cargo.toml`.
const DIRECT_DEPENDENCIES: &[&str] = &["serde", "serde_json", "tholepin-sdk"];

/// The lock file of the tree that this program was built from.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// Names that a crate cannot have: the keywords of Rust, and the crates that every program has.
const RESERVED_CRATE_NAMES: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

/// Why a project could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NewProjectError {
    /// The name is not valid for a plugin.
    #[error("`{name}` cannot name a plugin: {why}")]
    Name {
        /// The requested name.
        name: String,
        /// What is wrong with it, or how to choose a valid one.
        why: &'static str,
    },
    /// The kind is not valid.
    #[error(
        "`{0}` cannot name a kind: use letters and digits and begin with a capital letter, such as `SiteConfig`"
    )]
    Kind(String),
    /// The group is not valid.
    #[error(
        "`{0}` cannot name a group: use lower-case labels separated by dots, such as `{DEFAULT_GROUP}`"
    )]
    Group(String),
    /// The directory is not empty.
    #[error("`{}` is not empty: name another --directory, or empty it", .0.display())]
    NotEmpty(PathBuf),
    /// The path is a file.
    #[error("`{}` is not a directory: name another --directory", .0.display())]
    NoDirectory(PathBuf),
    /// A file or directory cannot be read or written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// The valid names of a new plugin, from which its project is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginProjectNames {
    name: PluginName,
    kind: String,
    group: String,
}

impl PluginProjectNames {
    /// Checks the names of a project. If no kind is given, it is derived from the name.
    ///
    /// # Errors
    ///
    /// Fails if a name is not valid; the error says which names are.
    pub fn new(name: &str, kind: Option<&str>, group: &str) -> Result<Self, NewProjectError> {
        let name = plugin_name(name)?;
        let kind = kind.map_or_else(|| kind_of(name.as_str()), str::to_owned);
        let is_kind = kind.starts_with(|first: char| first.is_ascii_uppercase())
            && kind.chars().all(|letter| letter.is_ascii_alphanumeric())
            && kind.len() <= KIND_LENGTH_MAX;
        if !is_kind {
            return Err(NewProjectError::Kind(kind));
        }
        let labels = group.split('.');
        let is_group =
            group.contains('.') && labels.clone().all(|label| label.parse::<PluginName>().is_ok());
        if !is_group {
            return Err(NewProjectError::Group(group.to_owned()));
        }
        Ok(Self { name, kind, group: group.to_owned() })
    }

    /// Returns the plugin's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Returns the kind that the plugin reconciles.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Returns the texts of the project's files by their paths in the project.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, String> {
        let name = self.name.as_str();
        let (snake, singular) = (name.replace('-', "_"), self.kind.to_lowercase());
        let plural = plural_of(&singular);
        let substitutes = [
            ("site-config", name),
            ("site_config", &snake),
            ("SiteConfig", &self.kind),
            ("siteconfigs", &plural),
            ("siteconfig", &singular),
            (DEFAULT_GROUP, &self.group),
        ];
        let substituted = |text: &str| substitute(text, &substitutes);
        let sample = embedded::SAMPLE.iter().filter(|(path, _)| *path != "Cargo.toml");
        let sdk_files = embedded::SDK.iter();
        let own = [
            ("Cargo.toml", substituted(include_str!("../template/Cargo.toml"))),
            ("Cargo.lock", lock::subset(LOCK, name, DIRECT_DEPENDENCIES)),
            ("rust-toolchain.toml", include_str!("../../../rust-toolchain.toml").to_owned()),
            (".gitignore", "/target\n".to_owned()),
            ("tholepin/Cargo.toml", include_str!("../template/tholepin.toml").to_owned()),
        ];
        sample
            .map(|(path, text)| (substituted(path), substituted(text)))
            .chain(sdk_files.map(|(path, text)| (format!("tholepin/{path}"), (*text).to_owned())))
            .chain(own.map(|(path, text)| (path.to_owned(), text)))
            .collect()
    }

    /// Writes the files into a directory, which is created if it does not exist.
    ///
    /// # Errors
    ///
    /// Fails if the directory is not empty, or if a file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), NewProjectError> {
        let failed = |path: &Path, source| NewProjectError::Write { path: path.to_owned(), source };
        match fs::read_dir(directory) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(NewProjectError::NotEmpty(directory.to_owned()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(NewProjectError::NoDirectory(directory.to_owned()));
            }
            Err(error) => return Err(failed(directory, error)),
        }
        // The files of the SDK get the modification time of this program. Cargo decides by that time whether a file
        // has changed, so it does not compile the SDK again for each new project.
        let program =
            env::current_exe().and_then(fs::metadata).and_then(|metadata| metadata.modified());
        let (sdk_directory, modified) =
            (directory.join(SDK_DIRECTORY), program.unwrap_or_else(|_| SystemTime::now()));
        for (path, text) in self.files() {
            let path = directory.join(path);
            let folder = path.parent().unwrap_or(directory);
            fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
            fs::write(&path, text).map_err(|error| failed(&path, error))?;
            if path.starts_with(&sdk_directory) {
                let dated = File::options().write(true).open(&path);
                let dated = dated.and_then(|file| file.set_modified(modified));
                dated.map_err(|error| failed(&path, error))?;
            }
        }
        Ok(())
    }
}

/// Parses a plugin's name that is also valid for a crate.
fn plugin_name(name: &str) -> Result<PluginName, NewProjectError> {
    let refused = |why| NewProjectError::Name { name: name.to_owned(), why };
    let parsed = name.parse().map_err(|_| {
        refused("use 1 to 63 lower-case letters, digits and `-`, with no `-` at either end")
    })?;
    if !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        return Err(refused("begin with a letter"));
    }
    if RESERVED_CRATE_NAMES.contains(&name) {
        return Err(refused("it is a name reserved by Rust"));
    }
    let used = lock::subset(LOCK, "", DIRECT_DEPENDENCIES);
    if lock::names(&used).any(|used| used.replace('_', "-") == name) {
        return Err(refused("a crate that every plugin uses has this name"));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests;
