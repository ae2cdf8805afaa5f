//! Makes the definition that the manifest carries, so that the component holds a text and not the
//! machinery that writes it.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let definition = tholepin_redis_types::definition::redis_cluster();
    let directory = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(directory.join("rediscluster.json"), serde_json::to_string(&definition)?)?;
    Ok(())
}
