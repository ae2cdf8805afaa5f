//! Where this program's files are among the user's.

use std::{env, path::PathBuf};

use anyhow::{Context, Result};

/// The admin file that was named, or the usual one.
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

/// This program's folder among the user's caches.
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

/// The directory of compiled code.
///
/// # Errors
///
/// Fails if there is no home folder.
pub(crate) fn cache_directory() -> Result<PathBuf> {
    Ok(own_cache()?.join("compiled"))
}
