//! Writes the definitions into a directory: `cargo run -p tholepin-redis-types --features schema --example
//! crds -- crds`.

use std::{env, error::Error, fs, path::PathBuf};

use tholepin_redis_types::definition;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = env::args_os().nth(1).map(PathBuf::from).ok_or("name the directory `crds`")?;
    let definition = definition::redis_cluster();
    let path = directory.join(definition::file_name(&definition));
    fs::write(path, serde_saphyr::to_string(&definition)?)?;
    Ok(())
}
