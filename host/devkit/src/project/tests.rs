//! Tests that the files of a new project are those of this tree under the requested names.

use super::*;

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(tree().join(path)).unwrap()
}

/// Returns the files under a folder of this tree, without dot files, by their paths relative to `start`.
fn files_of(folder: &str, start: &str) -> BTreeMap<String, String> {
    let (mut open, mut files) = (vec![tree().join(folder)], BTreeMap::new());
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with('.') {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else {
                let name =
                    path.strip_prefix(tree().join(start)).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    files
}

fn files(name: &str, kind: Option<&str>) -> BTreeMap<String, String> {
    PluginProjectNames::new(name, kind, DEFAULT_GROUP).unwrap().files()
}

#[test]
fn the_embedded_files_are_those_of_the_tree() {
    let embedded = [files_of("plugins/sdk", ""), files_of("wit", "")];
    let embedded: BTreeMap<_, _> = embedded.into_iter().flatten().collect();
    let written = files("my-runbook", None);
    let written: BTreeMap<_, _> = written
        .iter()
        .filter_map(|(path, text)| Some((path.strip_prefix("tholepin/")?.to_owned(), text.clone())))
        .filter(|(path, _)| path != "Cargo.toml")
        .collect();
    assert!(
        embedded.contains_key("wit/world.wit") && embedded.contains_key("plugins/sdk/src/lib.rs")
    );
    assert_eq!(written, embedded);
}

#[test]
fn under_the_name_of_the_sample_the_project_is_the_sample() {
    let written = files("site-config", None);
    for (path, text) in files_of("plugins/samples/site-config", "plugins/samples/site-config") {
        if path != "Cargo.toml" {
            assert_eq!(written.get(&path), Some(&text), "{path}");
        }
    }
}

#[test]
fn no_name_of_the_sample_is_left() {
    let project = PluginProjectNames::new("my-runbook", Some("Banner"), "team.example").unwrap();
    let files = project.files();
    for path in
        ["my-runbook.yaml", "example.yaml", "src/plan.rs", "tests/reconcile.rs", ".gitignore"]
    {
        assert!(files.contains_key(path), "{path} is missing");
    }
    for (path, text) in files.iter().filter(|(path, _)| !path.starts_with("tholepin/")) {
        for left in ["site-config", "site_config", "SiteConfig", "siteconfig", DEFAULT_GROUP] {
            assert!(!text.contains(left) && !path.contains(left), "{left} in {path}");
        }
    }
    assert!(files["src/kind.rs"].contains("\"banners.team.example\""));
    assert!(files["example.yaml"].contains("kind: Banner"));
}

/// A project contains neither a path of the machine that built this program nor a URL. The exception is the lock
/// file, which names cargo's registry.
#[test]
fn a_project_contains_no_path_and_no_url() {
    let home = env!("CARGO_MANIFEST_DIR").split("/host/").next().unwrap();
    for (path, text) in files("my-runbook", None) {
        assert!(!text.contains(home), "{path} names {home}");
        let lines = text.lines().filter(|line| !line.starts_with("source = \"registry+"));
        for line in lines {
            assert!(!line.contains("://") && !line.contains("git ="), "{path}: {line}");
        }
    }
}

/// The settings that the SDK inherits with `workspace = true` must be the same in a project as in this tree.
#[test]
fn the_sdk_is_built_as_in_this_tree() {
    let root = read("Cargo.toml");
    let workspace = include_str!("../../template/tholepin.toml");
    let settings =
        workspace.lines().filter(|line| line.contains(" = ") && !line.starts_with("members"));
    for line in settings {
        assert!(root.lines().any(|known| known == line), "not in this tree's Cargo.toml: {line}");
    }
    for manifest in ["plugins/sdk/Cargo.toml", "wit/schema/Cargo.toml"] {
        let text = read(manifest);
        let inherited = text.lines().filter_map(|line| {
            let name = line.split([' ', '.', '=']).next()?;
            line.contains("workspace = true").then_some(name)
        });
        for name in inherited.filter(|name| !name.is_empty() && *name != "workspace") {
            assert!(
                workspace.lines().any(|line| line.starts_with(&format!("{name} = "))),
                "{manifest}: {name}"
            );
        }
    }
    let (plugin, template) = ("[profile.plugin]\n", include_str!("../../template/Cargo.toml"));
    let profile = |text: &str| text.split(plugin).nth(1).map(|text| text.trim_end().to_owned());
    assert_eq!(profile(template), profile(&root), "the profile is the one of this tree");
    assert!(profile(template).is_some());
    for needed in DIRECT_DEPENDENCIES {
        assert!(template.contains(&format!("\n{needed} = ")), "{needed} is not in the template");
        assert!(read("plugins/samples/site-config/Cargo.toml").contains(&format!("\n{needed}")));
    }
}

#[test]
fn an_invalid_name_is_refused_with_an_explanation() {
    let long = "a".repeat(64);
    let rows = [
        ("", "lower-case"),
        ("My_Plugin", "lower-case"),
        ("-a", "either end"),
        ("a.b", "lower-case"),
        (&long, "1 to 63"),
        ("1st", "begin with a letter"),
        ("crate", "reserved by Rust"),
        ("serde-json", "every plugin uses"),
        ("tholepin-sdk", "every plugin uses"),
    ];
    for (name, part) in rows {
        let error = PluginProjectNames::new(name, None, DEFAULT_GROUP).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(name), "{name}: {error}");
    }
    for kind in ["banner", "My-Kind", "", "Ünder"] {
        let error = PluginProjectNames::new("a", Some(kind), DEFAULT_GROUP).unwrap_err();
        assert!(matches!(error, NewProjectError::Kind(_)), "{kind}: {error}");
    }
    for group in ["", "nodots", "Upper.example", "a..b"] {
        let error = PluginProjectNames::new("a", None, group).unwrap_err();
        assert!(matches!(error, NewProjectError::Group(_)), "{group}: {error}");
    }
}

#[test]
fn no_file_is_overwritten() {
    let home = tempfile::tempdir().unwrap();
    let project = PluginProjectNames::new("my-runbook", None, DEFAULT_GROUP).unwrap();
    let (new, empty, file) =
        (home.path().join("a/b"), home.path().join("empty"), home.path().join("file"));
    fs::create_dir(&empty).unwrap();
    fs::write(&file, "mine").unwrap();
    for directory in [&new, &empty] {
        project.write(directory).unwrap();
        assert_eq!(
            fs::read_to_string(directory.join("example.yaml")).unwrap(),
            project.files()["example.yaml"]
        );
        let again = project.write(directory).unwrap_err();
        assert!(matches!(again, NewProjectError::NotEmpty(_)), "{again}");
        assert!(again.to_string().contains("--directory"), "{again}");
    }
    assert!(matches!(project.write(&file).unwrap_err(), NewProjectError::NoDirectory(_)));
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn the_sdk_of_every_project_has_the_time_of_this_program() {
    let home = tempfile::tempdir().unwrap();
    let project = PluginProjectNames::new("banner", None, DEFAULT_GROUP).unwrap();
    project.write(home.path()).unwrap();
    let modified =
        |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap();
    let program = modified(&env::current_exe().unwrap());
    assert_eq!(modified(&home.path().join("tholepin/wit/world.wit")), program);
    assert!(program < modified(&home.path().join("src/kind.rs")), "the project's own are new");
}
