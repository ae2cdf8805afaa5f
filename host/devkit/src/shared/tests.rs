//! Tests of which projects share a target directory, and of which directories are kept.

use serde_json::json;

use super::*;
use crate::build::ProjectBuilder;

fn metadata() -> Value {
    json!({
        "workspace_root": "/p",
        "target_directory": "/p/target",
        "build_directory": "/p/target",
        "packages": [{
            "name": "my-plugin",
            "manifest_path": "/p/Cargo.toml",
            "targets": [
                {"name": "reconcile", "crate_types": ["bin"]},
                {"name": "my_plugin", "crate_types": ["cdylib", "rlib"]},
            ],
            "dependencies": [
                {"name": "serde", "path": null},
                {"name": "tholepin-sdk", "path": "/p/tholepin/plugins/sdk"},
                {"name": "common", "path": "/common"},
            ],
        }],
    })
}

#[test]
fn a_project_of_one_package_in_default_directories_shares() {
    let can_share = |change: fn(&mut Value)| {
        let mut metadata = metadata();
        change(&mut metadata);
        SharedTargetProject::of(&metadata, Path::new("/p/Cargo.toml")).is_some()
    };
    assert!(can_share(|_| {}));
    assert!(can_share(|metadata| metadata["build_directory"] = Value::Null), "an older cargo");
    let changes: [fn(&mut Value); 6] = [
        |metadata| metadata["target_directory"] = json!("/elsewhere"),
        |metadata| metadata["build_directory"] = json!("/elsewhere"),
        |metadata| metadata["workspace_root"] = json!("/"),
        |metadata| metadata["packages"] = json!([metadata["packages"][0], metadata["packages"][0]]),
        |metadata| metadata["packages"][0]["targets"][1]["name"] = json!("other"),
        |metadata| metadata["packages"][0]["dependencies"][2]["path"] = json!("/p/plan"),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        assert!(!can_share(change), "row {index}");
    }
}

#[test]
fn a_fingerprint_belongs_to_one_package() {
    for (fingerprint, expected) in [
        ("my-plugin-0123456789abcdef", true),
        ("my_plugin-0123456789abcdef", true),
        ("my-plugin-two-0123456789abcdef", false),
        ("my-0123456789abcdef", false),
    ] {
        assert_eq!(is_fingerprint_of(fingerprint, "my-plugin"), expected, "{fingerprint}");
    }
}

#[test]
fn another_sdk_has_another_directory() {
    let home = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = home.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let digest_of = |folder: &str| digest(&home.path().join(folder)).unwrap();
    for folder in ["a", "b", "c"] {
        write(&format!("{folder}/src/lib.rs"), "text");
    }
    write("b/target/built", "anything");
    write("c/src/more.rs", "");
    assert_eq!(digest_of("a"), digest_of("b"));
    assert_ne!(digest_of("a"), digest_of("c"));
}

#[test]
fn the_least_recently_used_directory_is_removed_unless_it_is_in_use() {
    let home = tempfile::tempdir().unwrap();
    let lock = |name: &str| open_lock_file(&home.path().join(format!("{name}.lock"))).unwrap();
    for (name, age_s) in [("used", 50), ("old", 40), ("b", 30), ("a", 20), ("new", 60)] {
        fs::create_dir(home.path().join(name)).unwrap();
        lock(name).set_modified(SystemTime::now() - Duration::from_secs(age_s)).unwrap();
    }
    let used = lock("used");
    used.try_lock_shared().unwrap();
    shrink(home.path(), "new").unwrap();
    let left = ["used", "old", "b", "a", "new"].map(|name| home.path().join(name).exists());
    assert_eq!(left, [true, false, true, true, true]);
}

/// Writes a project without dependencies whose component contains this text.
fn project(directory: &Path, text: &str) {
    fs::create_dir_all(directory.join("src")).unwrap();
    let manifest = "[package]\nname = \"twin\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n\
                    [workspace]\n[profile.plugin]\ninherits = \"release\"\n";
    fs::write(directory.join("Cargo.toml"), manifest).unwrap();
    let source = format!(
        "#[unsafe(link_section = \"text\")]\n#[used]\npub static TEXT: [u8; {}] = *b{text:?};\n",
        text.len()
    );
    let file = directory.join("src/lib.rs");
    fs::write(&file, source).unwrap();
    // Older than any build result, so that cargo cannot notice the other project's source by its time.
    let hour = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(file).unwrap().set_modified(hour).unwrap();
}

#[tokio::test]
async fn two_projects_of_one_name_share_and_get_their_own_components() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().canonicalize().unwrap().join(name);
    project(&path("one"), "text-of-one");
    project(&path("two"), "text-of-two");
    let builder = ProjectBuilder::new(&path("cache"), None);
    let (one, two) = (path("one"), path("two"));
    let (first, second) = tokio::join!(builder.build(&one), builder.build(&two));
    let again = builder.build(&one).await;
    let has = |file: &Path, text: &str| {
        let bytes = fs::read(file).unwrap();
        bytes.windows(text.len()).any(|part| part == text.as_bytes())
    };
    for (built, project, other) in
        [(first, "one", "two"), (second, "two", "one"), (again, "one", "two")]
    {
        let component = built.unwrap().component;
        assert!(component.starts_with(path(project)), "{}", component.display());
        assert!(has(&component, &format!("text-of-{project}")), "{}", component.display());
        assert!(!has(&component, &format!("text-of-{other}")), "{}", component.display());
    }
    assert_eq!(folders(&path("cache/plugin-builds")).unwrap().len(), 1, "they share");
    assert!(!path("one/target/wasm32-wasip2").exists());
}
