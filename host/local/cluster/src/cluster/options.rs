//! What a local host is started with.

use std::path::PathBuf;
use std::time::Duration;

use tholepin_agent::{ImageError, ImageTable};

/// Where the image table comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// The one that is part of this program.
    Embedded,
    /// A file of the user's.
    File(PathBuf),
}

/// How to start a local host. The fields may be set freely after [`LocalOptions::new`].
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// Where everything is kept; made private to this user. One local host per directory.
    pub directory: PathBuf,
    /// Where address blocks are locked: the same for all local hosts of a user.
    pub lock_directory: PathBuf,
    /// N of the address block 127.N.0.0/16; the first free one if absent.
    pub block: Option<u8>,
    /// The API server's port on 127.N.0.1.
    pub api_port: u16,
    /// How many nodes there are, each with an agent.
    pub nodes: u16,
    /// Over how many zones (`zone-a`, `zone-b`, …) the nodes are spread; at least 1, at most 26.
    pub zones: u16,
    /// Which programs stand for which images.
    pub images: ImageSource,
    /// Where the table's programs with a relative path are looked for.
    pub programs: PathBuf,
    /// The executable whose `container SPEC` calls [`tholepin_agent::container_main`].
    pub container_program: PathBuf,
    /// Whether volumes that an earlier run left in the directory are removed. Otherwise they are put
    /// aside: the objects that knew them are gone, and only their owner can say what they are worth.
    pub discard_volumes: bool,
    /// Only the API server: no controller, no node.
    pub api_only: bool,
    /// How long containers may take to end when the local host stops; then they are killed.
    pub stop_grace: Duration,
}

impl LocalOptions {
    /// The usual local host: three nodes in three zones, the embedded image table.
    pub fn new(directory: impl Into<PathBuf>, container_program: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            lock_directory: crate::addresses::lock_directory(),
            block: None,
            api_port: 6443,
            nodes: 3,
            zones: 3,
            images: ImageSource::Embedded,
            programs: PathBuf::from("/usr/bin"),
            container_program: container_program.into(),
            discard_volumes: false,
            api_only: false,
            stop_grace: Duration::from_secs(5),
        }
    }

    pub(super) fn node_count(&self) -> u16 {
        if self.api_only { 0 } else { self.nodes }
    }

    /// The image table, read.
    ///
    /// # Errors
    ///
    /// Fails if the file is missing or is no such table.
    pub fn image_table(&self) -> Result<ImageTable, ImageError> {
        match &self.images {
            ImageSource::Embedded => {
                let table = include_str!("../../images.yaml");
                ImageTable::built_in(table, "tholepin local --images FILE", &self.programs)
            }
            ImageSource::File(file) => ImageTable::load(file, &self.programs),
        }
    }
}
