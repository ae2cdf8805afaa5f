//! Prints an error with its causes.

use std::{error::Error, fmt, iter::successors};

/// Displays an error and its causes on one line: `outer: middle: root`.
///
/// Leaves out a cause whose text is in the line already, because some libraries (such as `kube`) repeat the source in
/// their own message. `tholepin-agent` has a copy, because it depends on no part of the host.
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.0.to_string();
        for cause in successors(self.0.source(), |&cause| cause.source()) {
            let cause = cause.to_string();
            if !line.contains(&cause) {
                line.push_str(": ");
                line.push_str(&cause);
            }
        }
        f.write_str(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Step {
        text: &'static str,
        source: Option<Box<Step>>,
    }

    #[test]
    fn each_fact_is_printed_once() {
        let root = Step { text: "refused", source: None };
        let repeats = Step { text: "dial: refused", source: Some(Box::new(root)) };
        let outer = Step { text: "observe", source: Some(Box::new(repeats)) };
        assert_eq!(ErrorChain(&outer).to_string(), "observe: dial: refused");
    }
}
