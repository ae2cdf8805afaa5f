//! The image table: which program of this machine runs instead of a container image.
//!
//! The local host has no registry and pulls nothing. A table maps repository and tag patterns to programs. A
//! program whose version does not match the tag is refused, so that a test of an upgrade cannot pass with the
//! old engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

mod pull;

pub(crate) use pull::{ImageStore, RunnableImage};

/// The table that maps images to programs.
#[derive(Clone, Debug)]
pub struct ImageTable {
    /// Where a user can change the table, for error messages.
    place: String,
    programs: PathBuf,
    rules: Vec<ImageRule>,
}

/// Why an image has no program on this machine. `kubectl describe pod` shows the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The table could not be read.
    #[error("read the image table `{}`", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// The error of reading or of parsing.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No rule matches the image.
    #[error(
        "no program is configured for image `{image}`: add a line to `images` in {place}, such as \
         `- {{repository: {repository}, tag: \"{tag}\", program: PROGRAM}}`"
    )]
    NoRule {
        /// The image as the Pod names it.
        image: String,
        /// Its repository, as a rule would name it.
        repository: String,
        /// Its tag.
        tag: String,
        /// The table to which a rule must be added.
        place: String,
    },
    /// The program of the rule is not on this machine.
    #[error(
        "image `{image}` needs the program `{program}`, which is not on this machine: install it, or \
         change `program` in {place}"
    )]
    NoProgram {
        /// The image as the Pod names it.
        image: String,
        /// The program that was searched.
        program: String,
        /// The table that contains the rule.
        place: String,
    },
    /// The version of the program does not match the tag.
    #[error(
        "image `{image}` requires version {expected}, but `{}` is version {found}",
        program.display()
    )]
    Version {
        /// The image as the Pod names it.
        image: String,
        /// The version in the tag.
        expected: String,
        /// The program whose version was read.
        program: PathBuf,
        /// The version of the program; `unknown` if none could be read.
        found: String,
    },
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ImageRule {
    /// The repository, without `docker.io/` and `library/`. A `*` matches any text.
    repository: String,
    /// The tag. A `*` matches any text.
    #[serde(default = "any")]
    tag: String,
    /// The program: a name (searched on `PATH`), a path relative to the programs' directory, or an absolute
    /// path.
    program: String,
    /// A directory that the program needs besides its own, in the same notation; mounted read-only.
    #[serde(default)]
    tree: Option<String>,
    /// Further programs by their names on the container's `PATH`.
    #[serde(default)]
    commands: BTreeMap<String, String>,
    /// The arguments with which the program prints its version. If there are none, no version is checked.
    #[serde(default)]
    version_arguments: Vec<String>,
    /// The image's ENTRYPOINT.
    #[serde(default)]
    entrypoint: Vec<String>,
    /// The image's CMD.
    #[serde(default)]
    cmd: Vec<String>,
    /// A program to put in front of the arguments if the first one is an option or a `*.conf` file, as the
    /// entrypoint script of the redis and valkey images does.
    #[serde(default)]
    options_go_to: Option<String>,
    /// The image's WORKDIR.
    #[serde(default = "root")]
    working_dir: PathBuf,
    /// The image's ENV.
    #[serde(default)]
    env: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageTableFile {
    images: Vec<ImageRule>,
}

fn any() -> String {
    "*".into()
}

fn root() -> PathBuf {
    "/".into()
}

impl ImageTable {
    /// Reads the table in `file`. Programs with a relative path are searched under `programs`.
    ///
    /// # Errors
    ///
    /// Returns an error that names the file if the file is missing or is not a valid table.
    pub fn load(file: &Path, programs: &Path) -> Result<Self, ImageError> {
        let fail = |source| ImageError::Table { path: file.to_owned(), source };
        let text = std::fs::read_to_string(file).map_err(|source| fail(source.into()))?;
        Self::parse(&text, file, programs)
    }

    /// Parses a table from `text`. Error messages name `file`.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is not a valid table.
    pub fn parse(text: &str, file: &Path, programs: &Path) -> Result<Self, ImageError> {
        let table: ImageTableFile = serde_saphyr::from_str(text)
            .map_err(|source| ImageError::Table { path: file.to_owned(), source: source.into() })?;
        let place = format!("`{}`", file.display());
        Ok(Self { place, programs: programs.to_owned(), rules: table.images })
    }

    /// Parses the table that is part of the executable. No user can change it, so error messages name the
    /// option for a table of the user's own.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is not a valid table.
    pub fn built_in(text: &str, option: &str, programs: &Path) -> Result<Self, ImageError> {
        let table = Self::parse(text, Path::new("built-in"), programs)?;
        let place = format!("your own table, which `{option}` uses instead of the built-in one");
        Ok(Self { place, ..table })
    }

    fn rule(&self, image: &str) -> Result<&ImageRule, ImageError> {
        let (repository, tag) = split_reference(image);
        let fits =
            |rule: &&ImageRule| matches(&rule.repository, repository) && matches(&rule.tag, tag);
        self.rules.iter().find(fits).ok_or_else(|| ImageError::NoRule {
            image: image.to_owned(),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            place: self.place.clone(),
        })
    }
}

/// Splits `registry/repository:tag@digest` into the repository (without Docker's defaults) and the tag.
fn split_reference(image: &str) -> (&str, &str) {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    // A colon before the last slash belongs to the registry's port.
    let (repository, tag) = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
    };
    let repository = repository.strip_prefix("docker.io/").unwrap_or(repository);
    (repository.strip_prefix("library/").unwrap_or(repository), tag)
}

