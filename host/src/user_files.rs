//! The paths of this program's files in the user's directories.

use std::{env, path::PathBuf};

use anyhow::{Context, Result};

/// Returns the named admin file, or the default one.
///
/// # Errors
///
/// Fails if none was named and there is no home folder.
pub(crate) fn admin_file(named: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named);
    }
    let runtime = env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    let directory = match runtime {
        Some(runtime) => PathBuf::from(runtime).join("tholepin"),
        None => own_cache()?,
    };
    Ok(directory.join("admin.json"))
}

/// Returns this program's directory in the user's cache.
///
/// # Errors
///
/// Fails if there is no home folder.
pub(crate) fn own_cache() -> Result<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || env::home_dir().map(|home| home.join(".cache"));
    let base = cache.or_else(home).context("no home folder; set XDG_CACHE_HOME")?;
    Ok(base.join("tholepin"))
}

/// Returns the directory of compiled code.
///
/// # Errors
///
/// Fails if there is no home folder.
pub(crate) fn cache_directory() -> Result<PathBuf> {
    Ok(own_cache()?.join("compiled"))
}
