//! The wasmtime engine: its configuration, and the thread that makes computing guests stop.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::Semaphore;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
};

use crate::{function_cache::FunctionCache, limits::GuestLimits};

/// How often a computing guest is looked at: limits of computing are rounded up to it.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// Guest calls beside those of passes: `describe`, and `validate` where nobody reconciles. One more than
/// all these waits for a slot, within its wall clock.
const CALLS_ASIDE: u32 = 8;

/// Core instances of one component: its module, and the small ones that join it to the component model.
const CORE_INSTANCES_PER_COMPONENT_MAX: u32 = 16;

/// Where instances live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceAllocation {
    /// In slots reserved at the start: fast, and needs some 5 GiB of address space per call.
    Pooling,
    /// Reserved at each call: for systems that limit address space.
    OnDemand,
}

/// Runs guests. Cheap to share by `Arc`; ends its ticker thread when dropped.
pub struct GuestEngine {
    engine: Engine,
    allocation: InstanceAllocation,
    slots: Arc<Semaphore>,
    _ticker: EpochTicker,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// This machine cannot run compiled Wasm, or a limit of address space is too narrow.
    #[error("cannot set up the Wasm engine; is address space limited (`ulimit -v`)? {0}")]
    Engine(String),
    /// No thread could be started.
    #[error("cannot start the ticker thread")]
    Ticker(#[source] io::Error),
}

impl GuestEngine {
    /// Sets up an engine for so many passes at once, with pooled instances, or on-demand ones where the
    /// address space for a pool cannot be reserved.
    ///
    /// # Errors
    ///
    /// Fails if the engine cannot be set up either way, or if the ticker thread does not start.
    pub fn new(passes: u32) -> Result<Self, EngineError> {
        Self::with_allocation(InstanceAllocation::Pooling, passes).or_else(|error| {
            tracing::info!(%error, "no address space for pooled instances; allocating on demand");
            Self::with_allocation(InstanceAllocation::OnDemand, passes)
        })
    }

    /// Sets up an engine with the allocation named, without a second choice.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_allocation(
        allocation: InstanceAllocation,
        passes: u32,
    ) -> Result<Self, EngineError> {
        let calls = passes.saturating_add(CALLS_ASIDE);
        let engine = build(allocation, calls)?;
        let ticker = EpochTicker::start(engine.clone()).map_err(EngineError::Ticker)?;
        let slots = Arc::new(Semaphore::new(calls as usize));
        Ok(Self { engine, allocation, slots, _ticker: ticker })
    }

    /// Where instances live.
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

    /// An engine for one compilation, which takes the functions it has compiled before from `functions`.
    /// Wasmtime 48 keeps compiler memory in the engine for ever, so the one that serves must never compile.
    pub(crate) fn throw_away(functions: Arc<FunctionCache>) -> Result<Engine, EngineError> {
        let mut config = config(InstanceAllocation::OnDemand, 1);
        let enabled = config.enable_incremental_compilation(functions);
        enabled.and_then(|config| Engine::new(config)).map_err(not_set_up)
    }
}

fn build(allocation: InstanceAllocation, calls: u32) -> Result<Engine, EngineError> {
    Engine::new(&config(allocation, calls)).map_err(not_set_up)
}

fn not_set_up(error: wasmtime::Error) -> EngineError {
    EngineError::Engine(format!("{error:#}"))
}

fn config(allocation: InstanceAllocation, calls: u32) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(512 << 10)
        .async_stack_size(2 << 20)
        // Measured for `redis-cluster` on two cores: no slower to compile than `None`, and smaller code.
        .cranelift_opt_level(OptLevel::Speed)
        // For debuggers and for offsets in backtraces. Plugins come without the names that would make
        // these readable; what a panic says comes from the guest.
        .generate_address_map(false)
        .native_unwind_info(false)
        // What could make two runs differ.
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
        // What a call changed is set back page by page, and stays mapped: a call that does nothing costs
        // half of what it costs where each slot is given back to the kernel.
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// Advances the engine's epoch. A thread and not a task: a guest that never yields can keep every
/// worker of the runtime busy, and must be stopped all the same.
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
        // It ends within a tick. A panic in it has been printed; there is nobody else to tell.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
