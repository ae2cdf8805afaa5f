//! The documents of the contract, one of each kind in `tests/contract/VERSION/`: what both sides make of a field and
//! a word that they do not know.
//!
//! A document from the host to a plugin is read without them and loses nothing else. One from a plugin to the host is
//! refused with an error that names them. The test prints both tables (`cargo test --test contract -- --nocapture`).
#![cfg(test)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tests::selection::print_line;
use tholepin_schema::{
    action::{Action, ActionResult},
    fact::{Fact, WaitOutcome},
    instance::Instance,
    manifest::Manifest,
    probe::{NetworkProbeOutcome, PodPortProbe},
    reconcile::{ReconcileFailure, ReconcileOutcome, ReconcileRequest, Violation},
    snapshot::Snapshot,
};

/// One kind of document.
struct Golden {
    file: &'static str,
    /// Whether the host writes it and a plugin reads it.
    is_for_plugins: bool,
    /// Reads it with its type, and writes it again.
    read: fn(&Value) -> Result<Value, String>,
    /// Where it has a word or a case of an enum.
    words: &'static [&'static str],
    /// Objects whose keys are no fields: maps, and documents of Kubernetes.
    free: &'static [&'static str],
}

fn read<T: DeserializeOwned + Serialize>(value: &Value) -> Result<Value, String> {
    let read: T = serde_json::from_str(&value.to_string()).map_err(|error| error.to_string())?;
    serde_json::to_value(read).map_err(|error| error.to_string())
}

