//! Plugins as files, built from source when a test first asks for them; nothing built is ever committed.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{LazyLock, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};

use crate::process;

/// The variables that change what a guest is; each build says them all.
const VARIABLES: &[&str] =
    &["GREETING", "PLUGIN_KIND", "PLUGIN_NAME", "PROBE_ASKS", "PROBE_DESCRIBE"];

/// The kind of the guest `probe`, which brings none.
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

/// The plugin `redis-cluster`, as it ships.
///
/// # Errors
///
/// Fails if it cannot be built.
pub fn redis_cluster() -> Result<Vec<u8>> {
    build("redis-cluster", &[])
}

/// The guest that turns a `Greeting` into a ConfigMap, with a greeting of its own.
///
/// # Errors
///
/// Fails if it cannot be built.
pub fn config_maker(greeting: &str) -> Result<Vec<u8>> {
    build("guest-config-maker", &[("GREETING", greeting)])
}

/// The guest that misbehaves as its object says.
///
/// # Errors
///
/// Fails if it cannot be built.
pub fn probe() -> Result<Vec<u8>> {
    build("guest-probe", &[])
}

/// The guest that misbehaves as its object says, with what it needs to set things in Redis.
///
/// # Errors
///
/// Fails if it cannot be built.
pub fn probe_of_redis() -> Result<Vec<u8>> {
    build("guest-probe", &[("PROBE_ASKS", "redis")])
}

/// The guest that takes the place of `redis-cluster` and makes the calls that its object lists.
///
/// # Errors
///
/// Fails if it cannot be built.
pub fn rogue() -> Result<Vec<u8>> {
    build("guest-rogue", &[])
}

/// Builds a package for plugins with these variables set, once per run, and gives the component.
///
/// # Errors
///
/// Fails if cargo does.
pub fn build(package: &str, variables: &[(&str, &str)]) -> Result<Vec<u8>> {
    let variant = format!("{package} {variables:?}");
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(component) = built.get(&variant) {
        return Ok(component.clone());
    }
    let target = target()?;
    // All test programs put what they build in one place and use it before the next build.
    let _lock = lock(&target)?;
    cargo(&target, &["--target", "wasm32-wasip2", "--package", package], variables)?;
    let file = package.replace('-', "_") + ".wasm";
    let component = fs::read(target.join("wasm32-wasip2/plugin").join(file))?;
    built.insert(variant, component.clone());
    Ok(component)
}

/// The program that runs `redis-cluster` without a sandbox, built with the profile of plugins.
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

/// Keeps other test programs from building guests until it is dropped.
fn lock(target: &Path) -> Result<fs::File> {
    let lock = fs::File::create(target.join("guests.lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// Builds with the profile of plugins.
fn cargo(target: &Path, what: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--locked", "--profile", "plugin"])
        .args(what)
        .env("CARGO_TARGET_DIR", target)
        .env_remove("RUSTFLAGS")
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    for name in VARIABLES {
        cargo.env_remove(name);
    }
    let status = cargo.envs(variables.iter().copied()).status().context("cannot start cargo")?;
    ensure!(status.success(), "cannot build with {}", what.join(" "));
    Ok(())
}

/// The same component under another digest: a section that nobody reads is added.
#[must_use]
pub fn renamed(component: &[u8], mark: u8) -> Vec<u8> {
    // A custom section (0) of three bytes: a name of one byte, and one byte of content.
    [component, &[0, 3, 1, b'm', mark]].concat()
}

/// The same component with another text of the same length in place of this one, wherever it is: a
/// variant that costs no build.
///
/// # Errors
///
/// Fails if the lengths differ, or if the component does not contain the text.
pub fn replaced(component: &[u8], text: &str, by: &str) -> Result<Vec<u8>> {
    ensure!(text.len() == by.len(), "`{by}` is not as long as `{text}`");
    let mut fresh = component.to_vec();
    let places = component.windows(text.len()).enumerate();
    let places = places.filter(|(_, bytes)| *bytes == text.as_bytes());
    let mut count = 0;
    for (place, _) in places {
        let bytes = fresh.get_mut(place..place + by.len()).context("a place that was found")?;
        bytes.copy_from_slice(by.as_bytes());
        count += 1;
    }
    ensure!(count > 0, "the component does not contain `{text}`");
    Ok(fresh)
}

/// A component without code that imports one interface with one function. Both names are shorter than
/// 100 bytes, so that each length is one byte.
#[must_use]
pub fn importing(interface: &str, function: &str) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    let name = |text: &str| [&[0, length(text.as_bytes())], text.as_bytes()].concat();
    let section = |id: u8, body: &[u8]| [&[id, length(body)], body].concat();
    // One instance type: a function type without parameters and results, and an export of it.
    let function_type = [0x01, 0x40, 0x00, 0x01, 0x00];
    let export = [&[0x04], name(function).as_slice(), &[0x01, 0x00]].concat();
    let types = [&[0x01, 0x42, 0x02], function_type.as_slice(), &export].concat();
    let imports = [&[0x01], name(interface).as_slice(), &[0x05, 0x00]].concat();
    [b"\0asm\x0d\0\x01\0".as_slice(), &section(7, &types), &section(10, &imports)].concat()
}

/// The `Plugin` object for a component `NAME.wasm` that is granted what it asks for.
#[must_use]
pub fn settings(name: &str) -> String {
    format!(
        "apiVersion: tholepin.dev/v1alpha1\nkind: Plugin\nmetadata:\n  name: {name}\nspec:\n  \
         source:\n    file: {name}.wasm\n  grants: asRequested\n"
    )
}

/// Puts a plugin into a directory of plugins, granted what it asks for.
///
/// # Errors
///
/// Fails if the directory cannot be written.
pub fn install(directory: &Path, name: &str, component: &[u8]) -> Result<()> {
    put(directory, &format!("{name}.yaml"), settings(name).as_bytes())?;
    put(directory, &format!("{name}.wasm"), component)
}

/// Puts a whole file into a directory by a rename, as a deployment does.
///
/// # Errors
///
/// Fails if the directory cannot be written.
pub fn put(directory: &Path, file: &str, bytes: &[u8]) -> Result<()> {
    let new = directory.join(format!(".{file}.new"));
    fs::write(&new, bytes)?;
    Ok(fs::rename(new, directory.join(file))?)
}

/// The target directory that this test was built in.
///
/// # Errors
///
/// Fails if the binary is not built.
pub fn target() -> Result<PathBuf> {
    let profile = process::tholepin()?;
    let target = profile.ancestors().nth(2).context("the binary lies in a profile's folder")?;
    Ok(target.to_owned())
}
