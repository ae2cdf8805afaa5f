//! Compiles components, and caches the compiled code in a directory that only this user can read.
//!
//! The key of an entry is the digest of the component with the compiler's compatibility hash. An entry is
//! written to a temporary file and renamed, never changed in place, because a running guest may have it
//! mapped. A checksum detects a damaged entry, which is then compiled again. Only this module reads and writes
//! the directory. Code that cannot be stored, for example because the disk is full, still serves.

use std::{
    fs::{self, DirBuilder, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};
use tokio::task::JoinError;
use wasmtime::component::Component;

use crate::{
    engine::{GuestEngine, WasmEngineSetupError},
    function_cache::CompiledFunctionCache,
};

/// The largest component that is compiled, in bytes. It bounds the time of a compilation.
pub(crate) const WASM_BYTES_MAX: usize = 16 << 20;

/// The size of the cache in bytes; the least recently used entries are evicted first.
const CACHE_BYTES_MAX: u64 = 256 << 20;

/// The age after which a temporary file counts as abandoned. Writing one takes seconds.
const UNFINISHED_AGE_MAX: Duration = Duration::from_secs(600);

/// The extension of files with compiled code.
const SUFFIX: &str = "cwasm";

/// The cache directory of compiled code, and the functions that this process compiled last.
#[derive(Clone, Debug)]
pub struct CompileCache {
    directory: PathBuf,
    bytes_max: u64,
    functions: Arc<CompiledFunctionCache>,
}

/// The reason why a component cannot be compiled or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The directory cannot be created, is a link, or belongs to another user.
    #[error("cannot use the directory `{path}` for compiled code")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The component is larger than 16 MiB.
    #[error(
        "the component has {bytes} bytes, more than {WASM_BYTES_MAX}; build it with `--profile plugin`"
    )]
    TooLarge {
        /// The size of the component.
        bytes: usize,
    },
    /// The bytes are not a WebAssembly component.
    #[error(
        "the file is not a WebAssembly component ({0}); build it with `--target wasm32-wasip2`"
    )]
    NotAComponent(&'static str),
    /// The engine of the compilation cannot be set up.
    #[error("cannot set up the compiler")]
    Compiler(#[source] WasmEngineSetupError),
    /// The compiler rejected the component.
    #[error("the component does not compile; replace it with the complete file of a new build")]
    Compile(#[source] wasmtime::Error),
    /// The task of the compilation panicked or was cancelled.
    #[error("the compilation was aborted")]
    Aborted(#[source] JoinError),
    /// Code that was just compiled cannot be loaded.
    #[error("the compiled component does not load")]
    Load(#[source] wasmtime::Error),
}

/// A component, and the file with its compiled code, unless that could not be stored.
pub(crate) struct CompiledComponent {
    pub(crate) component: Component,
    pub(crate) file: Option<CompiledFile>,
}

/// An open file of compiled code. It can be loaded for as long as this value exists, also after the cache has
/// evicted the entry.
pub(crate) struct CompiledFile(File);

/// The origin of a compiled component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CompileCacheOutcome {
    /// The cache had it.
    Kept,
    /// It was compiled.
    Compiled,
}

impl CompileCache {
    /// Opens a cache directory. Creates it if it is missing, and sets its mode to 0700.
    ///
    /// # Errors
    ///
    /// Fails if the directory cannot be created, is a link, or belongs to another user.
    pub fn open(directory: PathBuf) -> Result<Self, CacheError> {
        create_private_directory(&directory)
            .map_err(|source| CacheError::Directory { path: directory.clone(), source })?;
        Ok(Self { directory, bytes_max: CACHE_BYTES_MAX, functions: Arc::default() })
    }

    /// Returns true if the cache has an entry for this component, even a damaged one.
    pub(crate) fn has(&self, engine: &GuestEngine, digest: &str) -> bool {
        self.path(engine, digest).is_file()
    }

    /// Returns the compiled component, from the cache if possible. Blocks: compiling takes at least tens of
    /// milliseconds.
    pub(crate) fn component(
        &self,
        engine: &GuestEngine,
        digest: &str,
        wasm: &[u8],
    ) -> Result<(CompiledComponent, CompileCacheOutcome), CacheError> {
        check_header(wasm)?;
        let path = self.path(engine, digest);
        if let Some(compiled) = self.load_entry(engine, &path) {
            return Ok((compiled, CompileCacheOutcome::Kept));
        }
        let compiler =
            GuestEngine::compiler(self.functions.clone()).map_err(CacheError::Compiler)?;
        let compiled = compiler.precompile_component(wasm).map_err(CacheError::Compile)?;
        drop(compiler);
        let stored = self.store(&path, &compiled).and_then(|()| File::open(&path));
        let component = match stored {
            Ok(file) => CompiledFile(file).loaded(engine),
            Err(error) => {
                // New code must also serve when the disk is full; the next start compiles it again.
                let directory = self.directory.display();
                tracing::warn!(%directory, %error, "cannot store compiled code; free some disk space there");
                load_from_memory(engine, &compiled)
                    .map(|component| CompiledComponent { component, file: None })
            }
        };
        let compiled = component.map_err(CacheError::Load)?;
        if let Err(error) = self.evict(&path) {
            let directory = self.directory.display();
            tracing::warn!(%directory, %error, "cannot evict old compiled code");
        }
        Ok((compiled, CompileCacheOutcome::Compiled))
    }

    fn path(&self, engine: &GuestEngine, digest: &str) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.wasmtime().precompile_compatibility_hash().hash(&mut hasher);
        self.directory.join(format!("{digest}-{:016x}.{SUFFIX}", hasher.finish()))
    }

    /// Loads an entry if it exists and is undamaged.
    fn load_entry(&self, engine: &GuestEngine, path: &Path) -> Option<CompiledComponent> {
        let mut file = File::open(path).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let checksum = fs::read_to_string(checksum_path(path)).ok()?;
        if checksum != hex(&Sha256::digest(&bytes)) {
            tracing::warn!(path = %path.display(), "a cached compiled plugin is damaged; compiling it again");
            return None;
        }
        // The modification time decides the order of eviction. A failure costs at most one compilation.
        let _ = file.set_modified(SystemTime::now());
        CompiledFile(file)
            .loaded(engine)
            .inspect_err(|error| {
                tracing::info!(
                    error = format!("{error:#}"),
                    "a cached compiled plugin does not load; compiling it again"
                )
            })
            .ok()
    }

    fn store(&self, path: &Path, compiled: &[u8]) -> io::Result<()> {
        self.write(path, compiled)?;
        let checksum = self.write(&checksum_path(path), hex(&Sha256::digest(compiled)).as_bytes());
        if checksum.is_err() {
            // An entry without its checksum is never used.
            let _ = fs::remove_file(path);
        }
        checksum
    }

    /// Writes to a temporary file, then renames it.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join(format!(".{}-{number}.new", process::id()));
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Removes the least recently used entries until the rest fits, but never `newest`. Also removes temporary
    /// files left by a host that was killed.
    fn evict(&self, newest: &Path) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if is_abandoned(&entry) {
                fs::remove_file(entry.path())?;
            } else if entry.path().extension().is_some_and(|extension| extension == SUFFIX) {
                let metadata = entry.metadata()?;
                entries.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in entries {
            if total <= self.bytes_max {
                break;
            }
            if path != newest {
                fs::remove_file(&path)?;
                let _ = fs::remove_file(checksum_path(&path));
                total = total.saturating_sub(bytes);
            }
        }
        Ok(())
    }
}

impl CompiledFile {
    /// Maps the compiled code into memory.
    #[expect(
        unsafe_code,
        reason = "compiled code is trusted: only this user can write to the directory (0700), only this module does so, by rename, and the checksum was compared"
    )]
    pub(crate) fn load(&self, engine: &GuestEngine) -> wasmtime::Result<Component> {
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        unsafe { Component::deserialize_file(engine.wasmtime(), path) }
    }

    fn loaded(self, engine: &GuestEngine) -> wasmtime::Result<CompiledComponent> {
        let component = self.load(engine)?;
        Ok(CompiledComponent { component, file: Some(self) })
    }
}

