//! The checks of `tholepin doctor`: from facts about a machine to findings with advice.
//!
//! The module is pure; the caller collects the facts.

use serde::Serialize;

/// The oldest minor version of kubectl 1.x that the transcripts and tests use.
const KUBECTL_MINOR_MIN: u32 = 27;
/// The limit of open files that a local host with a dozen Redis processes needs, with a margin.
const OPEN_FILES_MIN: u64 = 1024;
/// The inotify watches that a host and a `plugin watch` need, with a margin for the user's editor.
const INOTIFY_WATCHES_MIN: u64 = 1024;
/// The inotify instances that they need, with the same margin.
const INOTIFY_INSTANCES_MIN: u64 = 16;
/// The image repositories of Redis engines.
const ENGINES: &[&str] = &["redis", "valkey/valkey"];

/// The facts about a machine. The error of a `Result` says what was found instead, and how to fix it where the
/// caller knows.
#[derive(Clone, Debug)]
pub struct DoctorMachineFacts {
    /// How containers get a private root.
    pub containers: Result<String, String>,
    /// The programs that run in place of images.
    pub programs: Vec<ImageProgramCheck>,
    /// The first free address for the API server of a local host.
    pub address: Result<String, String>,
    /// The limit of open files of a process.
    pub open_files: Option<u64>,
    /// The limit of inotify watches.
    pub inotify_watches: Option<u64>,
    /// The limit of inotify instances.
    pub inotify_instances: Option<u64>,
    /// The output of `cargo --version`.
    pub cargo: Option<String>,
    /// Whether Rust can build for `wasm32-wasip2`.
    pub has_wasm_target: bool,
    /// The version that kubectl reports for itself, such as `v1.33.2`.
    pub kubectl: Option<String>,
    /// The directory of compiled code.
    pub cache: Result<String, String>,
    /// The running host of this user, or that none runs.
    pub host: Result<String, String>,
}

