//! Tests with real containers, in each kind of namespace that this machine allows this user.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use tempfile::TempDir;

use super::*;
use crate::handler_actions::{ExecTarget, HandlerAction, perform};
use crate::images::RunnableImage;
use crate::log::LogFile;
use crate::orphans;
use crate::processes::{ProcessExit, ProcessOutput, ProcessSpawner, SpawnedProcess};
use crate::rootfs::{self, ContainerHostPaths, RootfsVolumeMount};

const DEADLINE: Duration = Duration::from_secs(20);

/// The example `node`, which cargo builds for `cargo test` (but not for `cargo test --lib`).
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name("examples").join("node");
    assert!(program.exists(), "{} is missing: run `cargo test` without --lib", program.display());
    program
}

struct Fixture {
    directory: TempDir,
    processes: ProcessSpawner,
    user_namespace: bool,
}

impl Fixture {
    fn new(user_namespace: bool) -> Self {
        let (processes, _thread) = ProcessSpawner::start(program()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("files")).unwrap();
        fs::write(directory.path().join("files/hosts"), "127.23.1.1 a-0\n").unwrap();
        fs::create_dir(directory.path().join("volume")).unwrap();
        Self { directory, processes, user_namespace }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    /// Starts `argv` as the run `run`, with a writable and a read-only volume.
    async fn start(&self, run: &str, argv: &[&str]) -> SpawnedProcess {
        let image = RunnableImage::for_tests("/bin/sh");
        let mount = |target: &str, read_only| RootfsVolumeMount {
            source: self.path("volume"),
            target: target.into(),
            read_only,
            // One of the two is mounted as the subPath of a volume is.
            no_symlinks: read_only,
        };
        let mounts = [mount("/usr/local/etc/app", true), mount("/data", false)];
        let files = self.path("files");
        let workdir = Path::new("/data");
        let steps = rootfs::steps(&ContainerHostPaths::read(), &image, &files, workdir, &mounts);
        let root = self.path(run).join("root");
        fs::create_dir_all(&root).unwrap();
        let process = ProcessSpec {
            argv: argv.iter().map(|argument| (*argument).to_owned()).collect(),
            env: BTreeMap::from([("PATH".into(), rootfs::default_path())]),
            workdir: workdir.into(),
        };
        let spec = ContainerProcessSpec {
            parent_pid: i32::try_from(std::process::id()).unwrap(),
            error_file: self.path(run).join("error"),
            task: ContainerLauncherCommand::Start(ContainerStartSpec {
                user_namespace: self.user_namespace,
                hostname: "a-0".into(),
                root,
                steps,
                process,
            }),
        };
        let spec_file = self.path(run).join("spec.json");
        spec.write(&spec_file).unwrap();
        let log = LogFile::open(&self.path("log")).unwrap();
        self.processes.launch(spec_file, ProcessOutput::Log(log)).await.unwrap()
    }

    async fn exec(&self, launched: &SpawnedProcess, script: &str) -> Result<(), String> {
        let inside = ExecTarget {
            processes: self.processes.clone(),
            pid: launched.pid,
            user_namespace: self.user_namespace,
            env: BTreeMap::from([("PATH".into(), rootfs::default_path())]),
            workdir: "/data".into(),
            directory: self.path(""),
        };
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let performed = perform(&HandlerAction::Exec(argv), &inside, "exec", DEADLINE).await;
        performed.map_err(|error| error_chain(&error))
    }

    /// Waits until the program runs. Before that the process is not in the namespaces of the container.
    async fn until_running(&self, launched: &SpawnedProcess) {
        eventually("the program runs", async || {
            assert!(orphans::start_ticks(launched.pid).is_some(), "{}", self.errors());
            self.path("volume").join("ready").exists()
        })
        .await;
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.path("run-1/error")).unwrap_or_default()
    }
}

/// Polls `condition` until it is true, for at most [`DEADLINE`].
async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let polling = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, polling).await;
    assert!(in_time.is_ok(), "{what}: not within {DEADLINE:?}");
}

async fn end(launched: SpawnedProcess) -> ProcessExit {
    tokio::time::timeout(DEADLINE, launched.exit).await.unwrap().unwrap()
}

/// Returns the kinds of namespace to test: root can use either one, any other user needs a user namespace.
fn kinds() -> &'static [bool] {
    if geteuid().is_root() { &[false, true] } else { &[true] }
}

#[tokio::test]
async fn the_output_of_a_failed_program_comes_with_its_end() {
    let fixture = Fixture::new(!geteuid().is_root());
    let script = "echo starting; echo the reason >&2; exit 3";
    let exit = end(fixture.start("run-1", &["sh", "-c", script]).await).await;
    assert_eq!(exit.code, 3);
    for line in ["starting\n", "the reason\n"] {
        assert!(exit.output.contains(line), "{exit:?}");
    }
}

