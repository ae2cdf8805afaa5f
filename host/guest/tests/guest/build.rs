//! Builds the test guests from source, once per variant. No built guest is committed.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{LazyLock, Mutex},
};

static BUILT: LazyLock<Mutex<BTreeMap<String, PathBuf>>> = LazyLock::new(Mutex::default);

/// Builds the guest that misbehaves as the spec of its object requests.
pub(crate) fn probe() -> PathBuf {
    build("guest-probe", &[])
}

/// Builds the well-behaved guest with this greeting.
pub(crate) fn config_maker(greeting: &str) -> PathBuf {
    build("guest-config-maker", &[("GREETING", greeting)])
}

/// Builds a guest with these variables set, and returns a copy that no other build overwrites.
pub(crate) fn build(package: &str, variables: &[(&str, &str)]) -> PathBuf {
    let variant: Vec<String> =
        variables.iter().map(|(name, value)| format!("-{name}-{value}")).collect();
    let file = format!("{package}{}.wasm", variant.concat());
    let mut built = BUILT.lock().unwrap_or_else(|error| error.into_inner());
    if let Some(path) = built.get(&file) {
        return path.clone();
    }
    let target = target();
    let lock = fs::File::create(target.join("guests.lock")).unwrap();
    lock.lock().unwrap();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--profile", "plugin", "--target", "wasm32-wasip2"])
        .args(["--package", package])
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("RUSTFLAGS")
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    for name in ["GREETING", "PLUGIN_KIND", "PLUGIN_NAME", "PROBE_DESCRIBE"] {
        cargo.env_remove(name);
    }
    let status = cargo.envs(variables.iter().copied()).status().unwrap();
    assert!(status.success(), "cannot build {package} for wasm32-wasip2");
    let made =
        target.join("wasm32-wasip2/plugin").join(format!("{}.wasm", package.replace('-', "_")));
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&file);
    fs::copy(made, &copy).unwrap();
    built.insert(file, copy.clone());
    copy
}

/// Returns the target directory that this test was built in.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned()
}

/// Returns a component without code that imports one function of one interface.
pub(crate) fn importing(interface: &str, function: &str) -> Vec<u8> {
    let name = |text: &str| [&[0, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let section = |id: u8, body: &[u8]| {
        let header = [id, u8::try_from(body.len()).unwrap()];
        [&header, body].concat()
    };
    // One instance type: a function type without parameters and results, and an export of it.
    let function_type = [0x01, 0x40, 0x00, 0x01, 0x00];
    let export = [&[0x04], name(function).as_slice(), &[0x01, 0x00]].concat();
    let types = [&[0x01, 0x42, 0x02], function_type.as_slice(), &export].concat();
    let imports = [&[0x01], name(interface).as_slice(), &[0x05, 0x00]].concat();
    [b"\0asm\x0d\0\x01\0".as_slice(), &section(7, &types), &section(10, &imports)].concat()
}
