//! The arguments of `plan`, `calls` and `status`.

use std::{path::PathBuf, str::FromStr};

use clap::{ArgGroup, Args};

use super::{AdminFileArgs, KubernetesClusterArgs, OutputFormat};
use crate::completion;

/// An object as `KIND/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KindAndNameArg {
    /// A kind, plural or short name, as kubectl takes it.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
}

impl FromStr for KindAndNameArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        let parts = parts.filter(|(kind, name)| !kind.is_empty() && !name.is_empty());
        let Some((kind, name)) = parts.filter(|(_, name)| !name.contains('/')) else {
            return Err("an object is named KIND/NAME, such as rediscluster/demo".to_owned());
        };
        Ok(Self { kind: kind.to_owned(), name: name.to_owned() })
    }
}

/// Options of `plan`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).args(["object", "file"]))]
pub(crate) struct PlanArgs {
    /// The object; the kind may be given by plural or short name, as to kubectl
    #[arg(value_name = "KIND/NAME", add = completion::objects())]
    pub(crate) object: Option<KindAndNameArg>,
    /// Plan for the object in this YAML or JSON file, as if `kubectl apply --server-side
    /// --force-conflicts` had applied it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The object's namespace [default: the file's, or `default`]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Print the plan as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminFileArgs,
    /// Plan in this process instead of asking the running host; it must reach the API server and the
    /// Pods, and has no memo and no accepted spec of the host
    #[arg(long, requires = "plugins")]
    pub(crate) standalone: bool,
    /// With --standalone: directory to load plugins from
    #[arg(long, value_name = "DIR", requires = "standalone")]
    pub(crate) plugins: Option<PathBuf>,
    /// With --standalone: grant plugins everything they ask for (`grants: asRequested`)
    #[arg(long, requires = "standalone")]
    pub(crate) trust_plugins: bool,
    #[command(flatten)]
    pub(crate) cluster: KubernetesClusterArgs,
}

/// Options of `calls`.
#[derive(Args, Debug)]
pub(crate) struct CallsArgs {
    /// The object; the kind may be given by plural or short name, as to kubectl
    #[arg(value_name = "KIND/NAME", add = completion::objects())]
    pub(crate) object: KindAndNameArg,
    /// The object's namespace [default: `default`]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Print only writes, and only reconciles that wrote
    #[arg(long)]
    pub(crate) writes: bool,
    /// Print only the reconcile with this number, which the output shows before its time
    #[arg(long, value_name = "N")]
    pub(crate) reconcile: Option<u64>,
    /// Print the reconciles as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminFileArgs,
}

/// Options of `status`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// One object only, with all its conditions; the kind may be given by plural or short name
    #[arg(value_name = "KIND/NAME", add = completion::objects())]
    pub(crate) object: Option<KindAndNameArg>,
    /// The object's namespace [default: `default`]
    #[arg(short, long, value_name = "NAME", requires = "object")]
    pub(crate) namespace: Option<String>,
    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: OutputFormat,
    /// Ask again every two seconds until Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) admin: AdminFileArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn an_object_is_a_kind_and_a_name() {
        let found: KindAndNameArg = "rediscluster/demo".parse().unwrap();
        assert_eq!((found.kind.as_str(), found.name.as_str()), ("rediscluster", "demo"));
        for text in ["demo", "/demo", "rediscluster/", "a/b/c", ""] {
            let error = text.parse::<KindAndNameArg>().unwrap_err();
            assert!(error.contains("KIND/NAME"), "{text}");
        }
    }

    #[test]
    fn a_plan_is_about_an_object_or_a_file() {
        let parse =
            |arguments: &[&str]| Cli::try_parse_from([&["tholepin", "plan"], arguments].concat());
        for arguments in [
            &["rediscluster/demo"][..],
            &["-f", "a.yaml", "-n", "x"],
            &["rdc/demo", "--standalone", "--plugins", "d"],
        ] {
            let Command::Plan(_) = parse(arguments).unwrap().command else {
                panic!("{arguments:?}")
            };
        }
        for arguments in
            [&[][..], &["a/b", "-f", "c"], &["a/b", "--standalone"], &["a/b", "--plugins", "d"]]
        {
            assert!(parse(arguments).is_err(), "{arguments:?}");
        }
    }
}