const GOLDENS: &[Golden] = &[
    Golden {
        file: "reconcile-request",
        is_for_plugins: true,
        read: read::<ReconcileRequest>,
        words: &[],
        free: &["/object", "/memo"],
    },
    Golden {
        file: "snapshot",
        is_for_plugins: true,
        read: read::<Snapshot>,
        words: &[
            "/view/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/role",
            "/view/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb/flags/0",
            "/members/0/answer",
            "/members/0/answer/answered/role",
            "/members/0/answer/answered/openSlots/0/direction",
            "/members/1/answer",
            "/members/1/answer/unreachable/reason",
            "/credentials/named",
        ],
        free: &["/view", "/members/0/kubernetes", "/members/0/answer/answered/settings"],
    },
    Golden {
        file: "action-results",
        is_for_plugins: true,
        read: read::<Vec<ActionResult>>,
        words: &["/0/outcome", "/1/outcome", "/2/outcome", "/3/outcome"],
        free: &[],
    },
    Golden {
        file: "wait-outcome",
        is_for_plugins: true,
        read: read::<WaitOutcome>,
        words: &[
            "",
            "/timedOut/missing/0/held",
            "/timedOut/missing/1/held",
            "/timedOut/missing/2/held",
        ],
        free: &[],
    },
    Golden {
        file: "probe-outcome",
        is_for_plugins: true,
        read: read::<NetworkProbeOutcome>,
        words: &[""],
        free: &[],
    },
    Golden {
        file: "manifest",
        is_for_plugins: false,
        read: read::<Manifest>,
        words: &["/watches/0/leads", "/watches/1/leads", "/grants/kubernetes/0/scope"],
        free: &["/reconciles/0/crd", "/parameters"],
    },
    Golden {
        file: "reconcile-outcome",
        is_for_plugins: false,
        read: read::<ReconcileOutcome>,
        words: &["/wake/0", "/wake/1", "/wake/2/fact/subject", "/wake/2/fact/op"],
        free: &["/memo", "/wake/1/change/instance", "/wake/2"],
    },
    Golden {
        file: "reconcile-failure",
        is_for_plugins: false,
        read: read::<ReconcileFailure>,
        words: &[],
        free: &[],
    },
    Golden {
        file: "violations",
        is_for_plugins: false,
        read: read::<Vec<Violation>>,
        words: &[],
        free: &[],
    },
    Golden {
        file: "instance",
        is_for_plugins: false,
        read: read::<Instance>,
        words: &[],
        free: &[],
    },
    Golden {
        file: "actions",
        is_for_plugins: false,
        read: read::<Vec<Action>>,
        words: &["/0/verb", "/1/verb", "/0/presume/facts/0/subject", "/0/presume/facts/0/op"],
        free: &["/1/args/settings"],
    },
    Golden {
        file: "fact",
        is_for_plugins: false,
        read: read::<Fact>,
        words: &["/subject", "/op"],
        free: &[],
    },
    Golden {
        file: "probe",
        is_for_plugins: false,
        read: read::<PodPortProbe>,
        words: &[],
        free: &[],
    },
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn document(golden: &Golden) -> Value {
    let path = folder("contract/0.1.0").join(format!("{}.json", golden.file));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Returns the pointers of all objects in a document.
fn objects(value: &Value, pointer: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.push(pointer.to_owned());
            for (name, value) in fields {
                objects(value, &format!("{pointer}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                objects(item, &format!("{pointer}/{index}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Returns each variant of a document with a field or a word of a later version, and what was changed. A field is
/// added to each object whose keys are fields, a word to each enum.
fn later(golden: &Golden) -> Vec<(String, Value)> {
    let document = document(golden);
    let mut pointers = Vec::new();
    objects(&document, "", &mut pointers);
    let is_field_map = |pointer: &String| {
        let inside = |free: &&str| pointer == *free || pointer.starts_with(&format!("{free}/"));
        !golden.words.contains(&pointer.as_str())
            && (!golden.free.iter().any(inside)
                || golden.free.contains(&"/view") && pointer.matches('/').count() == 2)
    };
    let mut variants = Vec::new();
    for pointer in pointers.iter().filter(|pointer| is_field_map(pointer)) {
        let mut variant = document.clone();
        variant.pointer_mut(pointer).unwrap()["laterField"] = json!({"a": [1, null]});
        variants.push((format!("a field in `{pointer}`"), variant));
    }
    for pointer in golden.words {
        let mut words = vec![json!("laterWord")];
        if document.pointer(pointer).unwrap().is_object() {
            words.push(json!({"laterWord": {"a": 1}}));
        }
        for word in words {
            let mut variant = document.clone();
            *variant.pointer_mut(pointer).unwrap() = word;
            variants.push((format!("a word at `{pointer}`"), variant));
        }
    }
    variants
}

#[test]
fn every_document_is_read_and_written_as_it_is() {
    for golden in GOLDENS {
        let document = document(golden);
        assert_eq!((golden.read)(&document), Ok(document), "{}", golden.file);
    }
    let files = fs::read_dir(folder("contract/0.1.0")).unwrap();
    let files: BTreeSet<_> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    let known = GOLDENS.iter().map(|golden| format!("{}.json", golden.file)).collect();
    assert_eq!(files, known, "each document has a row");
}

#[test]
fn a_plugin_of_today_reads_the_documents_of_a_later_host() {
    print_line("old guest, new host");
    for golden in GOLDENS.iter().filter(|golden| golden.is_for_plugins) {
        let plain = document(golden);
        let variants = later(golden);
        for (change, variant) in &variants {
            let read = (golden.read)(variant);
            let read =
                read.unwrap_or_else(|error| panic!("{} with {change}: {error}", golden.file));
            if change.starts_with("a field") {
                assert_eq!(read, plain, "{} with {change} lost something", golden.file);
            }
        }
        print_line(&format!("  {}: {} variants are read", golden.file, variants.len()));
    }
}

#[test]
fn the_host_of_today_names_what_it_does_not_know_of_a_later_plugin() {
    print_line("new guest, old host");
    for golden in GOLDENS.iter().filter(|golden| !golden.is_for_plugins) {
        let variants = later(golden);
        for (change, variant) in &variants {
            let error = (golden.read)(variant).expect_err(change);
            let named = error.contains("laterField") || error.contains("laterWord");
            assert!(named, "{} with {change}: {error}", golden.file);
        }
        print_line(&format!("  {}: {} variants are refused by name", golden.file, variants.len()));
    }
}

/// Returns the hash of the files of a folder, in the order of their names.
fn hash(folder: &Path) -> String {
    let files: BTreeMap<_, _> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect();
    let mut hash = Sha256::new();
    for (name, bytes) in files {
        hash.update(name.as_encoded_bytes());
        hash.update([0]);
        hash.update(bytes.len().to_le_bytes());
        hash.update(bytes);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the problems of the list of released folders.
fn released_faults(list: &str, packages: &Path) -> Vec<String> {
    let lines = list.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .filter_map(|line| match line.split_once(' ') {
            None => Some(format!("`{line}` is not a hash and a folder")),
            Some((_, folder)) if !packages.join(folder).is_dir() => {
                Some(format!("the released folder `{folder}` does not exist any more"))
            }
            Some((expected, folder)) if hash(&packages.join(folder)) != expected => Some(format!(
                "the released folder `{folder}` was changed; add a new version instead"
            )),
            Some(_) => None,
        })
        .collect()
}

#[test]
fn a_released_folder_does_not_change() {
    let list = fs::read_to_string(folder("../wit/RELEASED")).unwrap();
    let faults = released_faults(&list, &folder("../wit/deps"));
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn a_change_of_a_released_folder_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let package = directory.path().join("a@0.1.0");
    fs::create_dir(&package).unwrap();
    fs::write(package.join("a.wit"), "package a;").unwrap();
    let list = format!("# released\n{} a@0.1.0\n", hash(&package));
    let faults = |list: &str| released_faults(list, directory.path()).join("; ");
    assert_eq!(faults(&list), "");
    fs::write(package.join("b.wit"), "").unwrap();
    assert!(faults(&list).contains("was changed"), "a file was added");
    fs::remove_file(package.join("b.wit")).unwrap();
    fs::write(package.join("a.wit"), "package a; ").unwrap();
    assert!(faults(&list).contains("was changed"), "a file was edited");
    fs::remove_dir_all(&package).unwrap();
    assert!(faults(&list).contains("does not exist"), "the folder was removed");
    assert!(faults("x").contains("is not a hash and a folder"));
}
