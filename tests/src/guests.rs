//! Plugin components, built from source when a test first needs them; no built component is committed.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{LazyLock, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};

use crate::process;

/// The environment variables that guests read at build time. Each build sets or removes all of them.
const VARIABLES: &[&str] =
    &["GREETING", "PLUGIN_KIND", "PLUGIN_NAME", "PROBE_ASKS", "PROBE_DESCRIBE"];

/// The CRD of the guest `probe`, which does not contain one.
pub const PROBES: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: probes.tests.tholepin.dev}
spec:
  group: tests.tholepin.dev
  scope: Namespaced
  names: {kind: Probe, listKind: ProbeList, plural: probes, singular: probe}
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
            status: {type: object, x-kubernetes-preserve-unknown-fields: true}
";

static BUILT: LazyLock<Mutex<BTreeMap<String, Vec<u8>>>> = LazyLock::new(Mutex::default);

/// Builds the plugin `redis-cluster` as it ships.
///
/// # Errors
///
/// Fails if it cannot be built.
pub fn redis_cluster() -> Result<Vec<u8>> {
    build("redis-cluster", &[])
}

/// Builds the guest that turns a `Greeting` into a ConfigMap, with this greeting.
///
/// # Errors
///
/// Fails if it cannot be built.
pub fn config_maker(greeting: &str) -> Result<Vec<u8>> {
    build("guest-config-maker", &[("GREETING", greeting)])
}

/// Builds the guest that misbehaves in the way its object names.
///
/// # Errors
///
/// Fails if it cannot be built.
pub fn probe() -> Result<Vec<u8>> {
    build("guest-probe", &[])
}

/// Builds the same guest with a manifest that also asks for Redis settings.
///
/// # Errors
///
/// Fails if it cannot be built.
pub fn probe_of_redis() -> Result<Vec<u8>> {
    build("guest-probe", &[("PROBE_ASKS", "redis")])
}

/// Builds the guest that takes the place of `redis-cluster` and makes the calls that its object lists.
///
/// # Errors
///
/// Fails if it cannot be built.
pub fn rogue() -> Result<Vec<u8>> {
    build("guest-rogue", &[])
}

/// Builds the guest that tries to get past its grants.
///
/// # Errors
///
/// Fails if it cannot be built.
pub fn attacks() -> Result<Vec<u8>> {
    build("guest-attacks", &[])
}

/// Builds a guest package with these variables set, once per process, and returns the component.
///
/// # Errors
///
/// Fails if cargo fails.
pub fn build(package: &str, variables: &[(&str, &str)]) -> Result<Vec<u8>> {
    let variant = format!("{package} {variables:?}");
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(component) = built.get(&variant) {
        return Ok(component.clone());
    }
    let target = target()?;
    // All test programs build into the same folder; the lock is held until the component was read.
    let _lock = lock(&target)?;
    cargo(&target, &["--target", "wasm32-wasip2", "--package", package], variables)?;
    let file = package.replace('-', "_") + ".wasm";
    let component = fs::read(target.join("wasm32-wasip2/plugin").join(file))?;
    built.insert(variant, component.clone());
    Ok(component)
}

/// Builds the program that runs `redis-cluster` without a sandbox, with the profile of plugins.
///
/// # Errors
///
/// Fails if it cannot be built.
pub fn native_plugin() -> Result<PathBuf> {
    let target = target()?;
    let _lock = lock(&target)?;
    cargo(&target, &["--package", "native-plugin"], &[])?;
    Ok(target.join("plugin/native-plugin"))
}

