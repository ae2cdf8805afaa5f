//! Authentication, limits of requests, and the audit log.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::fixture::{CONFIG_MAPS, Fixture, ask, client, config_map, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_a_token_are_refused() -> Result<()> {
    let fixture = Fixture::start().await?;
    let text = std::fs::read_to_string(&fixture.server.kubeconfig)?;
    let mut config: Value = serde_json::from_str(&text)?;
    for token in [json!("0".repeat(64)), Value::Null] {
        config["users"][0]["user"] = json!({"token": token});
        let path = fixture.directory.path().join("forged");
        std::fs::write(&path, config.to_string())?;
        let forged = client(&path).await?;
        for path in ["/api", "/healthz", CONFIG_MAPS] {
            let refused = ask(&forged, "GET", path, "", Vec::new()).await.unwrap_err();
            assert_eq!((refused.code, refused.reason.as_str()), (401, "Unauthorized"), "{path}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_this_user_can_read_the_files() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::start().await?;
    let directory = fixture.server.kubeconfig.parent().context("a directory")?;
    let mode =
        |path: &std::path::Path| anyhow::Ok(std::fs::metadata(path)?.permissions().mode() & 0o777);
    assert_eq!(mode(directory)?, 0o700);
    assert_eq!(mode(&fixture.server.kubeconfig)?, 0o600);
    assert_eq!(mode(&directory.join("audit.jsonl"))?, 0o600);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_host_is_refused() -> Result<()> {
    let fixture = Fixture::start().await?;
    let mut request = kube::core::Request::new(CONFIG_MAPS).get("x", &Default::default())?;
    request.headers_mut().insert("host", "attacker.example".parse()?);
    let refused = fixture.client.request_text(request).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused}") };
    assert_eq!(status.code, 421, "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_beyond_the_limit_is_refused() -> Result<()> {
    let fixture = Fixture::start().await?;
    let large = config_map("a", json!({"x": "y".repeat(3 * 1024 * 1024)}));
    let refused = fixture.create(CONFIG_MAPS, &large).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (413, "RequestEntityTooLarge"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_is_in_the_audit_log_with_its_user() -> Result<()> {
    let fixture = Fixture::start().await?;
    let path = fixture.directory.path().join("agent");
    fixture.server.write_kubeconfig("agent", &path)?;
    let agent = client(&path).await?;
    let body = serde_json::to_vec(&config_map("a", json!({})))?;
    let url = format!("{CONFIG_MAPS}?fieldManager=tester");
    ask(&agent, "POST", &url, "application/json", body.clone()).await?;
    ask(&agent, "POST", &url, "application/json", body).await.unwrap_err();
    let url = format!("{CONFIG_MAPS}/a?dryRun=All");
    fixture.ask("DELETE", &url, "", &Value::Null).await?;

    let log = fixture.server.kubeconfig.with_file_name("audit.jsonl");
    let lines = eventually("three audit lines", || async {
        let text = std::fs::read_to_string(&log).ok()?;
        let lines: Vec<Value> =
            text.lines().map(serde_json::from_str).collect::<Result<_, _>>().ok()?;
        (lines.len() == 3).then_some(lines)
    })
    .await?;
    let row = |line: &Value| {
        ["user", "field_manager", "verb", "resource", "namespace", "name", "dry_run", "code"]
            .map(|field| line[field].clone())
    };
    let expected = [
        json!(["agent", "tester", "create", "configmaps", "default", "a", false, 201]),
        json!(["agent", "tester", "create", "configmaps", "default", "", false, 409]),
        json!(["admin", "", "delete", "configmaps", "default", "a", true, 200]),
    ];
    for (line, expected) in lines.iter().zip(&expected) {
        assert_eq!(json!(row(line)), *expected);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_log_is_rotated_once_and_stays_small() -> Result<()> {
    let fixture = Fixture::start_with(|options| options.audit_bytes_max = 1_000).await?;
    for n in 0..20 {
        fixture.create(CONFIG_MAPS, &config_map(&format!("c{n}"), json!({}))).await?;
    }
    let log = fixture.server.kubeconfig.with_file_name("audit.jsonl");
    let older = fixture.server.kubeconfig.with_file_name("audit.jsonl.1");
    fixture.server.shutdown().await;
    let last = std::fs::read_to_string(&log)?;
    assert!(last.lines().last().is_some_and(|line| line.contains("\"c19\"")), "{last}");
    for file in [&log, &older] {
        assert!(std::fs::metadata(file)?.len() <= 1_000, "{}", file.display());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_leaves_nothing_behind() -> Result<()> {
    use futures::StreamExt;
    let fixture = Fixture::start().await?;
    let watch = fixture.config_maps();
    let mut events = watch.watch(&Default::default(), "0").await?.boxed();
    let Fixture { server, client: _client, directory: _directory } = fixture;
    let address = server.address;
    let stopped = tokio::time::timeout(crate::fixture::DEADLINE, async {
        tokio::join!(server.shutdown(), async { while events.next().await.is_some() {} })
    });
    stopped.await.context("the server did not stop or its watch did not end")?;
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the server still listens");
    Ok(())
}
