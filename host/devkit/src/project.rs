//! The project that a plugin starts from: the sample of this tree under the names that were asked for, with the
//! SDK and the contract beside it.

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
    BROUGHT, lock,
    substitution::{kind_of, plural_of, substitute},
};

mod embedded {
    //! Written by `build.rs`: paths and texts.
    include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
}

/// The group of a new kind, if none is named; `.example` is nobody's.
pub const DEFAULT_GROUP: &str = "samples.example";

/// The longest kind: its name in lower case is a DNS label.
const KIND_LENGTH_MAX: usize = 63;

/// What the template's own package needs.
const DIRECT: &[&str] = &["serde", "serde_json", "tholepin-sdk"];

/// The lock file of the tree that this program was built from.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// Words that cannot name a crate: Rust's own, and those of the crates that every program has.
const NO_CRATE: &[&str] = &[
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

/// Why there is no new project.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NewProjectError {
    /// The name cannot be a plugin's.
    #[error("`{name}` cannot name a plugin: {why}")]
    Name {
        /// What was asked for.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The kind cannot be one.
    #[error(
        "`{0}` cannot name a kind: use letters and digits and begin with a capital, such as `SiteConfig`"
    )]
    Kind(String),
    /// The group cannot be one.
    #[error(
        "`{0}` cannot name a group: use lower-case labels with dots between them, such as `{DEFAULT_GROUP}`"
    )]
    Group(String),
    /// Something is there.
    #[error("`{}` is not empty: name another --directory, or empty it", .0.display())]
    NotEmpty(PathBuf),
    /// A file is there.
    #[error("`{}` is no directory: name another --directory", .0.display())]
    NoDirectory(PathBuf),
    /// A file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A new plugin's names. What is in here is well formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginProject {
    name: PluginName,
    kind: String,
    group: String,
}

impl PluginProject {
    /// Names a project; the kind follows from the name if none is given.
    ///
    /// # Errors
    ///
    /// Fails if a name cannot be used, and says what can.
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

    /// The plugin's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The kind that it reconciles.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The files, by their paths in the project.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, String> {
        let name = self.name.as_str();
        let (snake, singular) = (name.replace('-', "_"), self.kind.to_lowercase());
        let plural = plural_of(&singular);
        let words = [
            ("site-config", name),
            ("site_config", &snake),
            ("SiteConfig", &self.kind),
            ("siteconfigs", &plural),
            ("siteconfig", &singular),
            (DEFAULT_GROUP, &self.group),
        ];
        let named = |text: &str| substitute(text, &words);
        let sample = embedded::SAMPLE.iter().filter(|(path, _)| *path != "Cargo.toml");
        let brought = embedded::BROUGHT.iter();
        let own = [
            ("Cargo.toml", named(include_str!("../template/Cargo.toml"))),
            ("Cargo.lock", lock::subset(LOCK, name, DIRECT)),
            ("rust-toolchain.toml", include_str!("../../../rust-toolchain.toml").to_owned()),
            (".gitignore", "/target\n".to_owned()),
            ("tholepin/Cargo.toml", include_str!("../template/tholepin.toml").to_owned()),
        ];
        sample
            .map(|(path, text)| (named(path), named(text)))
            .chain(brought.map(|(path, text)| (format!("tholepin/{path}"), (*text).to_owned())))
            .chain(own.map(|(path, text)| (path.to_owned(), text)))
            .collect()
    }

    /// Writes the files into a directory, which is made if it is missing.
    ///
    /// # Errors
    ///
    /// Fails if the directory holds anything, or if a file cannot be written.
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
        // The SDK is as old as this program that brings it. So cargo, which goes by the time, does not compile it
        // anew for each project that is made.
        let program = env::current_exe().and_then(fs::metadata).and_then(|it| it.modified());
        let (brought, made) =
            (directory.join(BROUGHT), program.unwrap_or_else(|_| SystemTime::now()));
        for (path, text) in self.files() {
            let path = directory.join(path);
            let folder = path.parent().unwrap_or(directory);
            fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
            fs::write(&path, text).map_err(|error| failed(&path, error))?;
            if path.starts_with(&brought) {
                let dated = File::options().write(true).open(&path);
                let dated = dated.and_then(|file| file.set_modified(made));
                dated.map_err(|error| failed(&path, error))?;
            }
        }
        Ok(())
    }
}

/// A plugin's name that can also name a crate.
fn plugin_name(name: &str) -> Result<PluginName, NewProjectError> {
    let refused = |why| NewProjectError::Name { name: name.to_owned(), why };
    let parsed = name.parse().map_err(|_| {
        refused("use 1 to 63 lower-case letters, digits and `-`, with no `-` at either end")
    })?;
    if !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        return Err(refused("begin with a letter"));
    }
    if NO_CRATE.contains(&name) {
        return Err(refused("it is a word of Rust's own"));
    }
    let used = lock::subset(LOCK, "", DIRECT);
    if lock::names(&used).any(|used| used.replace('_', "-") == name) {
        return Err(refused("a crate that every plugin uses has this name"));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests;
