//! Creates clients for the API server that runs in this process.

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tholepin_apiserver::ApiServer;

use super::LocalError;

/// Returns a client that appears as `user` in the audit log. It trusts only the server's own certificate
/// authority.
pub(super) fn client(server: &ApiServer, user: &str) -> Result<Client, LocalError> {
    let token = server.token_for(user).map_err(|error| LocalError::Client(Box::new(error)))?;
    let authority = server.kubeconfig.with_file_name("ca.crt");
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "local",
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": user}}],
        "clusters": [{"name": "local", "cluster": {
            "server": format!("https://{}", server.address),
            "certificate-authority": authority,
        }}],
        "users": [{"name": user, "user": {"token": token}}],
    });
    let kubeconfig: Kubeconfig =
        serde_json::from_value(kubeconfig).map_err(|error| LocalError::Client(Box::new(error)))?;
    let config = load(kubeconfig)?;
    Client::try_from(config).map_err(|error| LocalError::Client(Box::new(error)))
}

/// Loads a kubeconfig from memory. Nothing in it requires I/O, so this never blocks.
fn load(kubeconfig: Kubeconfig) -> Result<Config, LocalError> {
    let options = KubeConfigOptions::default();
    let loading = Config::from_custom_kubeconfig(kubeconfig, &options);
    futures::executor::block_on(loading).map_err(|error| LocalError::Client(Box::new(error)))
}