/// Loads compiled code from memory.
#[expect(
    unsafe_code,
    reason = "compiled code is trusted: the caller has just received these bytes from our own compiler"
)]
fn load_from_memory(engine: &GuestEngine, compiled: &[u8]) -> wasmtime::Result<Component> {
    unsafe { Component::deserialize(engine.wasmtime(), compiled) }
}

/// Returns true for a temporary file that was written long ago and never renamed.
fn is_abandoned(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let is_unfinished =
        name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".new"));
    let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|at| at.elapsed());
    is_unfinished && matches!(age, Ok(Ok(age)) if UNFINISHED_AGE_MAX < age)
}

/// Checks the header of a component, to give a better message than the compiler does.
fn check_header(wasm: &[u8]) -> Result<(), CacheError> {
    if WASM_BYTES_MAX < wasm.len() {
        return Err(CacheError::TooLarge { bytes: wasm.len() });
    }
    match (wasm.get(..4), wasm.get(4..8)) {
        (Some(b"\0asm"), Some([0x0d, 0, 1, 0])) => Ok(()),
        (Some(b"\0asm"), Some([1, 0, 0, 0])) => {
            Err(CacheError::NotAComponent("it is a core module"))
        }
        (Some(b"\0asm"), _) => Err(CacheError::NotAComponent("its format version is unknown")),
        _ => Err(CacheError::NotAComponent("it is not WebAssembly")),
    }
}

