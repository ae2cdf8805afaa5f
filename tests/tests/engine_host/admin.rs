//! The admin API of the host, which the command line of the same user finds by a file.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use tests::cluster::LocalClusterProcess;
use tholepin_admin::AdminClientError;

use crate::environment::DEADLINE;

#[tokio::test]
async fn a_host_writes_its_admin_file_and_removes_it_at_its_end() {
    let cluster = LocalClusterProcess::start_api_only().unwrap();
    let mut host = cluster.host().unwrap();
    let mode = std::fs::metadata(cluster.admin_file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let admin = cluster.admin().unwrap();
    assert!(admin.file().address.ip().is_loopback());
    let version = admin.get("/v1/version", &[], DEADLINE).await.unwrap();
    assert_eq!(version["pid"], host.pid());
    let error = admin.get("/v1/nonsense", &[], DEADLINE).await.unwrap_err();
    assert!(matches!(&error, AdminClientError::Refused(_)), "{error}");
    host.end().unwrap();
    assert!(!cluster.admin_file().exists());

    // A killed host leaves its file; the next host replaces it.
    let mut killed = cluster.host().unwrap();
    let stale = cluster.admin().unwrap();
    killed.kill().unwrap();
    let error = stale.get("/v1/version", &[], Duration::from_secs(2)).await.unwrap_err();
    assert!(
        error.to_string().contains("is `tholepin run` or `tholepin local` running?"),
        "{error}"
    );
    let _host = cluster.host().unwrap();
    cluster.admin().unwrap().get("/v1/version", &[], DEADLINE).await.unwrap();
}
