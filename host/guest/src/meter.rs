//! Metrics of guest calls: processor time, peak memory and document bytes, by plugin.

use std::{
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use metrics::{counter, gauge, histogram};
use nix::time::ClockId;

use crate::state::{GuestDocumentByteCounts, GuestState};

/// Adds to `cpu_time_used` the processor time used while the future is polled: that of the guest and of the host
/// calls it makes, without the time spent waiting.
pub(crate) async fn cpu_time<F: Future>(cpu_time_used: &mut Duration, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        let start = thread_time();
        let polled = future.as_mut().poll(context);
        *cpu_time_used += thread_time().saturating_sub(start);
        polled
    })
    .await
}

/// Returns the processor time of this thread, or zero if the system does not report it.
fn thread_time() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map(Duration::from).unwrap_or_default()
}

/// Records the metrics of a call that has ended, whatever its result. Calls of `describe` are not recorded:
/// they are few, and their plugin may never serve.
pub(crate) fn record_call(state: &GuestState, cpu: Duration, memory_peak_bytes: &AtomicUsize) {
    if state.denies_host_calls() && state.export() != "validate" {
        return;
    }
    let name = || state.label().to_owned();
    let export = state.export();
    histogram!("tholepin_plugin_cpu_seconds", "controller" => name(), "function" => export)
        .record(cpu);
    let GuestDocumentByteCounts { into_guest, out_of_guest } = state.transferred;
    for (direction, bytes) in [("in", into_guest), ("out", out_of_guest)] {
        counter!("tholepin_plugin_bytes_total", "controller" => name(), "direction" => direction)
            .increment(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
    let peak = state.memory_peak_bytes();
    let before = memory_peak_bytes.fetch_max(peak, Ordering::Relaxed);
    let peak_bytes = u32::try_from(before.max(peak)).unwrap_or(u32::MAX);
    gauge!("tholepin_plugin_memory_peak_bytes", "controller" => name()).set(peak_bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn computing_counts_and_waiting_does_not() {
        let mut cpu_time_used = Duration::ZERO;
        let pause = Duration::from_millis(30);
        let start = Instant::now();
        cpu_time(&mut cpu_time_used, tokio::time::sleep(pause)).await;
        assert!(pause <= start.elapsed());
        assert!(cpu_time_used < pause / 2, "{cpu_time_used:?}");
        let mut computed = Duration::ZERO;
        cpu_time(&mut computed, async {
            let start = thread_time();
            while thread_time().saturating_sub(start) < pause {}
        })
        .await;
        assert!(pause <= computed, "{computed:?}");
    }
}
