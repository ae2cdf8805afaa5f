//! `tholepin plan`, `tholepin calls` and the pause, as users run them.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use tests::{
    command::{CommandLine, masked_steps},
    guests,
    wait::{Poll, until},
};

use crate::environment::{
    CONFIG_MAP, DEADLINE, GREETING, HostEnvironment, PROBE, greeting, probe_object,
};

const DATA: &str = "/data/greeting";

/// Returns the host's writes of objects under test, without dry runs.
fn kept(env: &HostEnvironment) -> Vec<Value> {
    let infrastructure = ["plugins", "customresourcedefinitions"];
    let is_ours = |line: &Value| {
        line["dry_run"] == false
            && !infrastructure.contains(&line["resource"].as_str().unwrap_or_default())
    };
    env.writes().into_iter().filter(is_ours).collect()
}

/// Returns a short text of a step.
fn brief(step: &Value) -> String {
    let text = |pointer: &str| step.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{} {} {}", text("/by"), text("/change"), text("/object/kind"))
}

/// Waits for the first reconcile with steps after this number; returns it as `calls --writes` shows it.
async fn next_writes(command: &CommandLine, arguments: &[&str], after: u64) -> Value {
    let arguments = [arguments, &["--writes"]].concat();
    let poll = || async {
        let reconciles = command.calls(&arguments)?;
        let newer = reconciles
            .iter()
            .find(|reconcile| after < reconcile["number"].as_u64().unwrap_or_default());
        Ok(newer.map_or_else(
            || Poll::NotYet(format!("{} reconciles", reconciles.len())),
            |reconcile| Poll::Done(reconcile.clone()),
        ))
    };
    until("a reconcile that writes", DEADLINE, poll).await.unwrap().0
}

#[tokio::test]
async fn a_plan_of_a_file_equals_the_reconcile_after_it() {
    let env =
        HostEnvironment::with(&[("config-maker", &guests::config_maker("Hello").unwrap())], "file")
            .await;
    let command = CommandLine::of(&env.cluster);
    env.until_contains(
        &crate::environment::PLUGIN,
        ("", "config-maker"),
        "/status/stage",
        "Active",
    )
    .await;
    let file = env.cluster.directory().join("new.yaml");
    fs::write(&file, greeting("file", "new", "world").to_string()).unwrap();
    let file = file.to_str().unwrap();
    let poll = || async {
        // The kind is watched a moment after its plugin has become active.
        let (code, report) = command.plan(&["-f", file])?;
        Ok(Poll::Done((code, report)))
    };
    let ((code, plan), _) = until("a plan", DEADLINE, poll).await.unwrap();
    assert_eq!(code, 2, "{plan:#}");
    let steps = plan["steps"].as_array().unwrap();
    assert_eq!(
        steps.iter().map(brief).collect::<Vec<_>>(),
        [
            "file created Greeting",
            "add-finalizer changed Greeting",
            "apply created ConfigMap",
            "apply-status changed Greeting",
        ]
    );
    assert_eq!(kept(&env), [] as [Value; 0], "a plan keeps nothing");
    assert!(env.get(&GREETING, "file", "new").await.is_none());

    env.apply(&greeting("file", "new", "world"));
    env.until_contains(&CONFIG_MAP, ("file", "new"), DATA, "Hello, world").await;
    let done = next_writes(&command, &["greetings/new", "-n", "file"], 0).await;
    let mut planned = plan.clone();
    planned["steps"].as_array_mut().unwrap().remove(0);
    assert_eq!(masked_steps(&done), masked_steps(&planned));
    // Nothing more is to be done, with each name of the kind.
    for text in ["greeting/new", "greetings.tests.tholepin.dev/new", "Greeting/new"] {
        let poll = || async {
            let (code, report) = command.plan(&[text, "-n", "file"])?;
            Ok(if code == 0 { Poll::Done(()) } else { Poll::NotYet(report.to_string()) })
        };
        until("nothing to do", DEADLINE, poll).await.unwrap();
    }
    let shown = command.run(&["plan", "greeting/new", "-n", "file"]).unwrap();
    assert!(shown.stdout.contains("Nothing to do."), "{}", shown.stdout);
    // Once more from a changed file: the plan shows the changed field and its consequences.
    let changed = env.cluster.directory().join("changed.yaml");
    fs::write(&changed, greeting("file", "new", "moon").to_string()).unwrap();
    let shown = command.run(&["plan", "-f", changed.to_str().unwrap()]).unwrap();
    assert_eq!(shown.code, 2, "{}", shown.stderr);
    for line in [
        "    ~ .spec.text: \"world\" -> \"moon\"",
        "    ~ .data.greeting: \"Hello, world\" -> \"Hello, moon\"",
        "The plugin says: Hello, moon",
    ] {
        assert!(shown.stdout.lines().any(|shown| shown == line), "no {line:?} in {}", shown.stdout);
    }
    assert!(!shown.stdout.contains('\u{1b}'), "colours are for terminals");
}

