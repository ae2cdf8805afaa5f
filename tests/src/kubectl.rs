//! The installed kubectl.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

/// kubectl with one cluster's kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// Finds the first kubectl of `$KUBECTL`, `$KUBEBUILDER_ASSETS` and PATH.
    ///
    /// # Errors
    ///
    /// Fails if none is found.
    pub fn new(kubeconfig: &Path) -> Result<Self> {
        Ok(Self { program: Self::program()?, kubeconfig: kubeconfig.to_owned() })
    }

    /// Returns the path of the program.
    ///
    /// # Errors
    ///
    /// Fails if none is found.
    pub fn program() -> Result<PathBuf> {
        let named = env::var_os("KUBECTL").map(PathBuf::from);
        let assets =
            env::var_os("KUBEBUILDER_ASSETS").map(|dir| PathBuf::from(dir).join("kubectl"));
        let on_path = env::split_paths(&env::var_os("PATH").unwrap_or_default())
            .map(|dir| dir.join("kubectl"))
            .find(|path| path.exists());
        let program = named.or(assets.filter(|path| path.exists())).or(on_path);
        program.context("no kubectl: set KUBECTL to one of version 1.27 or newer")
    }

    /// Runs kubectl and returns its stdout.
    ///
    /// # Errors
    ///
    /// Fails with kubectl's stderr if it exits with a code other than 0.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with(arguments, "")
    }

    /// Runs kubectl with a text on stdin and returns its stdout.
    ///
    /// # Errors
    ///
    /// Fails with kubectl's stderr if it exits with a code other than 0.
    pub fn run_with(&self, arguments: &[&str], stdin: &str) -> Result<String> {
        use std::io::Write;
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command
            .env("HOME", self.kubeconfig.parent().context("the kubeconfig's path has no folder")?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start kubectl")?;
        child.stdin.take().context("stdin is piped")?.write_all(stdin.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}", arguments.join(" "), stderr.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a line in a bash whose PATH begins with this kubectl's folder and whose `KUBECONFIG` is this cluster's.
    ///
    /// # Errors
    ///
    /// Fails if the shell cannot be started.
    pub fn shell(&self, line: &str) -> Result<Output> {
        let folder = self.program.parent().context("the program's path has no folder")?;
        let path = env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("bash");
        shell.args(["-o", "pipefail", "-c", line]);
        shell.env("PATH", format!("{}:{path}", folder.display()));
        shell.env("HOME", self.kubeconfig.parent().context("the kubeconfig's path has no folder")?);
        Ok(shell.env("KUBECONFIG", &self.kubeconfig).output()?)
    }
}
