//! The command line for a new user: its output can be used unchanged, and the exit code shows success or failure.

use std::{
    env, fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};
use tests::{cluster::LocalClusterProcess, guests, process::tholepin};

use crate::environment::{CONFIG_MAP, HostEnvironment, PLUGIN, greeting};

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(tholepin().unwrap());
    command.args(arguments).current_dir(folder).env_remove("KUBECONFIG");
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Checks the exit code and that stderr contains these texts.
fn fails(output: &Output, code: i32, texts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for text in texts {
        assert!(stderr.contains(text), "no {text:?} in {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[tokio::test]
async fn printed_manifests_and_commands_work_unchanged() {
    let component = guests::config_maker("Hello").unwrap();
    let env = HostEnvironment::with(&[], "printed").await;
    let folder = env.cluster.plugins().unwrap();
    let here = |arguments: &[&str]| run(&folder, arguments);
    for round in ["created", "unchanged"] {
        let definitions = stdout(&here(&["crds"]));
        let output = env
            .kubectl
            .run_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &definitions);
        assert!(output.unwrap().contains("plugins.tholepin.dev"), "{round}");
    }
    // The component has no settings; the host reports the command that creates them, and that command works.
    env.put("config-maker.wasm", &component);
    let (refused, _) = env
        .until_contains(&PLUGIN, ("", "config-maker"), "/status/reason", "SettingsMissing")
        .await;
    let message = refused["status"]["message"].as_str().unwrap();
    assert!(message.contains("`tholepin plugin grant config-maker.wasm`"), "{message}");
    let settings = stdout(&here(&["plugin", "grant", "config-maker.wasm"]));
    env.put("config-maker.yaml", &settings);
    env.until_contains(&PLUGIN, ("", "config-maker"), "/status/stage", "Active").await;
    env.apply(&greeting("printed", "a", "world"));
    env.until_contains(&CONFIG_MAP, ("printed", "a"), "/data/greeting", "Hello, world").await;

    let inspected = stdout(&here(&["plugin", "inspect", "config-maker.wasm"]));
    for texts in ["config-maker Hello", "tests.tholepin.dev/v1/Greeting", "apply-status", "sha256"]
    {
        let found = inspected.contains(texts) || texts == "sha256" && inspected.contains("digest");
        assert!(found, "no {texts:?} in {inspected}");
    }
    let definition = stdout(&here(&["plugin", "inspect", "--crds", "config-maker.wasm"]));
    let dry = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"];
    let output = env.kubectl.run_with(&dry, &definition).unwrap();
    assert!(output.contains("greetings.tests.tholepin.dev"), "{output}");

    let kubeconfig = env.cluster.kubeconfig().to_str().unwrap();
    let listed = stdout(&here(&["plugin", "list", "--kubeconfig", kubeconfig]));
    let row: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    let active = env.active("config-maker", "").await;
    assert_eq!((row[0], row[1], row[2]), ("config-maker", &active[..12], "Hello"), "{listed}");
    let shown = env.kubectl.run(&["get", "plugins"]).unwrap();
    assert!(shown.contains(&active[..12]) && shown.contains("SERVING"), "{shown}");
    let listed = stdout(&here(&["plugin", "list", "-o", "json", "--kubeconfig", kubeconfig]));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["plugins"][0]["status"]["active"], active.as_str());
}

#[test]
fn exit_codes_and_errors_are_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let here = |arguments: &[&str]| run(folder.path(), arguments);
    fs::write(folder.path().join("text.wasm"), "no component").unwrap();
    fs::write(folder.path().join("bad.kubeconfig"), "no: [yaml").unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    let rows: [(&[&str], i32, &[&str]); 12] = [
        (&["--version"], 0, &[]),
        (&["--help"], 0, &[]),
        (&[], 64, &["Usage:"]),
        (&["nonsense"], 64, &["unrecognized subcommand"]),
        (&["run"], 64, &["--plugins"]),
        (&["local"], 64, &["--plugins"]),
        (&["run", "--log", "a=b=c", "--plugins", "absent"], 1, &["a=b=c", "--log"]),
        (&["plan", "--log", "info", "a/b"], 64, &["unexpected argument '--log'"]),
        (&["plugin", "inspect", "absent.wasm"], 1, &["absent.wasm", "No such file"]),
        (&["plugin", "grant", "text.wasm"], 1, &["text.wasm", "component"]),
        (&["plugin", "list", "--kubeconfig", "bad.kubeconfig"], 1, &["bad.kubeconfig"]),
        (&["run", "--kubeconfig", "bad.kubeconfig", "--plugins", "absent"], 1, &["bad.kubeconfig"]),
    ];
    for (arguments, code, texts) in rows {
        let output = here(arguments);
        fails(&output, code, texts);
    }
}

#[test]
fn a_missing_plugin_directory_is_named_with_the_option() {
    let cluster = LocalClusterProcess::start_api_only().unwrap();
    let kubeconfig = cluster.kubeconfig().to_str().unwrap();
    let output =
        run(cluster.directory(), &["run", "--kubeconfig", kubeconfig, "--plugins", "absent"]);
    fails(&output, 1, &["absent", "--plugins"]);
}