/// A program that runs in place of an image.
#[derive(Clone, Debug)]
pub struct ImageProgramCheck {
    /// The image, as the table of images names it.
    pub image: String,
    /// What was found, or what is missing.
    pub found: Result<String, String>,
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DoctorFindingLevel {
    /// No problem was found.
    Good,
    /// A feature that only some users need does not work.
    Warning,
    /// A feature that every user needs does not work.
    Bad,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoctorFinding {
    /// The name of the check.
    pub check: String,
    /// The severity.
    pub verdict: DoctorFindingLevel,
    /// What was found.
    pub seen: String,
    /// What to do; empty if there is nothing to do.
    pub advice: String,
}

/// Returns the findings of all checks, in the order in which a new user needs them.
#[must_use]
pub fn judge(facts: &DoctorMachineFacts) -> Vec<DoctorFinding> {
    let DoctorMachineFacts {
        containers,
        programs,
        address,
        open_files,
        inotify_watches,
        inotify_instances,
        cargo,
        has_wasm_target,
        kubectl,
        cache,
        host,
    } = facts;
    let mut findings = vec![
        check_result("containers", containers, "Pods cannot run here before this is changed"),
        check_result("address", address, "end what holds it, or name another block with --block"),
        check_result("cache", cache, "name another directory with XDG_CACHE_HOME"),
        check_limit("open files", *open_files, OPEN_FILES_MIN, "ulimit -n 4096"),
        check_limit(
            "file watches",
            *inotify_watches,
            INOTIFY_WATCHES_MIN,
            "sudo sysctl -w fs.inotify.max_user_watches=65536",
        ),
        check_limit(
            "file watchers",
            *inotify_instances,
            INOTIFY_INSTANCES_MIN,
            "sudo sysctl -w fs.inotify.max_user_instances=128",
        ),
        check_kubectl(kubectl.as_deref()),
        check_cargo(cargo.as_deref()),
        check_wasm_target(*has_wasm_target),
        match host {
            Ok(seen) => finding("host", DoctorFindingLevel::Good, seen, ""),
            Err(seen) => finding(
                "host",
                DoctorFindingLevel::Warning,
                seen,
                "remove the file, or start the host again",
            ),
        },
    ];
    findings.extend(check_programs(programs));
    findings
}

/// Checks the programs. A missing engine is a warning while another engine is found, because no user needs every
/// version.
fn check_programs(programs: &[ImageProgramCheck]) -> Vec<DoctorFinding> {
    let is_engine = |program: &ImageProgramCheck| {
        ENGINES.iter().any(|repository| program.image.starts_with(&format!("{repository}:")))
    };
    let has_engine = programs.iter().any(|program| is_engine(program) && program.found.is_ok());
    let findings = programs.iter().map(|program| {
        let check = format!("image {}", program.image);
        match &program.found {
            Ok(found) => finding(&check, DoctorFindingLevel::Good, found, ""),
            Err(missing) if is_engine(program) && !has_engine => {
                let advice = "run ./setup, or install redis-server; no RedisCluster runs before";
                finding(&check, DoctorFindingLevel::Bad, missing, advice)
            }
            Err(missing) => {
                let advice = "only Pods with this image need it: install it (./setup installs what Debian \
                              has), or name another program in a file for `tholepin local --images FILE`";
                finding(&check, DoctorFindingLevel::Warning, missing, advice)
            }
        }
    });
    findings.collect()
}

fn finding(check: &str, verdict: DoctorFindingLevel, seen: &str, advice: &str) -> DoctorFinding {
    DoctorFinding {
        check: check.to_owned(),
        verdict,
        seen: seen.to_owned(),
        advice: advice.to_owned(),
    }
}

fn check_result(check: &str, result: &Result<String, String>, advice: &str) -> DoctorFinding {
    match result {
        Ok(seen) => finding(check, DoctorFindingLevel::Good, seen, ""),
        Err(seen) => finding(check, DoctorFindingLevel::Bad, seen, advice),
    }
}

/// Checks a limit against its minimum. A limit that cannot be read counts as high enough.
fn check_limit(check: &str, limit: Option<u64>, min: u64, command: &str) -> DoctorFinding {
    match limit {
        Some(limit) if limit < min => {
            let seen = format!("{limit}, fewer than {min}");
            finding(check, DoctorFindingLevel::Warning, &seen, &format!("run `{command}`"))
        }
        Some(limit) => finding(check, DoctorFindingLevel::Good, &limit.to_string(), ""),
        None => finding(check, DoctorFindingLevel::Good, "the limit cannot be read", ""),
    }
}

fn check_kubectl(version: Option<&str>) -> DoctorFinding {
    let Some(version) = version else {
        let advice = "install kubectl 1.27 or newer; `./setup --tests` fetches one for the tests";
        return finding("kubectl", DoctorFindingLevel::Warning, "not on PATH", advice);
    };
    let mut numbers = version.trim_start_matches('v').split('.').map(str::parse::<u32>);
    let (major, minor) = (numbers.next(), numbers.next());
    match (major, minor) {
        (Some(Ok(1)), Some(Ok(minor))) if minor < KUBECTL_MINOR_MIN => {
            let seen = format!("{version}, older than 1.{KUBECTL_MINOR_MIN}");
            finding("kubectl", DoctorFindingLevel::Warning, &seen, "install a newer one")
        }
        _ => finding("kubectl", DoctorFindingLevel::Good, version, ""),
    }
}

fn check_cargo(version: Option<&str>) -> DoctorFinding {
    match version {
        Some(version) => finding("cargo", DoctorFindingLevel::Good, version, ""),
        None => {
            let advice = "install Rust with rustup; only those who write plugins need it";
            finding("cargo", DoctorFindingLevel::Warning, "not on PATH", advice)
        }
    }
}

fn check_wasm_target(is_installed: bool) -> DoctorFinding {
    if is_installed {
        return finding("wasm target", DoctorFindingLevel::Good, "wasm32-wasip2", "");
    }
    let advice = "run `rustup target add wasm32-wasip2`; only those who write plugins need it";
    finding("wasm target", DoctorFindingLevel::Warning, "wasm32-wasip2 is not installed", advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> DoctorMachineFacts {
        DoctorMachineFacts {
            containers: Ok("mount namespaces, as root".to_owned()),
            programs: vec![ImageProgramCheck {
                image: "redis:7*".to_owned(),
                found: Ok("7.0.15".to_owned()),
            }],
            address: Ok("127.100.0.1:6443 is free".to_owned()),
            open_files: Some(1024),
            inotify_watches: Some(65_536),
            inotify_instances: Some(128),
            cargo: Some("cargo 1.95.0".to_owned()),
            has_wasm_target: true,
            kubectl: Some("v1.27.0".to_owned()),
            cache: Ok("/cache".to_owned()),
            host: Ok("none is running".to_owned()),
        }
    }

    #[test]
    fn a_sufficient_machine_has_only_good_findings() {
        for finding in judge(&good()) {
            assert_eq!(
                (finding.verdict, finding.advice.as_str()),
                (DoctorFindingLevel::Good, ""),
                "{finding:?}"
            );
        }
        let unknown = DoctorMachineFacts { open_files: None, inotify_watches: None, ..good() };
        assert!(judge(&unknown).iter().all(|finding| finding.verdict == DoctorFindingLevel::Good));
    }

    #[test]
    fn one_engine_is_enough_and_no_engine_is_bad() {
        let program = |image: &str, is_installed: bool| ImageProgramCheck {
            image: image.to_owned(),
            found: if is_installed {
                Ok("1".to_owned())
            } else {
                Err("no such program".to_owned())
            },
        };
        let rows = [
            (
                true,
                false,
                [
                    DoctorFindingLevel::Good,
                    DoctorFindingLevel::Warning,
                    DoctorFindingLevel::Warning,
                ],
            ),
            (
                false,
                true,
                [
                    DoctorFindingLevel::Warning,
                    DoctorFindingLevel::Good,
                    DoctorFindingLevel::Warning,
                ],
            ),
            (
                false,
                false,
                [DoctorFindingLevel::Bad, DoctorFindingLevel::Bad, DoctorFindingLevel::Warning],
            ),
        ];
        for (redis, valkey, expected) in rows {
            let programs = [
                program("redis:7*", redis),
                program("valkey/valkey:9*", valkey),
                program("redis-tools:*", false),
            ];
            let verdicts: Vec<_> =
                check_programs(&programs).iter().map(|finding| finding.verdict).collect();
            assert_eq!(verdicts, expected, "{programs:?}");
        }
    }

    #[test]
    fn each_problem_is_one_finding_with_advice() {
        use DoctorFindingLevel::{Bad, Warning};
        use DoctorMachineFacts as Facts;
        let missing = |text: &str| Err(text.to_owned());
        let program =
            ImageProgramCheck { image: "twemproxy".to_owned(), found: missing("no nutcracker") };
        let rows = [
            (Facts { containers: missing("forbidden"), ..good() }, "containers", Bad, "Pods"),
            (Facts { address: missing("in use"), ..good() }, "address", Bad, "--block"),
            (Facts { cache: missing("a link"), ..good() }, "cache", Bad, "XDG_CACHE_HOME"),
            (Facts { open_files: Some(256), ..good() }, "open files", Warning, "ulimit"),
            (
                Facts { inotify_watches: Some(9), ..good() },
                "file watches",
                Warning,
                "max_user_watches",
            ),
            (
                Facts { inotify_instances: Some(1), ..good() },
                "file watchers",
                Warning,
                "max_user_instances",
            ),
            (Facts { kubectl: None, ..good() }, "kubectl", Warning, "1.27"),
            (Facts { kubectl: Some("v1.26.9".to_owned()), ..good() }, "kubectl", Warning, "newer"),
            (Facts { host: missing("open to others"), ..good() }, "host", Warning, "remove"),
            (Facts { cargo: None, ..good() }, "cargo", Warning, "rustup"),
            (Facts { has_wasm_target: false, ..good() }, "wasm target", Warning, "rustup"),
            (
                Facts { programs: vec![program], ..good() },
                "image twemproxy",
                Warning,
                "only Pods with this image",
            ),
        ];
        for (facts, check, verdict, advice) in rows {
            let problems: Vec<_> = judge(&facts)
                .into_iter()
                .filter(|finding| finding.verdict != DoctorFindingLevel::Good)
                .collect();
            assert_eq!(problems.len(), 1, "{check}: {problems:?}");
            assert_eq!((problems[0].check.as_str(), problems[0].verdict), (check, verdict));
            assert!(problems[0].advice.contains(advice), "{problems:?}");
        }
    }
}
