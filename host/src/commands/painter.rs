//! Colours, on a terminal only.

use std::{
    env,
    io::{IsTerminal, stdout},
};

/// Whether and how words are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Painter {
    /// As ANSI terminals take it.
    Ansi,
    /// Plain.
    Plain,
}

impl Painter {
    /// Colours if stdout is a terminal, unless `NO_COLOR` is set.
    pub(crate) fn of_stdout() -> Self {
        let is_wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if stdout().is_terminal() && is_wanted { Self::Ansi } else { Self::Plain }
    }

    /// What is new.
    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// What goes, or does not work.
    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// What changes, or needs a look.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// A title.
    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        match self {
            Self::Ansi => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}
