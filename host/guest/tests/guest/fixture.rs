//! A plugin directory with its registry, and functions that call the loaded plugins.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tholepin_core::{
    HostCalls, PluginName,
    port::{GuestError, PluginExports},
};
use tholepin_guest::{
    DirectoryWatch, GuestEngine, LoadedPlugin, PluginRegistry, PluginRegistryOptions,
    PluginStageReport,
};
use tholepin_schema::reconcile::{ReconcileFailure, ReconcileOutcome, ReconcileRequest};

/// The engine of all tests, as all plugins of a host share one.
pub(crate) static ENGINE: LazyLock<Arc<GuestEngine>> =
    LazyLock::new(|| Arc::new(GuestEngine::new(64).unwrap()));

pub(crate) struct RegistryFixture {
    pub(crate) home: TempDir,
    options: PluginRegistryOptions,
    pub(crate) registry: Arc<PluginRegistry>,
    pub(crate) watch: DirectoryWatch,
}

impl RegistryFixture {
    pub(crate) fn new() -> Self {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled");
        Self::with(cache, true)
    }

    pub(crate) fn with(cache: PathBuf, allow_as_requested: bool) -> Self {
        Self::resting(cache, allow_as_requested, Duration::MAX)
    }

    /// As [`with`](Self::with), and releases code that was not called for `idle_max`.
    pub(crate) fn resting(cache: PathBuf, allow_as_requested: bool, idle_max: Duration) -> Self {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("plugins");
        fs::create_dir(&directory).unwrap();
        let history = Some(home.path().join("history"));
        let options =
            PluginRegistryOptions { directory, cache, history, allow_as_requested, idle_max };
        let (registry, watch) = PluginRegistry::open(Arc::clone(&ENGINE), options.clone()).unwrap();
        Self { home, options, registry, watch }
    }

    /// Replaces the registry by a new one on the same directories, as a restart of the host does.
    pub(crate) fn restart(&mut self) {
        let options = self.options.clone();
        (self.registry, self.watch) = PluginRegistry::open(Arc::clone(&ENGINE), options).unwrap();
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.home.path().join("plugins").join(file)
    }

    /// Puts a file into the plugin directory by a rename.
    pub(crate) fn put(&self, file: &str, bytes: impl AsRef<[u8]>) {
        let temporary = self.path(&format!(".{file}.new"));
        fs::write(&temporary, bytes).unwrap();
        fs::rename(temporary, self.path(file)).unwrap();
    }

    /// Installs a component with settings that grant everything; `more` are further lines of the spec.
    pub(crate) fn install(&self, name: &str, wasm: &Path, more: &str) {
        self.put(&format!("{name}.wasm"), fs::read(wasm).unwrap());
        self.put(&format!("{name}.yaml"), settings(name, &format!("grants: asRequested\n{more}")));
    }

    pub(crate) fn active(&self, name: &str) -> Option<Arc<LoadedPlugin>> {
        self.registry.active(&plugin(name))
    }

    pub(crate) fn report(&self, name: &str) -> PluginStageReport {
        let reports = self.registry.reports();
        reports.get(&plugin(name)).unwrap_or_else(|| panic!("no report about {name}")).clone()
    }
}

pub(crate) fn plugin(name: &str) -> PluginName {
    name.parse().unwrap()
}

/// Returns the text of a `NAME.yaml` with these lines in its spec.
pub(crate) fn settings(name: &str, spec: &str) -> String {
    let lines: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: tholepin.dev/v1alpha1\nkind: Plugin\nmetadata:\n  name: {name}\nspec:\n  \
         source:\n    file: {name}.wasm\n{lines}"
    )
}

/// Loads the probe with these lines in its spec.
pub(crate) async fn probe(spec: &str) -> Arc<LoadedPlugin> {
    let mut setting = RegistryFixture::new();
    setting.install("probe", &crate::build::probe(), spec);
    setting.watch.scan().await;
    let report = setting.report("probe");
    setting.active("probe").unwrap_or_else(|| panic!("{report:?}"))
}

/// Calls `reconcile` of a plugin with this spec.
pub(crate) async fn run(
    plugin: &LoadedPlugin,
    spec: Value,
    calls: Arc<dyn HostCalls>,
) -> Result<Result<ReconcileOutcome, ReconcileFailure>, GuestError> {
    plugin.reconcile(plugin.context(None), request(spec), calls).await
}

/// Calls `reconcile` of a plugin with this spec, and returns the summary. Panics if the call fails.
pub(crate) async fn summary(
    plugin: &LoadedPlugin,
    spec: Value,
    calls: Arc<dyn HostCalls>,
) -> String {
    run(plugin, spec, calls).await.unwrap().unwrap().summary
}

pub(crate) fn request(spec: Value) -> ReconcileRequest {
    let object = json!({
        "apiVersion": "tests.tholepin.dev/v1",
        "kind": "Greeting",
        "metadata": {"name": "a", "namespace": "default", "uid": "u", "generation": 3},
        "spec": spec
    });
    ReconcileRequest { object, deleting: false, causes: Vec::new(), memo: None }
}
