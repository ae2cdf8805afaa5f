//! A plugin that misbehaves in the way that the object's `spec.do` names: one guest for all limits.
//!
//! `PROBE_DESCRIBE` at build time makes `describe` misbehave: `trap`, or `garbage` (a manifest without kinds).
//! `PLUGIN_KIND` is the kind that it reconciles. With `PROBE_ASKS=redis` its manifest asks for the grants to
//! observe and configure Redis.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "to misbehave is what it is for"
)]

use std::collections::HashMap;

use serde_json::{Value, json};
use tholepin_sdk::{
    DeleteOptions, Error, EventType, Fact, FactFieldTest, FactSubject, Grants, Host, JsonDocument,
    KindName, LogLevel, Manifest, ObjectListQuery, ObjectRef, Pipeline, ReadMode, ReconcileFailure,
    ReconcileOutcome, ReconcileRequest, ReconciledKind, Reconciler, RedisGrants, Violation,
    WatchMapping, WatchedKind, manifest,
};

/// The plugin.
pub struct Probe;

tholepin_sdk::export!(Probe);

impl Reconciler for Probe {
    fn describe() -> Manifest {
        let reconciles = match option_env!("PROBE_DESCRIBE") {
            Some("trap") => panic!("describe was told to trap"),
            Some("garbage") => Vec::new(),
            _ => {
                let name = KindName {
                    api_version: "tests.tholepin.dev/v1".to_owned(),
                    kind: option_env!("PLUGIN_KIND").unwrap_or("Probe").to_owned(),
                };
                vec![ReconciledKind { name, crd: None }]
            }
        };
        Manifest {
            name: option_env!("PLUGIN_NAME").unwrap_or("probe").to_owned(),
            version: "1".to_owned(),
            reconciles,
            ..match option_env!("PROBE_ASKS") {
                Some("redis") => manifest_for_redis(),
                _ => manifest(),
            }
        }
    }