/// Creates the directory if it is missing, and sets its mode to 0700.
pub(crate) fn create_private_directory(directory: &Path) -> io::Result<()> {
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let metadata = fs::symlink_metadata(directory)?;
    let ours = fs::metadata("/proc/self")?.uid();
    if !metadata.is_dir() || metadata.uid() != ours {
        let text = "it is a link or belongs to another user; name another directory";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn checksum_path(path: &Path) -> PathBuf {
    path.with_extension("sum")
}

/// Formats bytes as lowercase hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_entry_is_evicted_and_the_newest_stays() {
        let home = tempfile::tempdir().unwrap();
        let mut cache = CompileCache::open(home.path().join("cache")).unwrap();
        cache.bytes_max = 25;
        let path = |name: &str| cache.directory.join(format!("{name}.{SUFFIX}"));
        for (name, age_s) in [("old", 300), ("used", 100), ("new", 200)] {
            cache.store(&path(name), &[0; 10]).unwrap();
            let time = SystemTime::now() - Duration::from_secs(age_s);
            File::open(path(name)).and_then(|file| file.set_modified(time)).unwrap();
        }
        cache.evict(&path("new")).unwrap();
        let left = ["old", "used", "new"].map(|name| path(name).exists());
        assert_eq!(left, [false, true, true]);
        assert!(!checksum_path(&path("old")).exists());
    }

    #[test]
    fn abandoned_files_are_removed_and_files_being_written_stay() {
        let home = tempfile::tempdir().unwrap();
        let cache = CompileCache::open(home.path().join("cache")).unwrap();
        let path = |name: &str| cache.directory.join(name);
        for (name, age_s) in [(".1-0.new", 3600), (".2-0.new", 1)] {
            fs::write(path(name), "half").unwrap();
            let time = SystemTime::now() - Duration::from_secs(age_s);
            File::options().write(true).open(path(name)).unwrap().set_modified(time).unwrap();
        }
        cache.evict(&path("new")).unwrap();
        assert_eq!([".1-0.new", ".2-0.new"].map(|name| path(name).exists()), [false, true]);
    }

    #[test]
    fn the_directory_is_private() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("cache");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        CompileCache::open(directory.clone()).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&directory, &link).unwrap();
        assert!(CompileCache::open(link).is_err());
    }

    #[test]
    fn a_file_that_is_not_a_component_is_refused_with_the_reason() {
        for (bytes, expected) in [
            (b"".as_slice(), "not WebAssembly"),
            (b"hello world", "not WebAssembly"),
            (b"\0asm\x01\0\0\0", "core module"),
            (b"\0asm\x09\0\0\0", "unknown"),
        ] {
            let error = check_header(bytes).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("wasm32-wasip2"), "{error}");
        }
    }
}
