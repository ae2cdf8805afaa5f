//! The commands that errors, conditions, help texts and the READMEs tell users to run work unchanged.
//!
//! The texts are found in the sources: everything between backticks that begins with `tholepin` or `kubectl`.
//! Tests and comments are ignored, except doc comments that are help texts.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use tests::{cluster::LocalClusterProcess, kubectl::Kubectl, process::tholepin};

/// The folders and files with texts for users, relative to the root of the tree.
const TEXTS: &[&str] =
    &["host", "plugins/redis-cluster", "plugins/types", "README.md", "plugins/README.md"];
/// Sources whose doc comments are help texts.
const HELP_TEXTS: &[&str] = &["host/src/cli.rs", "host/src/cli/report.rs"];

/// Each kubectl command as it is in the sources, and as a user runs it for the objects of [`objects`]; empty for a
/// command that is only mentioned.
const KUBECTL: &[(&str, &str)] = &[
    (
        "kubectl --namespace {namespace} create secret generic {secret} --from-literal={key}=PASSWORD \
         --dry-run=client -o yaml | kubectl apply --server-side -f -",
        "kubectl --namespace default create secret generic s --from-literal=password=PASSWORD \
         --dry-run=client -o yaml | kubectl apply --server-side -f -",
    ),
    (
        "kubectl annotate rediscluster demo tholepin.dev/paused=true",
        "kubectl annotate rediscluster demo tholepin.dev/paused=true",
    ),
    (
        "kubectl annotate {kind} {name}{namespace} {PAUSED}-",
        "kubectl annotate rediscluster demo --namespace default tholepin.dev/paused-",
    ),
    ("kubectl api-resources", "kubectl api-resources"),
    // The user completes these.
    ("kubectl apply --server-side", ""),
    ("kubectl apply --server-side --force-conflicts", ""),
    ("kubectl apply --server-side -f", ""),
    ("kubectl apply", ""),
    ("kubectl patch", ""),
    // The example of `plugin new` and its kind.
    ("kubectl apply -f example.yaml", ""),
    ("kubectl delete banner home", ""),
    ("kubectl explain banner.spec", ""),
    // These are not supported by the embedded API server.
    ("kubectl edit", ""),
    ("kubectl create configmap", ""),
    ("kubectl describe crd {}", "kubectl describe crd redisclusters.redis.tholepin.dev"),
    ("kubectl describe pod {pod}", "kubectl describe pod demo-0"),
    ("kubectl explain rediscluster.spec", "kubectl explain rediscluster.spec"),
    ("kubectl explain rediscluster.spec.settings", "kubectl explain rediscluster.spec.settings"),
    ("kubectl get plugins", "kubectl get plugins"),
    ("kubectl get pods --all-namespaces -o wide", "kubectl get pods --all-namespaces -o wide"),
    // No node of this test runs Pods.
    ("kubectl logs {pod}", ""),
    (
        "kubectl patch --namespace {} {} {} --type merge --patch '{owner}'",
        r#"kubectl patch --namespace default configmap free --type merge --patch '{"metadata":{"ownerReferences":[{"apiVersion":"redis.tholepin.dev/v1alpha1","blockOwnerDeletion":true,"controller":true,"kind":"RedisCluster","name":"demo","uid":"u"}]}}'"#,
    ),
];

/// Returns the objects to which the commands of [`KUBECTL`] refer.
fn objects() -> String {
    let labelled = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}});
    let mut pod = labelled("Pod", "demo-0");
    pod["spec"] = json!({"containers": [{"name": "c", "image": "redis:7.0"}]});
    let mut cluster = labelled("RedisCluster", "demo");
    cluster["apiVersion"] = json!("redis.tholepin.dev/v1alpha1");
    cluster["spec"] = json!({"shards": 1, "replicasPerShard": 0, "image": "redis:7.0"});
    [pod, cluster, labelled("ConfigMap", "free")].map(|object| object.to_string()).join("\n---\n")
}

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Collects the files below a path that contain texts for users.
fn files(path: &Path, found: &mut Vec<PathBuf>) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_test = name == "tests" || name.ends_with("tests.rs") || name == "examples";
    if path.is_dir() && !is_test {
        fs::read_dir(path).unwrap().for_each(|entry| files(&entry.unwrap().path(), found));
    } else if !is_test && (name.ends_with(".rs") || name.ends_with(".md")) {
        found.push(path.to_owned());
    }
}

/// Returns the texts of a file, with the continued lines of string literals joined.
fn texts(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    if path.extension().is_some_and(|extension| extension == "md") {
        return text;
    }
    let is_help = HELP_TEXTS.iter().any(|help| path.ends_with(help));
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut joined = String::new();
    for line in code.lines().map(str::trim_start) {
        match line.strip_prefix("///") {
            Some(help) if is_help => joined.push_str(help),
            _ if line.starts_with("//") => {}
            _ => match line.strip_suffix('\\') {
                Some(continued) => joined.push_str(continued),
                None => joined.extend([line, "\n"]),
            },
        }
    }
    joined
}