/// Takes the lock that keeps other test programs from building guests.
fn lock(target: &Path) -> Result<fs::File> {
    let lock = fs::File::create(target.join("guests.lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// Runs `cargo build` with the profile of plugins.
fn cargo(target: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--locked", "--profile", "plugin"])
        .args(arguments)
        .env("CARGO_TARGET_DIR", target)
        .env_remove("RUSTFLAGS")
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    for name in VARIABLES {
        cargo.env_remove(name);
    }
    let status = cargo.envs(variables.iter().copied()).status().context("cannot start cargo")?;
    ensure!(status.success(), "cannot build with {}", arguments.join(" "));
    Ok(())
}

/// Returns the same component with another digest: a custom section is added, which nothing reads.
#[must_use]
pub fn renamed(component: &[u8], tag: u8) -> Vec<u8> {
    // A custom section (0) of three bytes: a name of one byte, and one byte of content.
    [component, &[0, 3, 1, b'm', tag]].concat()
}

/// Returns the component with each occurrence of `text` replaced by a text of the same length: a variant
/// without a build.
///
/// # Errors
///
/// Fails if the lengths differ, or if the component does not contain the text.
pub fn replaced(component: &[u8], text: &str, replacement: &str) -> Result<Vec<u8>> {
    ensure!(text.len() == replacement.len(), "`{replacement}` is not as long as `{text}`");
    let mut copy = component.to_vec();
    let places = component.windows(text.len()).enumerate();
    let places = places.filter(|(_, bytes)| *bytes == text.as_bytes());
    let mut count = 0;
    for (place, _) in places {
        let bytes =
            copy.get_mut(place..place + replacement.len()).context("a place that was found")?;
        bytes.copy_from_slice(replacement.as_bytes());
        count += 1;
    }
    ensure!(count > 0, "the component does not contain `{text}`");
    Ok(copy)
}

/// Returns a component without code that imports one function of one interface. Both names must be shorter
/// than 100 bytes, so that each length takes one byte.
#[must_use]
pub fn importing(interface: &str, function: &str) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    let name = |text: &str| [&[0, length(text.as_bytes())], text.as_bytes()].concat();
    let section = |id: u8, body: &[u8]| [&[id, length(body)], body].concat();
    // One instance type: a function type without parameters and results, and its export.
    let function_type = [0x01, 0x40, 0x00, 0x01, 0x00];
    let export = [&[0x04], name(function).as_slice(), &[0x01, 0x00]].concat();
    let types = [&[0x01, 0x42, 0x02], function_type.as_slice(), &export].concat();
    let imports = [&[0x01], name(interface).as_slice(), &[0x05, 0x00]].concat();
    [b"\0asm\x0d\0\x01\0".as_slice(), &section(7, &types), &section(10, &imports)].concat()
}

/// Returns the `Plugin` object for a component `NAME.wasm`, granted what its manifest asks for.
#[must_use]
pub fn settings(name: &str) -> String {
    format!(
        "apiVersion: tholepin.dev/v1alpha1\nkind: Plugin\nmetadata:\n  name: {name}\nspec:\n  \
         source:\n    file: {name}.wasm\n  grants: asRequested\n"
    )
}

/// Installs a plugin in a plugin directory, granted what its manifest asks for.
///
/// # Errors
///
/// Fails if the directory cannot be written.
pub fn install(directory: &Path, name: &str, component: &[u8]) -> Result<()> {
    put(directory, &format!("{name}.yaml"), settings(name).as_bytes())?;
    put(directory, &format!("{name}.wasm"), component)
}

/// Writes a file into a directory by a rename, so that a reader never sees half a file.
///
/// # Errors
///
/// Fails if the directory cannot be written.
pub fn put(directory: &Path, file: &str, bytes: &[u8]) -> Result<()> {
    let new = directory.join(format!(".{file}.new"));
    fs::write(&new, bytes)?;
    Ok(fs::rename(new, directory.join(file))?)
}

/// Returns the cargo target directory in which this test was built.
///
/// # Errors
///
/// Fails if the `tholepin` binary is not built.
pub fn target() -> Result<PathBuf> {
    let profile = process::tholepin()?;
    let target = profile.ancestors().nth(2).context("the binary is not in a profile's folder")?;
    Ok(target.to_owned())
}
