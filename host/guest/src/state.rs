//! The state of one running guest: its call context, its resource use, and the text that explains a trap.

use std::sync::Arc;

use tholepin_core::{Answer, Call, CallError, HostCalls, PluginCallerIdentity, PluginRuntimeCall};
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};

use crate::{
    engine::{GuestEngine, TICK},
    limits::{
        DENIED_ARGUMENT_BYTES_MAX, GuestLimits, HOST_CALL_BYTES_MAX, HOST_CALLS_MAX,
        LOG_LINE_BYTES_MAX, LOG_LINES_MAX,
    },
};

/// The beginning of the line that the SDK's panic hook logs.
const PANIC_PREFIX: &str = "panicked at ";

/// The part of a guest's standard output and error that is kept to explain a trap, in bytes.
const STDERR_BYTES_MAX: usize = 4 << 10;

/// The data of one running guest, stored in its wasmtime store.
pub(crate) struct GuestState {
    /// The plugin's name, or the path of its file, for log lines and metrics.
    label: String,
    /// Absent in `describe` and `validate`, where every import but `log` is denied.
    context: Option<GuestCallContext>,
    export: &'static str,
    ticks: u32,
    ticks_max: u32,
    memory: MemoryLimit,
    host_call_count: u32,
    log_lines: u32,
    panic_message: Option<String>,
    stderr: String,
    /// The last line of standard output and error, which has no line end yet.
    partial_line: String,
    /// The bytes of arguments parsed without a context.
    parsed_bytes: usize,
    /// The documents passed so far.
    pub(crate) transferred: GuestDocumentByteCounts,
}

/// The number of document bytes passed between host and guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GuestDocumentByteCounts {
    /// From the host into the guest.
    pub(crate) into_guest: usize,
    /// From the guest to the host.
    pub(crate) out_of_guest: usize,
}

impl GuestDocumentByteCounts {
    pub(crate) const fn count_into_guest(&mut self, bytes: usize) {
        self.into_guest = self.into_guest.saturating_add(bytes);
    }

    pub(crate) const fn count_out_of_guest(&mut self, bytes: usize) {
        self.out_of_guest = self.out_of_guest.saturating_add(bytes);
    }
}

/// On whose behalf a guest makes its calls, and what performs them.
pub(crate) struct GuestCallContext {
    pub(crate) context: PluginCallerIdentity,
    pub(crate) host_calls: Arc<dyn HostCalls>,
}

/// The guest exceeded its compute limit.
#[derive(Debug, thiserror::Error)]
#[error("computed longer than allowed without a host call")]
pub(crate) struct ComputedTooLong;

/// The guest exceeded [`HOST_CALLS_MAX`].
#[derive(Debug, thiserror::Error)]
#[error("made more than {HOST_CALLS_MAX} host calls in one call of its own")]
pub(crate) struct CalledTooOften;

impl GuestState {
    pub(crate) fn new(
        label: String,
        context: Option<GuestCallContext>,
        export: &'static str,
        limits: GuestLimits,
    ) -> Self {
        let ticks_max = limits.compute.as_millis().div_ceil(TICK.as_millis());
        Self {
            label,
            context,
            export,
            ticks: 0,
            ticks_max: u32::try_from(ticks_max).unwrap_or(u32::MAX),
            memory: MemoryLimit {
                bytes_max: limits.memory_bytes,
                peak_bytes: 0,
                was_refused: false,
            },
            host_call_count: 0,
            log_lines: 0,
            panic_message: None,
            stderr: String::new(),
            partial_line: String::new(),
            parsed_bytes: 0,
            transferred: GuestDocumentByteCounts::default(),
        }
    }