    fn validate(_old: Option<Value>, new: Value) -> Vec<Violation> {
        if task(&new) == "trap-in-validate" {
            panic!("validate was told to trap");
        }
        // A map with random keys calls for randomness, which is answered but not recorded in `validate`.
        let seen: HashMap<&str, &str> = HashMap::from([("do", task(&new))]);
        match seen.get("do") {
            // The SDK gives `validate` no host; a guest in another language could still call it.
            Some(&"call") => {
                let function = new.pointer("/spec/function").and_then(Value::as_str);
                let host = tholepin_sdk::guest::host();
                let message = host.map(|host| call(host, function.unwrap_or_default()));
                let message = message.unwrap_or_default();
                vec![Violation { field: ".spec.function".to_owned(), message }]
            }
            Some(&"tell-the-time") => {
                vec![Violation { field: ".spec.do".to_owned(), message: wall_clock() }]
            }
            Some(&"be-invalid") => {
                let message = "was told to be invalid".to_owned();
                vec![Violation { field: ".spec.do".to_owned(), message }]
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(
        host: &dyn Host,
        request: ReconcileRequest,
    ) -> Result<ReconcileOutcome, ReconcileFailure> {
        let spec = &request.object["spec"];
        let number = spec["number"].as_u64().unwrap_or_default();
        let summary = match task(&request.object) {
            "nothing" => String::new(),
            "tell" => {
                host.info(&format!("told number {number}."));
                String::new()
            }
            "panic" => panic!("told to panic with number {number}"),
            "trap" => std::process::abort(),
            "exit" => std::process::exit(3),
            "loop" => spin(),
            "recurse" => recurse(number).to_string(),
            "eat-memory" => eat_memory(),
            "return-huge" => "x".repeat(usize_of(number)),
            "send-huge" => {
                reported(host.apply(&json!({"huge": "x".repeat(usize_of(number))}), false))
            }
            "many-calls" => many_calls(host, number),
            "flood" => flood(host, spec["with"].as_str().unwrap_or_default()),
            "work" => {
                host.info(&format!("began {number}"));
                work(spec["turns"].as_u64().unwrap_or_default());
                String::new()
            }
            "compute" => {
                host.info("begins");
                let turns = spec["turns"].as_u64().unwrap_or_default();
                work(turns);
                format!("turned {turns} times")
            }
            "many-logs" => {
                (0..number).for_each(|line| host.info(&format!("line {line}")));
                String::new()
            }
            "long-log" => {
                host.info(&"ä".repeat(usize_of(number)));
                String::new()
            }
            "hash-map" => hash_map(),
            "environment" => {
                format!("{:?} {:?}", std::env::vars().count(), std::env::args().count())
            }
            "stderr" => {
                eprintln!("a line on stderr");
                String::new()
            }
            "clock" => wall_clock(),
            "file" => format!("{:?}", std::fs::read_to_string("/etc/hostname").is_ok()),
            // Where the host calls `validate` first, `call` ends there.
            "call" | "call-in-reconcile" => {
                call(host, spec["function"].as_str().unwrap_or_default())
            }
            "suspend" => suspend(host, spec),
            "look" => reported(host.observe(&spec["instance"]).map(|_| "a snapshot")),
            "sleep" => {
                host.info("asleep until a fact wakes it");
                match serde_json::from_value(spec["wake"].clone()) {
                    Ok(wake) => {
                        return Ok(ReconcileOutcome { wake, ..ReconcileOutcome::default() });
                    }
                    Err(error) => panic!("no wakes: {error}"),
                }
            }
            "fail" => {
                let message = "was told to fail".to_owned();
                return Err(ReconcileFailure { reason: "Told".to_owned(), message, retry: true });
            }
            other => format!("does not know {other}"),
        };
        Ok(ReconcileOutcome { summary, memo: request.memo, ..ReconcileOutcome::default() })
    }
}

fn manifest_for_redis() -> Manifest {
    let name = KindName { api_version: "v1".to_owned(), kind: "Pod".to_owned() };
    let verbs = ["observe", "configure"].map(str::to_owned).to_vec();
    let redis = RedisGrants { verbs, ..RedisGrants::default() };
    Manifest {
        watches: vec![WatchedKind { name, leads: WatchMapping::Owner }],
        grants: Grants { redis, probes: vec![6379], ..Grants::default() },
        ..manifest()
    }
}

/// Changes the settings that the object names for the rest of the reconcile, which ends as the object says.
fn suspend(host: &dyn Host, spec: &Value) -> String {
    let args = json!({"pod": spec["pod"], "settings": spec["settings"], "temporary": true});
    let facts = spec["presume"].as_array().cloned().unwrap_or_default();
    let action = json!({"verb": "configure", "args": args, "presume": {"facts": facts}});
    let set = reported(host.act(&spec["instance"], &[action]));
    host.info(&format!("suspended: {set}"));
    match spec["then"].as_str() {
        Some("panic") => panic!("told to panic while something is suspended"),
        Some("loop") => spin(),
        _ => {
            let fact = json!({"subject": {"member": {"instance": spec["instance"], "pod": spec["pod"]}},
                "field": ".answer.answered.settings.maxmemory", "op": "equals", "value": "1073741824"});
            match serde_json::from_value(fact) {
                Ok(fact) => format!("waited: {}", reported(host.wait(&[fact], 2000))),
                Err(error) => panic!("no fact: {error}"),
            }
        }
    }
}

fn task(object: &Value) -> &str {
    object.pointer("/spec/do").and_then(Value::as_str).unwrap_or_default()
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

/// Computes for a while.
fn work(turns: u64) {
    let mut done = 0_u64;
    while std::hint::black_box(done) < turns {
        done += 1;
    }
}

fn recurse(depth: u64) -> u64 {
    let here = std::hint::black_box([depth; 32]);
    if depth == u64::MAX { 0 } else { recurse(depth + 1).wrapping_add(here[0]) }
}

fn eat_memory() -> String {
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    loop {
        eaten.push(std::hint::black_box(vec![1; 1 << 20]));
    }
}

fn many_calls(host: &dyn Host, count: u64) -> String {
    let object = ObjectRef::new("v1", "ConfigMap", "default", "a");
    let found = (0..count).filter(|_| host.get(&object, ReadMode::Cached, &[]).is_ok()).count();
    found.to_string()
}

/// Makes the host parse, answer and record as much as it can, and traps.
fn flood(host: &dyn Host, with: &str) -> ! {
    // Most of the memory that the guest may have.
    let ballast = std::hint::black_box(vec![1_u8; 28 << 20]);
    let turns = if with == "logs" { 1000 } else { 60 };
    let instance = json!({});
    let text = || "x".repeat(1 << 20);
    // About 130 KB of text, and a hundred times as much when it is parsed.
    let maps = || Value::Array((0..20_000).map(|_| json!({"": 0})).collect());
    let intent = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data, "metadata": {"name": "a", "namespace": "default"}});
    let turn: Box<dyn Fn()> = match with {
        "maps" => {
            let intent = intent(maps());
            Box::new(move || drop(host.apply(&intent, true)))
        }
        "nested" => {
            let nested = (0..100).fold(Value::Null, |inner, _| json!({"": inner}));
            let intent = intent(Value::Array(vec![nested; 60]));
            Box::new(move || drop(host.apply(&intent, true)))
        }
        "texts" => {
            let intent = intent(json!({"a": text()}));
            Box::new(move || drop(host.apply(&intent, true)))
        }
        "actions" => {
            let actions = vec![maps()];
            Box::new(move || drop(host.act(&instance, &actions)))
        }
        "commands" => {
            let mut pipeline = Pipeline::new(&instance, "a-0", &[&["SET"]]);
            pipeline.commands = vec![vec![vec![b'x']; 40_000]];
            Box::new(move || drop(host.fan_out(std::slice::from_ref(&pipeline))))
        }
        "names" => {
            let object = ObjectRef::new("v1", &text(), "default", "a");
            Box::new(move || drop(host.get(&object, ReadMode::Cached, &[])))
        }
        "logs" => {
            let line = "x".repeat(8000);
            Box::new(move || host.info(&line))
        }
        other => panic!("does not know {other}"),
    };
    (0..turns).for_each(|_| turn());
    drop(std::hint::black_box(ballast));
    std::process::abort()
}

fn hash_map() -> String {
    let map: HashMap<u32, u32> = (0..100).map(|number| (number, number * 2)).collect();
    let sum: u32 = map.values().sum();
    // The order depends on the seed: two reconciles with the same recording must agree.
    let first: Vec<String> = map.keys().take(8).map(u32::to_string).collect();
    format!("{sum} {}", first.join(","))
}

fn wall_clock() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let elapsed = std::time::Instant::now().elapsed();
    format!("{} {}", since.unwrap_or_default().as_millis(), elapsed.as_secs())
}

/// Calls one import and returns its answer as text.
fn call(host: &dyn Host, function: &str) -> String {
    let object = ObjectRef::new("v1", "ConfigMap", "default", "a");
    let intent = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default"}});
    let instance =
        json!({"namespace": "default", "selector": "app=a", "container": "redis", "port": 6379});
    let pipeline = Pipeline::new(&instance, "a-0", &[&["PING"]]);
    match function {
        "kubernetes/get" => reported(host.get(&object, ReadMode::Live, &[".spec"])),
        "kubernetes/list" => {
            reported(host.list(&ObjectListQuery::new("v1", "ConfigMap", "default")))
        }
        "kubernetes/apply" => reported(host.apply(&intent, true).and_then(JsonDocument::value)),
        "kubernetes/apply-status" => {
            reported(host.apply_status(&intent).and_then(JsonDocument::value))
        }
        "kubernetes/merge-patch" => {
            let patched = host.merge_patch(&object, &json!({"data": null}));
            reported(patched.and_then(JsonDocument::value))
        }
        "kubernetes/delete" => {
            let options = DeleteOptions { uid: Some("u".to_owned()), ..DeleteOptions::default() };
            reported(host.delete(&object, &options))
        }
        "kubernetes/publish" => reported(host.publish(EventType::Warning, "Told", "to publish")),
        "kubernetes/warnings" => reported(host.warnings(&object)),
        "redis/pipeline" => reported(host.pipeline(&pipeline)),
        "redis/fan-out" => reported(host.fan_out(&[pipeline.clone(), pipeline])),
        "redis/observe" => reported(host.observe(&instance).and_then(JsonDocument::value)),
        "redis/act" => {
            let meet = json!({"verb": "meet", "args": {"pod": "a-0", "with": "a-1"}});
            reported(host.act(&instance, &[meet]))
        }
        "runtime/now" => reported(host.now_ms()),
        "runtime/random" => reported(host.random(4)),
        "runtime/parameters" => reported(host.parameters()),
        "runtime/wait" => {
            let kind = (object.kind.api_version.as_str(), object.kind.kind.as_str());
            let subject = FactSubject::object(kind, &object.namespace, &object.name);
            match Fact::new(subject, ".data.x", FactFieldTest::Exists) {
                Ok(fact) => reported(host.wait(&[fact], 10)),
                Err(error) => panic!("no fact: {error}"),
            }
        }
        "runtime/probe" => reported(host.probe(&tholepin_sdk::PodPortProbe::connect("a-0", 6379))),
        "runtime/log" => {
            host.log(LogLevel::Warn, "told to log");
            "logged".to_owned()
        }
        other => format!("does not know {other}"),
    }
}

fn reported<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Ok(value) => format!("ok {value:?}"),
        Err(error) => format!("{} {error}", error.reason()),
    }
}
