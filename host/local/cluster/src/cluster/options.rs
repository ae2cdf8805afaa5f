//! The options of a local host.

use std::path::PathBuf;
use std::time::Duration;

use tholepin_agent::{ImageError, ImageTable};

/// The origin of the image table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageTableSource {
    /// The table that is embedded in this program.
    Embedded,
    /// A file of the user.
    File(PathBuf),
}

/// The options of a local host. The fields may be changed freely after [`LocalOptions::new`].
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The directory for all files, created with mode 0700. Only one local host can use a directory.
    pub directory: PathBuf,
    /// The directory of the locks of address blocks. It is the same one for all local hosts of a user.
    pub lock_directory: PathBuf,
    /// The number N of the address block 127.N.0.0/16; the first free one if absent.
    pub block: Option<u8>,
    /// The API server's port on 127.N.0.1.
    pub api_port: u16,
    /// The number of nodes, each with an agent.
    pub nodes: u16,
    /// The number of zones (`zone-a`, `zone-b`, …) over which the nodes are spread; at least 1, at most 26.
    pub zones: u16,
    /// The table that maps images to programs.
    pub images: ImageTableSource,
    /// The directory in which programs with a relative path are searched.
    pub programs: PathBuf,
    /// The executable whose subcommand `container SPEC` calls [`tholepin_agent::container_main`].
    pub container_program: PathBuf,
    /// Whether volumes that an earlier run left in the directory are removed. Otherwise they are set aside:
    /// the API objects that referred to them no longer exist, and only their owner can decide whether they
    /// are still needed.
    pub discard_volumes: bool,
    /// Whether to run only the API server, without controllers and nodes.
    pub api_only: bool,
    /// How long containers may take to end when the local host stops. They are killed afterwards.
    pub stop_grace: Duration,
}

impl LocalOptions {
    /// Returns the default options: three nodes in three zones, the embedded image table.
    pub fn new(directory: impl Into<PathBuf>, container_program: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            lock_directory: crate::addresses::lock_directory(),
            block: None,
            api_port: 6443,
            nodes: 3,
            zones: 3,
            images: ImageTableSource::Embedded,
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

    /// Reads the image table.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is missing or is not a valid table.
    pub fn image_table(&self) -> Result<ImageTable, ImageError> {
        match &self.images {
            ImageTableSource::Embedded => {
                let table = include_str!("../../images.yaml");
                ImageTable::built_in(table, "tholepin local --images FILE", &self.programs)
            }
            ImageTableSource::File(file) => ImageTable::load(file, &self.programs),
        }
    }
}