#[tokio::test]
async fn a_paused_object_can_be_planned_and_is_not_changed() {
    let env = HostEnvironment::with(
        &[("config-maker", &guests::config_maker("Hello").unwrap())],
        "pause",
    )
    .await;
    let command = CommandLine::of(&env.cluster);
    let (about, place) = (["greeting/a", "-n", "pause"], ("pause", "a"));
    env.apply(&greeting("pause", "a", "world"));
    env.until_contains(&CONFIG_MAP, place, DATA, "Hello, world").await;
    env.until_contains(&GREETING, place, "/status/greeting", "Hello, world").await;
    let annotate = ["annotate", "greeting", "a", "-n", "pause", "--overwrite"];
    let pause = |value: &str| env.kubectl.run(&[&annotate[..], &[value]].concat()).unwrap();
    pause("tholepin.dev/paused=true");
    env.until_logged(&["paused by the annotation", "pause/a"]).await;
    let before = kept(&env).len();
    // A new spec, a deleted ConfigMap: while the object is paused, nothing is done about either.
    env.kubectl.run(&["delete", "configmap", "a", "-n", "pause"]).unwrap();
    let patch = ["patch", "greeting", "a", "-n", "pause", "--type=merge"];
    let spec = ["-p", r#"{"spec":{"text":"moon"}}"#];
    env.kubectl.run(&[&patch[..], &spec].concat()).unwrap();
    let poll = || async {
        let (code, report) = command.plan(&about)?;
        let is_new = report.to_string().contains("Hello, moon") && code == 2;
        Ok(if is_new { Poll::Done(report) } else { Poll::NotYet(report.to_string()) })
    };
    let (plan, _) = until("a plan for the new spec", DEADLINE, poll).await.unwrap();
    assert!(plan["remarks"][0].as_str().unwrap().contains("paused"), "{plan:#}");
    let reconciles = command.calls(&about).unwrap();
    let last = reconciles.last().unwrap();
    assert!(last["end"]["notCalled"]["why"].as_str().unwrap().contains("paused"), "{last:#}");
    assert_eq!(kept(&env).len(), before, "something was written while the object was paused");
    assert!(env.get(&CONFIG_MAP, "pause", "a").await.is_none());

    pause("tholepin.dev/paused-");
    env.until_contains(&CONFIG_MAP, place, DATA, "Hello, moon").await;
    let done = next_writes(&command, &about, last["number"].as_u64().unwrap()).await;
    assert_eq!(masked_steps(&done), masked_steps(&plan));
    let number = done["number"].as_u64().unwrap().to_string();
    let whole = command.calls(&[&about[..], &["--reconcile", &number]].concat()).unwrap();
    let functions: Vec<_> = whole[0]["calls"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|call| call["function"].as_str())
        .collect();
    let expected =
        ["runtime/parameters", "kubernetes/apply", "kubernetes/apply-status", "runtime/log"];
    assert_eq!(functions, expected);
}

#[tokio::test]
async fn a_failed_plan_says_how_to_fix_it() {
    let env = HostEnvironment::with(&[("probe", &guests::probe().unwrap())], "way").await;
    let command = CommandLine::of(&env.cluster);
    env.until_contains(&crate::environment::PLUGIN, ("", "probe"), "/status/stage", "Active").await;
    env.apply(&probe_object("way", "trap", json!({"do": "trap"})));
    env.until_contains(&PROBE, ("way", "trap"), "/status/conditions", "Quarantined").await;
    let two = env.cluster.directory().join("two.yaml");
    fs::write(&two, "a: 1\n---\nb: 2\n").unwrap();
    let rows: [(&[&str], i32, &[&str]); 8] = [
        (&["plan", "rediscluster/x"], 1, &["`rediscluster`", "reconciled are: Probe"]),
        (&["plan", "probe/absent", "-n", "way"], 1, &["Probe way/absent", "-f FILE"]),
        (&["plan", "-f", "absent.yaml"], 1, &["absent.yaml"]),
        (&["plan", "-f", two.to_str().unwrap()], 1, &["two.yaml", "2 objects"]),
        (&["plan", "probe"], 64, &["KIND/NAME"]),
        (&["calls", "probe/absent", "-n", "way"], 1, &["Probe way/absent", "does not exist"]),
        (
            &["calls", "probe/trap", "-n", "way", "--reconcile", "99"],
            1,
            &["reconcile 99", "kept are 1, 2"],
        ),
        (
            &["plan", "probe/trap", "-n", "way", "--admin-file", "absent"],
            1,
            &["tholepin run", "absent"],
        ),
    ];
    for (arguments, code, texts) in rows {
        let finished = command.run(arguments).unwrap();
        assert_eq!(finished.code, code, "{arguments:?}: {}", finished.stderr);
        for text in texts {
            assert!(finished.stderr.contains(text), "{arguments:?}: {}", finished.stderr);
        }
    }
    // A quarantined object can be planned for; the plugin traps again, which is no strike and gives no plan.
    let (code, report) = command.plan(&["probe/trap", "-n", "way"]).unwrap();
    assert_eq!(code, 1, "{report:#}");
    assert!(report["end"]["trapped"]["message"].is_string(), "{report:#}");
    assert!(report["remarks"][0].as_str().unwrap().contains("quarantined"), "{report:#}");
    env.apply(&probe_object("way", "bad", json!({"do": "be-invalid"})));
    env.until_contains(&PROBE, ("way", "bad"), "/status/conditions", "InvalidSpec").await;
    let finished = command.run(&["plan", "probe/bad", "-n", "way"]).unwrap();
    assert_eq!(finished.code, 1);
    assert!(finished.stdout.contains(".spec.do: was told to be invalid"), "{}", finished.stdout);
    // A refusal in a plan has the same text as the refusal in a reconcile.
    let probe_object =
        probe_object("way", "denied", json!({"do": "call-in-reconcile", "function": "redis/act"}));
    env.apply(&probe_object);
    let line = env.until_logged(&["way/denied", "enied"]).await;
    let (_, report) = command.plan(&["probe/denied", "-n", "way"]).unwrap();
    let summary = report["end"]["answered"]["summary"].as_str().unwrap();
    assert!(line.contains(summary), "{summary} is not in {line}");
    let refused = &report["steps"][0]["notDone"]["failed"]["message"];
    assert!(summary.contains(refused.as_str().unwrap()), "{report:#}");
    assert_eq!(
        masked_steps(&report),
        masked_steps(&command.calls(&["probe/denied", "-n", "way"]).unwrap()[0])
    );
}

#[tokio::test]
async fn a_plan_can_be_made_without_a_host() {
    let env = HostEnvironment::with(
        &[("config-maker", &guests::config_maker("Hello").unwrap())],
        "alone",
    )
    .await;
    env.apply(&greeting("alone", "a", "world"));
    env.until_contains(&GREETING, ("alone", "a"), "/status/greeting", "Hello, world").await;
    let HostEnvironment { mut host, kubectl, cluster, client: _ } = env;
    host.end().unwrap();
    let command = CommandLine::of(&cluster);
    let asked = command.run(&["plan", "greeting/a", "-n", "alone"]).unwrap();
    assert_eq!(asked.code, 1);
    assert!(
        asked.stderr.contains("is `tholepin run` or `tholepin local` running?"),
        "{}",
        asked.stderr
    );
    kubectl.run(&["delete", "configmap", "a", "-n", "alone"]).unwrap();
    let audit = fs::read_to_string(cluster.audit_log()).unwrap().lines().count();
    let (plugins, kubeconfig) = (cluster.plugins().unwrap(), cluster.kubeconfig().to_owned());
    let alone = [
        "greeting/a",
        "-n",
        "alone",
        "--standalone",
        "--trust-plugins",
        "--plugins",
        plugins.to_str().unwrap(),
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
    ];
    let (code, report) = command.plan(&alone).unwrap();
    assert_eq!(code, 2, "{report:#}");
    assert_eq!(brief(&report["steps"][0]), "apply created ConfigMap");
    let poll = || async {
        let log = fs::read_to_string(cluster.audit_log())?;
        let lines = log.lines().skip(audit).map(serde_json::from_str::<Value>);
        let lines = lines.collect::<Result<Vec<_>, _>>()?;
        Ok(if lines.is_empty() { Poll::NotYet(log) } else { Poll::Done(lines) })
    };
    let (lines, _) =
        until("the dry runs to be in the log", Duration::from_secs(5), poll).await.unwrap();
    assert!(lines.iter().all(|line| line["dry_run"] == true), "{lines:?}");
}
