//! Generates the CustomResourceDefinition that the manifest contains, so that the component contains only its
//! text and not the code that generates it.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let definition = tholepin_redis_types::definition::redis_cluster();
    let directory = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(directory.join("rediscluster.json"), serde_json::to_string(&definition)?)?;
    Ok(())
}