#[tokio::test]
async fn a_container_sees_its_own_root() {
    const SCRIPT: &str = "set -e
        pwd; hostname; cat /etc/hosts; id -u
        echo kept > /data/file; cat /usr/local/etc/app/file
        echo x > /tmp/x
        if echo x > /usr/local/etc/app/file2; then echo volume is writable; fi
        if echo x > /usr/bin/tholepin-test; then echo machine is writable; fi
        if [ -e /etc/shadow ] || [ -d /.host ]; then echo machine is visible; fi
        echo x > /dev/null; [ -d /proc/self ]; exit 7";
    for user_namespace in kinds() {
        let fixture = Fixture::new(*user_namespace);
        let exit = end(fixture.start("run-1", &["sh", "-c", SCRIPT]).await).await;
        let text = || fs::read_to_string(fixture.path("log")).unwrap_or_default();
        let details = format!("{exit:?} {}", fixture.errors());
        eventually(&details, async || text().contains("F kept")).await;
        let text = text();
        let lines: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once(" stdout F "))
            .map(|(_, text)| text)
            .collect();
        assert_eq!(lines, ["/data", "a-0", "127.23.1.1 a-0", "0", "kept"], "{text}");
        assert_eq!((exit.code, exit.signal), (7, None), "{text}");
        assert_eq!(fs::read_to_string(fixture.path("volume").join("file")).unwrap(), "kept\n");
        assert!(!Path::new("/usr/bin/tholepin-test").exists());
    }
}

#[tokio::test]
async fn a_missing_program_is_named_in_the_error_file() {
    for user_namespace in kinds() {
        let fixture = Fixture::new(*user_namespace);
        let exit = end(fixture.start("run-1", &["no-such-program"]).await).await;
        assert_eq!(exit.code, START_FAILED_EXIT_CODE);
        assert!(fixture.errors().contains("`no-such-program`"), "{}", fixture.errors());
    }
}

#[tokio::test]
async fn a_probe_runs_inside_and_a_kill_ends_the_session() {
    for user_namespace in kinds() {
        let fixture = Fixture::new(*user_namespace);
        let script = "sleep 600 & touch /data/ready; wait";
        let launched = fixture.start("run-1", &["sh", "-c", script]).await;
        fixture.until_running(&launched).await;
        assert_eq!(fixture.exec(&launched, "test -e ready && test ! -e /.host").await, Ok(()));
        let error = fixture.exec(&launched, "echo not today; exit 3").await.unwrap_err();
        assert!(error.contains("exited with 3: not today"), "{error}");
        assert_eq!(fixture.exec(&launched, "test \"$(hostname)\" = a-0").await, Ok(()));
        let long = "head -c 10000 /dev/zero | tr '\\0' x; exit 4";
        let error = fixture.exec(&launched, long).await.unwrap_err();
        let output = error.rsplit(": ").next().unwrap();
        assert_eq!(output.len(), 4 * 1024, "the captured output is bounded");
        orphans::kill_session(launched.pid);
        let exit = end(launched).await;
        assert_eq!((exit.code, exit.signal), (137, Some(9)));
        let runs =
            [format!("{}/run-1", fixture.directory.path().file_name().unwrap().to_str().unwrap())];
        // A killed child process may need a moment to end.
        let all_ended = async || orphans::processes_of(&runs).is_empty();
        eventually("the child is killed with its session", all_ended).await;
    }
}

#[tokio::test]
async fn a_process_that_left_the_session_is_found_by_its_root() {
    for user_namespace in kinds() {
        let fixture = Fixture::new(*user_namespace);
        let script = "setsid sleep 600 & touch /data/ready; wait";
        let launched = fixture.start("run-1", &["sh", "-c", script]).await;
        fixture.until_running(&launched).await;
        // Waits until the process has left the session.
        let left = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f; echo; done | grep -q '^sleep 600'";
        let has_left = async || fixture.exec(&launched, left).await.is_ok();
        eventually("the process leaves the session", has_left).await;
        orphans::kill_session(launched.pid);
        end(launched).await;
        let runs =
            [format!("{}/run-1", fixture.directory.path().file_name().unwrap().to_str().unwrap())];
        assert_eq!(orphans::end_runs(&runs).unwrap(), 1);
    }
}

#[test]
fn an_error_is_formatted_with_its_cause() {
    let error = ContainerError::system("start `nosuch`")(std::io::Error::from_raw_os_error(2));
    assert_eq!(error_chain(&error), "start `nosuch`: No such file or directory (os error 2)");
}

#[test]
fn a_missing_specification_is_named() {
    let error = container_main(Path::new("/nonexistent/spec.json")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/spec.json"), "{error}");
}
