//! The wasmtime engine: its configuration, and the ticker thread that interrupts guests.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tholepin_core::ErrorChain;
use tokio::sync::Semaphore;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
};

use crate::{function_cache::CompiledFunctionCache, limits::GuestLimits};

/// The interval at which a running guest is interrupted to check its limits. Compute limits are rounded up to
/// a multiple of it.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// Slots for guest calls outside a reconcile: `describe`, and `validate` of an object that is not being
/// reconciled. A call beyond all slots waits for one; the wait counts against its wall-clock limit.
const CALLS_OUTSIDE_RECONCILES: u32 = 8;

/// Core instances of one component: its main module, and the small adapter modules of the component model.
const CORE_INSTANCES_PER_COMPONENT_MAX: u32 = 16;

/// The way in which memory for instances is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceAllocation {
    /// From slots reserved when the engine starts: fast, but needs about 5 GiB of address space per call.
    Pooling,
    /// At each call: for systems that limit address space.
    OnDemand,
}

/// The engine that runs guests, shared by `Arc`. Dropping it stops its ticker thread.
pub struct GuestEngine {
    engine: Engine,
    allocation: InstanceAllocation,
    slots: Arc<Semaphore>,
    _ticker: EpochTicker,
}

/// The reason why the engine cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum WasmEngineSetupError {
    /// This machine cannot run compiled Wasm, or its address-space limit is too low.
    #[error("cannot set up the Wasm engine; is address space limited (`ulimit -v`)?")]
    Engine(#[source] wasmtime::Error),
    /// The ticker thread did not start.
    #[error("cannot start the ticker thread")]
    Ticker(#[source] io::Error),
}

impl GuestEngine {
    /// Sets up an engine for this many concurrent reconciles, with pooled instances; falls back to on-demand
    /// instances if the address space for the pool cannot be reserved.
    ///
    /// # Errors
    ///
    /// Fails if the engine cannot be set up either way, or if the ticker thread does not start.
    pub fn new(concurrency: u32) -> Result<Self, WasmEngineSetupError> {
        Self::with_allocation(InstanceAllocation::Pooling, concurrency).or_else(|error| {
            let error = ErrorChain(&error);
            tracing::info!(%error, "no address space for pooled instances; allocating on demand");
            Self::with_allocation(InstanceAllocation::OnDemand, concurrency)
        })
    }

    /// Sets up an engine with the given allocation and no fallback.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_allocation(
        allocation: InstanceAllocation,
        concurrency: u32,
    ) -> Result<Self, WasmEngineSetupError> {
        let calls = concurrency.saturating_add(CALLS_OUTSIDE_RECONCILES);
        let engine = build(allocation, calls)?;
        let ticker = EpochTicker::start(engine.clone()).map_err(WasmEngineSetupError::Ticker)?;
        let slots = Arc::new(Semaphore::new(calls as usize));
        Ok(Self { engine, allocation, slots, _ticker: ticker })
    }

    /// Returns how instances are allocated.
    #[must_use]
    pub const fn allocation(&self) -> InstanceAllocation {
        self.allocation
    }

    pub(crate) const fn wasmtime(&self) -> &Engine {
        &self.engine
    }

    pub(crate) const fn slots(&self) -> &Arc<Semaphore> {
        &self.slots
    }

    /// Returns an engine for one compilation, which reuses functions compiled before from `functions`.
    ///
    /// Wasmtime 48 keeps the compiler's memory for as long as the engine lives, so the engine that runs guests
    /// must never compile.
    pub(crate) fn compiler(
        functions: Arc<CompiledFunctionCache>,
    ) -> Result<Engine, WasmEngineSetupError> {
        let mut config = config(InstanceAllocation::OnDemand, 1);
        let enabled = config.enable_incremental_compilation(functions);
        enabled.and_then(|config| Engine::new(config)).map_err(WasmEngineSetupError::Engine)
    }
}

fn build(allocation: InstanceAllocation, calls: u32) -> Result<Engine, WasmEngineSetupError> {
    Engine::new(&config(allocation, calls)).map_err(WasmEngineSetupError::Engine)
}

fn config(allocation: InstanceAllocation, calls: u32) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(512 << 10)
        .async_stack_size(2 << 20)
        // Measured for `redis-cluster` on two cores: compiles as fast as `None` and produces smaller code.
        .cranelift_opt_level(OptLevel::Speed)
        // Both are for debuggers and backtrace offsets, which are unreadable because plugins are built
        // without names; the text of a panic comes from the guest itself.
        .generate_address_map(false)
        .native_unwind_info(false)
        // Instructions whose results may differ between machines.
        .wasm_relaxed_simd(false)
        .cranelift_nan_canonicalization(true);
    match allocation {
        InstanceAllocation::Pooling => {
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(calls)));
        }
        InstanceAllocation::OnDemand => {
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        }
    }
    config
}

fn pool(calls: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        .total_core_instances(calls.saturating_mul(CORE_INSTANCES_PER_COMPONENT_MAX))
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT_MAX)
        .total_memories(calls)
        .max_memories_per_component(1)
        .max_memory_size(GuestLimits::MEMORY_BYTES_MAX)
        .total_tables(calls.saturating_mul(4))
        .max_tables_per_component(4)
        .total_stacks(calls)
        .max_unused_warm_slots(16)
        // Pages that a call changed are reset one by one and stay mapped. Measured: a call that does
        // nothing then costs half of what it costs when each slot is returned to the kernel.
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// The thread that advances the engine's epoch. It is a thread and not a task because guests that do not yield
/// can occupy every worker of the async runtime and must still be interrupted.
struct EpochTicker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EpochTicker {
    fn start(engine: Engine) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let tick = move || {
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(TICK);
                engine.increment_epoch();
            }
        };
        let thread = thread::Builder::new().name("guest-ticker".to_owned()).spawn(tick)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for EpochTicker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The thread ends within one tick. A panic in it was printed already, so its result is not needed.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
