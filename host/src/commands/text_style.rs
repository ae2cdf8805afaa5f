//! Colours for terminals.

use std::{
    env,
    io::{IsTerminal, stdout},
};

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextStyle {
    /// With ANSI escape sequences.
    Ansi,
    /// Without colours.
    Plain,
}

impl TextStyle {
    /// Returns `Ansi` if stdout is a terminal, unless `NO_COLOR` is set.
    pub(crate) fn of_stdout() -> Self {
        let is_allowed = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if stdout().is_terminal() && is_allowed { Self::Ansi } else { Self::Plain }
    }

    /// Colours something added or healthy.
    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Colours something removed or broken.
    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// Colours something changed or doubtful.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// Formats a title.
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