#[test]
fn doctor_reports_what_is_missing_and_how_to_install_it() {
    let folder = tempfile::tempdir().unwrap();
    let doctor = |path: Option<&Path>| {
        let mut command = Command::new(tholepin().unwrap());
        command.args(["doctor", "--json"]).current_dir(folder.path());
        command.envs(path.map(|path| ("PATH", path)));
        let output = command.env("XDG_CACHE_HOME", folder.path()).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), report)
    };
    let of = |report: &Value, check: &str| {
        let findings = report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("no {check} in {report:#}")).clone()
    };
    let (code, report) = doctor(None);
    assert_eq!((code, &report["ok"]), (Some(0), &json!(true)), "{report:#}");
    assert_eq!(of(&report, "containers")["verdict"], "good");
    assert_eq!(of(&report, "image redis:7*")["verdict"], "good");

    // A PATH without anything: no redis-server, which is bad; no cargo, which is only a warning.
    let (code, report) = doctor(Some(folder.path()));
    assert_eq!((code, &report["ok"]), (Some(1), &json!(false)), "{report:#}");
    assert_eq!(of(&report, "containers")["verdict"], "good");
    for (check, verdict, seen, advice) in [
        ("image redis:7*", "bad", "redis-server", "./setup"),
        ("cargo", "warning", "not on PATH", "rustup"),
        ("kubectl", "warning", "not on PATH", "1.27"),
    ] {
        let finding = of(&report, check);
        assert_eq!(finding["verdict"], verdict, "{finding}");
        assert!(finding["seen"].as_str().unwrap().contains(seen), "{finding}");
        assert!(finding["advice"].as_str().unwrap().contains(advice), "{finding}");
    }
}

/// Returns the words that bash completes at the end of this line, sorted; options only after a `-`.
fn completed(folder: &Path, admin_file: &Path, line: &[&str]) -> Vec<String> {
    let script = folder.join("tholepin.bash");
    fs::write(&script, stdout(&run(folder, &["completions", "bash"]))).unwrap();
    let program = tholepin().unwrap();
    let path = format!("{}:{}", program.parent().unwrap().display(), env::var("PATH").unwrap());
    // The arguments that bash passes: the command, the typed word, and the previous word.
    let typed = "source \"$1\"; shift; COMP_WORDS=(tholepin \"$@\"); COMP_CWORD=$#; \
                 _clap_complete_tholepin tholepin \"${!#}\" x; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["--noprofile", "--norc", "-c", typed, "bash"]).arg(&script).args(line);
    let output = bash.env("PATH", path).env("THOLEPIN_ADMIN_FILE", admin_file).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line:?}");
    let mut texts: Vec<_> = stdout(&output).lines().map(|text| text.trim().to_owned()).collect();
    let is_option = |text: &str| text.starts_with('-');
    let wants_option = line.last().is_some_and(|text| is_option(text));
    texts.retain(|text| !text.is_empty() && is_option(text) == wants_option);
    texts.sort();
    texts
}

#[test]
fn completions_know_every_subcommand_and_work_without_a_host() {
    let folder = tempfile::tempdir().unwrap();
    let completed = |line: &[&str]| completed(folder.path(), &folder.path().join("absent"), line);
    assert_eq!(completed(&["plugin", "w"]), ["watch"]);
    assert_eq!(completed(&["calls", "--wr"]), ["--writes"]);
    let commands = completed(&[""]);
    for text in ["calls", "doctor", "local", "plan", "status"] {
        assert!(commands.contains(&text.to_owned()), "no {text} in {commands:?}");
    }
    assert!(!commands.contains(&"container".to_owned()), "it is not for people");
    assert_eq!(completed(&["plugin", "history", ""]), Vec::<String>::new());
    for shell in ["zsh", "fish"] {
        let script = stdout(&run(folder.path(), &["completions", shell]));
        assert!(script.contains("THOLEPIN_COMPLETE"), "{shell}: {script}");
    }
}

#[tokio::test]
async fn completions_know_the_plugins_and_objects_of_the_running_host() {
    let component = guests::config_maker("Hello").unwrap();
    let env = HostEnvironment::with(&[("config-maker", &component)], "completed").await;
    env.apply(&greeting("completed", "morning", "world"));
    env.apply(&greeting("completed", "evening", "world"));
    for name in ["morning", "evening"] {
        env.until_contains(&CONFIG_MAP, ("completed", name), "/data/greeting", "Hello, world")
            .await;
    }
    let folder = tempfile::tempdir().unwrap();
    let completed = |line: &[&str]| completed(folder.path(), &env.cluster.admin_file(), line);
    for command in ["history", "rollback"] {
        assert_eq!(completed(&["plugin", command, "con"]), ["config-maker"], "{command}");
    }
    let both = ["greeting/evening", "greeting/morning"];
    for command in ["status", "plan", "calls"] {
        assert_eq!(completed(&[command, "-n", "completed", ""]), both, "{command}");
        let one = completed(&[command, "--namespace=completed", "greeting/m"]);
        assert_eq!(one, ["greeting/morning"], "{command}");
        let none = completed(&[command, "greet"]);
        assert_eq!(none, Vec::<String>::new(), "{command}: they are in another namespace");
    }
}
