//! `tholepin doctor`: collects facts about the machine and prints what `tholepin-devkit` finds wrong with them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use serde_json::{Value, json};
use tholepin_admin::{AdminClient, AdminFile};
use tholepin_agent::ImageError;
use tholepin_core::ErrorChain;
use tholepin_devkit::doctor::{
    DoctorFinding, DoctorFindingLevel, DoctorMachineFacts, ImageProgramCheck, judge,
};
use tholepin_local::{
    LocalOptions,
    addresses::{self, AddressBlock},
};
use tokio::{process::Command, time::timeout};

use super::{plugin::cache, print};
use crate::{
    cli::{AdminFileArgs, DoctorArgs},
    exit,
    user_files::{admin_file, cache_directory},
};

/// How long a program may take to print its version.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);

/// How long a running host may take to answer.
const HOST_DEADLINE: Duration = Duration::from_secs(5);

/// Prints the findings; the exit code is 1 if one of them is bad.
pub(super) async fn run(DoctorArgs { json: as_json, admin }: DoctorArgs) -> Result<u8> {
    let findings = judge(&facts(admin).await?);
    let is_bad = findings.iter().any(|finding| finding.verdict == DoctorFindingLevel::Bad);
    let text = if as_json {
        format!("{:#}\n", json!({"ok": !is_bad, "findings": findings}))
    } else {
        findings.iter().map(line).collect()
    };
    print(&text)?;
    Ok(if is_bad { exit::FAILED } else { exit::DONE })
}

fn line(finding: &DoctorFinding) -> String {
    let DoctorFinding { check, verdict, seen, advice } = finding;
    let level = match verdict {
        DoctorFindingLevel::Good => "ok  ",
        DoctorFindingLevel::Warning => "warn",
        DoctorFindingLevel::Bad => "BAD ",
    };
    let advice = if advice.is_empty() { String::new() } else { format!("\n     → {advice}") };
    format!("{level} {check}: {seen}{advice}\n")
}

async fn facts(admin: AdminFileArgs) -> Result<DoctorMachineFacts> {
    let folder = tempfile::tempdir()?;
    let options = LocalOptions::new(folder.path(), env::current_exe()?);
    let containers =
        tholepin_agent::probe_namespaces(&options.container_program, folder.path()).await;
    let images = options.image_table()?.examine().await;
    Ok(DoctorMachineFacts {
        containers: containers.map(str::to_owned).map_err(|error| ErrorChain(&error).to_string()),
        programs: images
            .into_iter()
            .map(|(image, found)| ImageProgramCheck {
                image,
                found: found.map_err(|error| missing(&error)),
            })
            .collect(),
        address: free_address(options.api_port),
        open_files: open_files(),
        inotify_watches: number("/proc/sys/fs/inotify/max_user_watches"),
        inotify_instances: number("/proc/sys/fs/inotify/max_user_instances"),
        cargo: output("cargo", &["--version"]).await,
        has_wasm_target: has_wasm_target().await,
        kubectl: kubectl().await,
        cache: cache_is_private(),
        host: host(&admin_file(admin.admin_file)?).await,
    })
}

/// Formats what an image lacks, without its name, with which the line begins.
fn missing(error: &ImageError) -> String {
    if let ImageError::NoProgram { program, .. } = error {
        return format!("the program `{program}` is not on this machine");
    }
    error.to_string()
}

/// Takes an address block as the local host does, and checks that the port of its API server is free.
fn free_address(port: u16) -> Result<String, String> {
    let (block, _) = AddressBlock::take(&addresses::lock_directory(), None, port)
        .map_err(|error| ErrorChain(&error).to_string())?;
    Ok(format!("{}:{port} is free", block.api()))
}

fn cache_is_private() -> Result<String, String> {
    cache().map_err(|error| format!("{error:#}"))?;
    let directory = cache_directory().map_err(|error| format!("{error:#}"))?;
    Ok(format!("{} is closed to others", directory.display()))
}

/// Returns the running host of this user, by its admin file.
async fn host(file: &Path) -> Result<String, String> {
    if !file.exists() {
        return Ok("none is running for this user".to_owned());
    }
    let asked = async {
        let client = AdminClient::of_file(file)?;
        client.get("/v1/version", &[], HOST_DEADLINE).await.map(|_| client)
    };
    match asked.await {
        Ok(client) => {
            let AdminFile { address, pid, metrics_address: _, token: _ } = client.file();
            Ok(format!("process {pid} answers at {address} ({})", file.display()))
        }
        Err(error) => Err(ErrorChain(&error).to_string()),
    }
}

fn open_files() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

async fn kubectl() -> Option<String> {
    let text = output("kubectl", &["version", "--client", "--output", "json"]).await?;
    let version: Value = serde_json::from_str(&text).ok()?;
    version.pointer("/clientVersion/gitVersion")?.as_str().map(str::to_owned)
}

async fn has_wasm_target() -> bool {
    let arguments = ["--print", "target-libdir", "--target", "wasm32-wasip2"];
    output("rustc", &arguments).await.is_some_and(|folder| PathBuf::from(folder).is_dir())
}

/// Returns the output of a program, if it exists and succeeds in time.
async fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    let output = timeout(VERSION_DEADLINE, command.output()).await.ok()?.ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(text.trim().to_owned())
}