    /// Returns a store for the guest in which its limits are set.
    pub(crate) fn into_store(self, engine: &GuestEngine) -> Store<Self> {
        let mut store = Store::new(engine.wasmtime(), self);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(HOST_CALL_BYTES_MAX);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut context| {
            let state = context.data_mut();
            state.ticks += 1;
            if HOST_CALLS_MAX < state.host_call_count {
                return Err(CalledTooOften.into());
            }
            if state.ticks_max < state.ticks {
                return Err(ComputedTooLong.into());
            }
            // Yields the worker to other tasks, and lets the wall-clock timeout fire.
            Ok(UpdateDeadline::Yield(1))
        });
        store
    }

    /// Performs one host call. Resets the guest's compute time afterwards, so that waiting for the host cannot
    /// make it exceed its compute limit.
    pub(crate) async fn call_host(&mut self, call: Call) -> Answer {
        self.host_call_count = self.host_call_count.saturating_add(1);
        if HOST_CALLS_MAX < self.host_call_count {
            // The epoch callback interrupts the guest at the next tick.
            return Err(CallError::Throttled(1000));
        }
        let answer = match &self.context {
            Some(GuestCallContext { context, host_calls }) => {
                host_calls.perform(context, call).await
            }
            None => Err(CallError::Denied(format!(
                "`{}` is not available in `{}`: only `log` is",
                call.function(),
                self.export
            ))),
        };
        self.ticks = 0;
        answer
    }

    /// Spends bytes of the host's memory for an argument, before it is parsed.
    pub(crate) fn spend_bytes(&mut self, bytes: usize) -> Result<(), CallError> {
        let Some(GuestCallContext { host_calls, .. }) = &self.context else {
            // The call will be denied; the argument is parsed nevertheless.
            self.parsed_bytes = self.parsed_bytes.saturating_add(bytes);
            let is_within = self.parsed_bytes <= DENIED_ARGUMENT_BYTES_MAX;
            return if is_within { Ok(()) } else { Err(CallError::Throttled(1000)) };
        };
        host_calls.spend_bytes(bytes)
    }

    /// Logs a line of the guest. Truncates it to [`LOG_LINE_BYTES_MAX`], and drops it if the call has logged
    /// [`LOG_LINES_MAX`] lines.
    pub(crate) async fn log(&mut self, level: &'static str, message: String) {
        let message = truncate(message, LOG_LINE_BYTES_MAX);
        if message.starts_with(PANIC_PREFIX) {
            self.panic_message = Some(message.clone());
        }
        self.log_lines = self.log_lines.saturating_add(1);
        let (level, message) = match self.log_lines.cmp(&LOG_LINES_MAX) {
            std::cmp::Ordering::Less => (level, message),
            std::cmp::Ordering::Equal => {
                ("warn", format!("further lines of this call are dropped after {LOG_LINES_MAX}"))
            }
            std::cmp::Ordering::Greater => return,
        };
        if self.context.is_some() {
            let level = level.to_owned();
            let line = Call::Runtime(PluginRuntimeCall::Log { level, message });
            if let Err(error) = self.call_host(line).await {
                tracing::debug!(%error, plugin = self.label, "a log line of the plugin was refused");
            }
        } else {
            tracing::info!(plugin = self.label, export = self.export, level, "{message}");
        }
    }

    /// Logs what the guest writes to standard output or error, line by line, and keeps its beginning to explain
    /// a trap.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let room = STDERR_BYTES_MAX.saturating_sub(self.stderr.len());
        self.stderr.extend(text.chars().take(room));
        self.partial_line.push_str(&text);
        for line in take_lines(&mut self.partial_line) {
            self.log("warn", line).await;
        }
    }

    /// Logs the last line that the guest wrote, if it has no line end.
    pub(crate) async fn flush(&mut self) {
        let rest = std::mem::take(&mut self.partial_line);
        if !rest.trim().is_empty() {
            self.log("warn", rest).await;
        }
    }

    /// Returns the guest's peak memory in bytes.
    pub(crate) const fn memory_peak_bytes(&self) -> usize {
        self.memory.peak_bytes
    }

    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    pub(crate) const fn denies_host_calls(&self) -> bool {
        self.context.is_none()
    }

    pub(crate) const fn export(&self) -> &'static str {
        self.export
    }

    /// Returns true if the guest asked for memory beyond its limit.
    pub(crate) const fn was_refused_memory(&self) -> bool {
        self.memory.was_refused
    }

    /// Returns the guest's own explanation of a trap: its panic message, or else what it wrote to standard output
    /// and error.
    pub(crate) fn explanation(&self) -> Option<String> {
        let stderr = self.stderr.trim();
        let written = (!stderr.is_empty()).then(|| stderr.to_owned());
        self.panic_message.clone().or(written)
    }
}

/// Refuses memory beyond the limit, and records that it did.
struct MemoryLimit {
    bytes_max: usize,
    peak_bytes: usize,
    was_refused: bool,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let is_allowed = desired <= self.bytes_max;
        self.was_refused |= !is_allowed;
        if is_allowed {
            self.peak_bytes = self.peak_bytes.max(desired);
        }
        Ok(is_allowed)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= 20_000)
    }
}

/// Removes the complete lines from `text` and returns those that are not empty. The text after the last line
/// end stays, unless `text` is longer than a log line: then everything is returned.
fn take_lines(text: &mut String) -> Vec<String> {
    let end = match text.rfind('\n') {
        _ if LOG_LINE_BYTES_MAX < text.len() => text.len(),
        Some(end) => end + 1,
        None => return Vec::new(),
    };
    let rest = text.split_off(end);
    let whole = std::mem::replace(text, rest);
    whole.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

/// Truncates a text at a character boundary and appends the number of bytes removed.
fn truncate(mut text: String, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text;
    }
    let end = text.floor_char_boundary(bytes_max);
    let missing = text.len() - end;
    text.truncate(end);
    text.push_str(&format!("… ({missing} bytes cut)"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_are_joined_to_lines() {
        let mut text = String::new();
        let rows: [(&str, &[&str]); 6] = [
            ("thread 'main' ", &[]),
            ("panicked", &[]),
            (" at x\n\nnote: ", &["thread 'main' panicked at x"]),
            ("y\nz\n", &["note: y", "z"]),
            ("", &[]),
            ("end", &[]),
        ];
        for (fragment, expected) in rows {
            text.push_str(fragment);
            assert_eq!(take_lines(&mut text), expected, "{fragment:?}");
        }
        assert_eq!(text, "end");
        text.push_str(&"x".repeat(LOG_LINE_BYTES_MAX));
        assert_eq!(take_lines(&mut text).len(), 1, "a line without a line end is bounded");
        assert_eq!(text, "");
    }

    #[test]
    fn a_long_line_is_truncated_between_characters() {
        assert_eq!(truncate("short".to_owned(), 5), "short");
        assert_eq!(truncate("äää".to_owned(), 3), "ä… (4 bytes cut)");
    }
}