/// Returns true if `text` matches `pattern`, in which each `*` matches any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            let mut ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.any(|at| rest.get(at..).is_some_and(|rest| matches(after, rest)))
        }),
    }
}

/// Returns the version in a tag, which is its leading numbers, such as `7.2` of `7.2-alpine`.
fn expected_version(tag: &str) -> Option<&str> {
    let tag = tag.strip_prefix('v').unwrap_or(tag);
    let end = tag.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(tag.len());
    tag.get(..end).map(|version| version.trim_end_matches('.')).filter(|v| !v.is_empty())
}

/// Returns true if `found` equals `expected` in every part that `expected` has.
fn version_fits(expected: &str, found: &str) -> bool {
    let mut found = found.split('.');
    expected.split('.').all(|part| found.next() == Some(part))
}

/// Returns the first dotted number in the version output of a program.
fn version_in(output: &str) -> Option<&str> {
    output
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .map(|word| word.trim_matches('.'))
        .find(|word| word.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "
images:
- {repository: redis, tag: '6.2*', program: redis-6.2/redis-server}
- {repository: redis, tag: '7*', program: redis-server, versionArguments: [--version]}
- {repository: '*/valkey', tag: '9*', program: valkey-server}
";

    fn table() -> ImageTable {
        ImageTable::parse(TABLE, Path::new("images.yaml"), Path::new("/programs")).unwrap()
    }

    #[test]
    fn finds_the_rule_of_an_image() {
        let cases = [
            ("redis:7", "redis-server"),
            ("redis:7.0.15-alpine", "redis-server"),
            ("docker.io/library/redis:7.2", "redis-server"),
            ("library/redis:6.2.5", "redis-6.2/redis-server"),
            ("registry.example:5000/valkey:9.1", "valkey-server"),
            ("valkey/valkey:9@sha256:00", "valkey-server"),
        ];
        for (image, program) in cases {
            assert_eq!(table().rule(image).unwrap().program, program, "{image}");
        }
    }

    #[test]
    fn an_image_without_rule_names_the_file_and_the_line_to_add() {
        let error = table().rule("nginx").unwrap_err().to_string();
        assert_eq!(
            error,
            "no program is configured for image `nginx`: add a line to `images` in `images.yaml`, such as \
             `- {repository: nginx, tag: \"latest\", program: PROGRAM}`"
        );
    }

    #[test]
    fn an_image_without_rule_in_the_built_in_table_names_the_option() {
        let table = ImageTable::built_in(TABLE, "x --images FILE", Path::new("/programs")).unwrap();
        let error = table.rule("nginx").unwrap_err().to_string();
        assert!(error.contains("in your own table, which `x --images FILE` uses"), "{error}");
    }

    #[test]
    fn a_table_with_an_unknown_field_is_refused() {
        let text = "images: [{repository: a, program: b, comand: c}]";
        let error = ImageTable::parse(text, Path::new("t.yaml"), Path::new("/")).unwrap_err();
        assert!(error.to_string().contains("t.yaml"), "{error}");
    }

    #[test]
    fn reads_versions_and_compares_them() {
        assert_eq!(version_in("Redis server v=7.0.15 sha=00000000:0 malloc=j-5.3"), Some("7.0.15"));
        assert_eq!(version_in("This is nutcracker-0.5.0\n"), Some("0.5.0"));
        assert_eq!(version_in("no version"), None);
        let cases = [
            ("7", "7.0.15", true),
            ("7.0", "7.0.15", true),
            ("7.2", "7.0.15", false),
            ("7.0.1", "7.0.15", false),
            ("9.1.2", "9.1.2", true),
            ("9.1.2.1", "9.1.2", false),
        ];
        for (expected, found, fits) in cases {
            assert_eq!(version_fits(expected, found), fits, "{expected} in {found}");
        }
        let tags = [
            ("7.2-alpine", Some("7.2")),
            ("latest", None),
            ("v1.5", Some("1.5")),
            ("8.", Some("8")),
        ];
        for (tag, version) in tags {
            assert_eq!(expected_version(tag), version, "{tag}");
        }
    }
}
