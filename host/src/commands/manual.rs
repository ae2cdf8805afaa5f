//! `tholepin completions` and `tholepin man`: both are generated from the definition of the command line.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::{Shell, env::Shells};

use super::print;
use crate::{cli::Cli, completion};

/// Prints the script with which a shell requests completions from this program.
///
/// # Errors
///
/// Fails if there is no script for the shell, or stdout is closed.
pub(super) fn completions(shell: Shell) -> Result<()> {
    let shells = Shells::builtins();
    let name = shell.to_string();
    let script = shells.completer(&name).with_context(|| format!("no completions for {name}"))?;
    let mut text = Vec::new();
    script.write_registration(
        completion::VARIABLE,
        "tholepin",
        "tholepin",
        "tholepin",
        &mut text,
    )?;
    print(&String::from_utf8(text)?)?;
    Ok(())
}

pub(super) fn pages(directory: &Path) -> Result<()> {
    let cannot = || format!("cannot write the manual into `{}`", directory.display());
    fs::create_dir_all(directory).with_context(cannot)?;
    clap_mangen::generate_to(Cli::command(), directory).with_context(cannot)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, ValueEnum};

    use super::*;

    #[test]
    fn every_shell_has_a_script() {
        for shell in Shell::value_variants() {
            let name = shell.to_string();
            assert!(Shells::builtins().completer(&name).is_some(), "{name}");
        }
    }

    #[test]
    fn each_visible_subcommand_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        pages(folder.path()).unwrap();
        let exists = |page: &str| folder.path().join(format!("{page}.1")).is_file();
        assert!(exists("tholepin") && exists("tholepin-plugin-watch"));
        let command = Cli::command();
        for subcommand in command.get_subcommands() {
            let page = format!("tholepin-{}", subcommand.get_name());
            assert_eq!(exists(&page), !subcommand.is_hide_set(), "{page}");
        }
    }
}