/// Returns the commands of a program in the texts, including those of the examples in the READMEs.
fn commands(program: &str) -> BTreeSet<String> {
    let mut all = Vec::new();
    TEXTS.iter().for_each(|place| files(&tree().join(place), &mut all));
    let mut found = BTreeSet::new();
    for path in all {
        let text = texts(&path);
        let begin = format!("`{program} ");
        let quoted = text.split(&begin).skip(1);
        let quoted = quoted.filter_map(|rest| rest.split('`').next());
        let normalized = |command: &str| command.split_whitespace().collect::<Vec<_>>().join(" ");
        found.extend(quoted.map(|command| format!("{program} {}", normalized(command))));
        // The kubectl commands of `plugins/README.md` are run by `transcripts`.
        if path.ends_with("README.md") && program == "tholepin" {
            let typed = text.lines().filter_map(|line| line.strip_prefix("    "));
            let typed = typed.filter(|line| line.starts_with(&format!("{program} ")));
            found.extend(typed.filter_map(|line| line.split('#').next()).map(normalized));
        }
    }
    found
}

/// Splits `tholepin plugin new NAME | build` into its commands, with placeholders filled in.
fn single(command: &str) -> Vec<Vec<String>> {
    let own = command.split(" | kubectl").next().unwrap_or_default();
    let mut parts = own.split(" | ");
    let first = parts.next().unwrap_or_default();
    let rest = parts.map(|part| format!("tholepin plugin {part}"));
    let all = std::iter::once(first.to_owned()).chain(rest);
    all.map(|command| command.split(' ').skip(1).map(filled).collect()).collect()
}

/// Fills in an argument that is a placeholder.
fn filled(placeholder: &str) -> String {
    let placeholder = placeholder.trim_matches(['[', ']']);
    match (placeholder.find('{'), placeholder.rfind('}')) {
        (Some(from), Some(to)) => format!("{}p{}", &placeholder[..from], &placeholder[to + 1..]),
        _ => placeholder.to_lowercase(),
    }
}

#[test]
fn every_tholepin_command_in_a_text_exists() {
    let named = commands("tholepin");
    assert!(30 < named.len(), "the texts are not found: {named:?}");
    let mut wrong = Vec::new();
    for command in &named {
        for normalized in single(command) {
            // With `--help` a command is parsed and not run; a command that is only mentioned may lack arguments.
            let mut program = Command::new(tholepin().unwrap());
            let output = program.args(&normalized).arg("--help").output().unwrap();
            if !output.status.success() {
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                wrong.push(format!("{command} ({}): {stderr}", normalized.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kubectl_command_in_a_text_works() {
    let named = commands("kubectl");
    let known: BTreeSet<String> =
        KUBECTL.iter().map(|(template, _)| (*template).to_owned()).collect();
    let (new, unused) = (named.difference(&known), known.difference(&named));
    let apart: Vec<_> = new.chain(unused).collect();
    assert!(apart.is_empty(), "the texts and the table of this test differ: {apart:#?}");

    let cluster = LocalClusterProcess::start_api_only().unwrap();
    let kubectl = cluster.kubectl().unwrap();
    let definitions = Command::new(tholepin().unwrap()).arg("crds").output().unwrap();
    let definitions = String::from_utf8(definitions.stdout).unwrap();
    kubectl.run_with(&["apply", "--server-side", "-f", "-"], &definitions).unwrap();
    let redis = tree().join("crds/redisclusters.redis.tholepin.dev.yaml");
    kubectl.run(&["apply", "--server-side", "-f", redis.to_str().unwrap()]).unwrap();
    kubectl.run_with(&["apply", "--server-side", "-f", "-"], &objects()).unwrap();

    let mut wrong = Vec::new();
    for (_, command) in KUBECTL.iter().filter(|(_, command)| !command.is_empty()) {
        if let Err(error) = kubectl_as_typed(&kubectl, command) {
            wrong.push(format!("{command}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs a command unchanged in a shell.
fn kubectl_as_typed(kubectl: &Kubectl, command: &str) -> Result<(), String> {
    let output = kubectl.shell(command).map_err(|error| error.to_string())?;
    let stderr = || String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or_else(stderr)
}

#[test]
fn every_annotation_and_file_in_a_text_exists() {
    let mut all = Vec::new();
    TEXTS.iter().for_each(|place| files(&tree().join(place), &mut all));
    files(&tree().join("wit/schema"), &mut all);
    let sources: Vec<(PathBuf, String)> =
        all.into_iter().map(|path| (path.clone(), texts(&path))).collect();
    let mut wrong = Vec::new();
    for (path, text) in &sources {
        for rest in text.split("`tholepin.dev/").skip(1) {
            let is_word = |c: char| c.is_ascii_lowercase() || c == '-';
            let name = rest.split(|c| !is_word(c)).next().unwrap_or_default();
            let name = name.trim_end_matches('-');
            let literal = format!("\"tholepin.dev/{name}\"");
            if !name.is_empty() && !sources.iter().any(|(_, text)| text.contains(&literal)) {
                wrong.push(format!("{}: no code reads `tholepin.dev/{name}`", path.display()));
            }
        }
        let folders = ["crds/", "examples/", "host/", "plugins/", "wit/"];
        let named = text.split('`').skip(1).step_by(2);
        let in_tree = named.filter(|name| folders.iter().any(|folder| name.starts_with(folder)));
        let is_path = |name: &&str| !name.contains(char::is_whitespace) && !name.contains('{');
        let is_readme = path.extension().is_some_and(|extension| extension == "md");
        for name in in_tree.filter(is_path) {
            if !is_readme {
                wrong.push(format!(
                    "{}: `{name}` exists only in the source tree, which users do not have",
                    path.display()
                ));
            } else if name.ends_with(|c: char| c.is_ascii_alphanumeric())
                && !tree().join(name).exists()
            {
                wrong.push(format!("{}: there is no `{name}`", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
