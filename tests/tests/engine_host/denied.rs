//! A plugin without grants: every import that needs a grant is denied with the missing grant, and nothing is
//! written to Kubernetes.

use serde_json::{Value, json};
use tests::{
    guests,
    imports::{ALLOWED, DENIED},
};
use tholepin_schema::reserved;

use crate::environment::{CONFIG_MAP, EVENT, HostEnvironment, PROBE, probe_object};

#[tokio::test]
async fn without_a_grant_every_import_is_denied_and_nothing_is_written() {
    let env = HostEnvironment::with(&[("probe", &guests::probe().unwrap())], "denied").await;
    let functions = DENIED.iter().chain(ALLOWED).map(|(function, _)| *function);
    let items: Vec<Value> = functions
        .map(|function| {
            let name = function.replace('/', "-");
            probe_object("denied", &name, json!({"do": "call-in-reconcile", "function": function}))
        })
        .collect();
    env.apply_all(items);
    for (function, grant) in DENIED {
        // With the space after it, because one name is the beginning of another.
        let name = format!("denied/{} ", function.replace('/', "-"));
        let line = env.until_logged(&[&name, "enied"]).await;
        assert!(line.to_lowercase().contains(&grant.to_lowercase()), "{function}: {line}");
    }
    for (function, answer) in ALLOWED {
        env.until_logged(&[&format!("denied/{} ", function.replace('/', "-")), answer]).await;
    }
    // `validate` may depend on the object only, so even the clock is denied there.
    env.apply(&probe_object("denied", "early", json!({"do": "call", "function": "runtime/now"})));
    let (found, _) =
        env.until_contains(&PROBE, ("denied", "early"), "/status/conditions", "InvalidSpec").await;
    let message = found["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("`runtime/now` is not available in `validate`"), "{message}");
    let others: Vec<Value> = env
        .writes()
        .into_iter()
        .filter(|line| {
            line["resource"] != "plugins"
                && line["resource"] != "customresourcedefinitions"
                && line["name"] != "early"
                // The host's own objects.
                && !line["name"].as_str().is_some_and(|name| name.starts_with(reserved::PREFIX))
        })
        .collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(env.count(&CONFIG_MAP, "default").await, 0);
    assert_eq!(env.count(&EVENT, "denied").await, 0);
}
