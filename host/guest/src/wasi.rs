//! The WASI functions that a language's standard library imports, without any authority behind them.
//!
//! The environment, the arguments and the preopened directories are empty, and there is no network. Standard
//! output and error become log lines; clocks and randomness become recorded calls. `exit` and every other
//! function trap with a message that names the function. Functions are matched by name; the WASI version that
//! the guest imports is ignored.

use std::sync::Arc;

use tholepin_core::{BoxedFuture, Call, PluginRuntimeCall, Reply};
use wasmtime::{
    AsContextMut, Result, StoreContextMut, bail,
    component::{
        Component, Linker, LinkerInstance, Resource, ResourceType, Val, types::ComponentItem,
    },
};

use crate::state::GuestState;

/// The host type of every WASI resource. Resources have no content, so one type is enough.
struct WasiResource;

/// The most random bytes that one WASI call returns.
const RANDOM_BYTES_MAX: u32 = 1024;

/// The namespace of WASI's packages.
pub(crate) const NAMESPACE: &str = "wasi:";

/// Defines all WASI imports of a component.
pub(crate) fn define(linker: &mut Linker<GuestState>, component: &Component) -> Result<()> {
    let engine = component.engine().clone();
    for (interface, import) in component.component_type().imports(&engine) {
        if !interface.starts_with(NAMESPACE) {
            continue;
        }
        let ComponentItem::ComponentInstance(instance) = import.ty else {
            bail!("the import `{interface}` is not an interface");
        };
        let mut defined = linker.instance(interface)?;
        for (name, export) in instance.exports(&engine) {
            match export.ty {
                ComponentItem::ComponentFunc(_) => define_function(&mut defined, interface, name)?,
                ComponentItem::Resource(_) => {
                    defined.resource(name, ResourceType::host::<WasiResource>(), |_, _| Ok(()))?;
                }
                ComponentItem::Type(_)
                | ComponentItem::CoreFunc(_)
                | ComponentItem::Module(_)
                | ComponentItem::Component(_)
                | ComponentItem::ComponentInstance(_) => {}
            }
        }
    }
    Ok(())
}

/// The implementation of a WASI function.
enum WasiFunctionImpl {
    /// Returns a value that depends on nothing.
    Constant(fn(StoreContextMut<'_, GuestState>) -> Result<Val>),
    /// Makes a recorded call, or logs.
    HostCall(for<'a> fn(&'a mut GuestState, &'a [Val]) -> BoxedFuture<'a, Result<Val>>),
    /// Returns no value.
    Nothing,
    /// Traps.
    Trap(String),
}

fn define_function(
    linker: &mut LinkerInstance<'_, GuestState>,
    interface: &str,
    name: &str,
) -> Result<()> {
    let stub = Arc::new(stub(interface, name));
    linker.func_new_async(name, move |mut context, _, arguments, results| {
        let stub = Arc::clone(&stub);
        Box::new(async move {
            let value = match &*stub {
                WasiFunctionImpl::Constant(value) => Some(value(context.as_context_mut())?),
                WasiFunctionImpl::HostCall(perform) => {
                    Some(perform(context.data_mut(), arguments).await?)
                }
                WasiFunctionImpl::Nothing => None,
                WasiFunctionImpl::Trap(text) => bail!("{text}"),
            };
            // Borrowed handles must be dropped before the call returns; otherwise it traps.
            for handle in arguments {
                if let Val::Resource(handle) = handle {
                    handle.resource_drop_async(&mut context).await?;
                }
            }
            match (value, results.first_mut()) {
                (Some(value), Some(result)) => *result = value,
                (None, None) => {}
                _ => bail!("a WASI function has an unexpected result type"),
            }
            Ok(())
        })
    })
}

/// Returns the implementation of a WASI function.
fn stub(interface: &str, name: &str) -> WasiFunctionImpl {
    let package = interface.split('@').next().unwrap_or(interface);
    match (package, name) {
        ("wasi:cli/environment", "get-environment" | "get-arguments")
        | ("wasi:filesystem/preopens", "get-directories") => {
            WasiFunctionImpl::Constant(|_| Ok(Val::List(Vec::new())))
        }
        ("wasi:cli/environment", "initial-cwd")
        | (
            "wasi:cli/terminal-stdin" | "wasi:cli/terminal-stdout" | "wasi:cli/terminal-stderr",
            "get-terminal-stdin" | "get-terminal-stdout" | "get-terminal-stderr",
        ) => WasiFunctionImpl::Constant(|_| Ok(Val::Option(None))),
        (
            "wasi:cli/stdin" | "wasi:cli/stdout" | "wasi:cli/stderr",
            "get-stdin" | "get-stdout" | "get-stderr",
        )
        | ("wasi:io/streams", "[method]output-stream.subscribe") => {
            WasiFunctionImpl::Constant(|context| {
                let handle: Resource<WasiResource> = Resource::new_own(0);
                Ok(Val::Resource(handle.try_into_resource_any(context)?))
            })
        }
        // Output never has to wait.
        ("wasi:io/poll", "[method]pollable.block") => WasiFunctionImpl::Nothing,
        ("wasi:io/poll", "[method]pollable.ready") => {
            WasiFunctionImpl::Constant(|_| Ok(Val::Bool(true)))
        }
        ("wasi:io/streams", "[method]output-stream.check-write") => {
            WasiFunctionImpl::Constant(|_| Ok(success(Some(Val::U64(4096)))))
        }
        (
            "wasi:io/streams",
            "[method]output-stream.flush" | "[method]output-stream.blocking-flush",
        ) => WasiFunctionImpl::Constant(|_| Ok(success(None))),
        (
            "wasi:io/streams",
            "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush",
        ) => WasiFunctionImpl::HostCall(|state, arguments| Box::pin(write(state, arguments))),
        ("wasi:clocks/wall-clock", "now") => {
            WasiFunctionImpl::HostCall(|state, _| Box::pin(wall_clock(state)))
        }
        ("wasi:clocks/monotonic-clock", "now") => WasiFunctionImpl::HostCall(|state, _| {
            Box::pin(async { Ok(Val::U64(now_ms(state).await?.saturating_mul(1_000_000))) })
        }),
        ("wasi:random/random", "get-random-u64")
        | ("wasi:random/insecure", "get-insecure-random-u64") => {
            WasiFunctionImpl::HostCall(|state, _| {
                Box::pin(async { Ok(Val::U64(random_u64(state).await?)) })
            })
        }
        ("wasi:random/insecure-seed", "insecure-seed" | "get-insecure-seed") => {
            WasiFunctionImpl::HostCall(|state, _| Box::pin(seed(state)))
        }
        ("wasi:random/random", "get-random-bytes")
        | ("wasi:random/insecure", "get-insecure-random-bytes") => {
            WasiFunctionImpl::HostCall(|state, arguments| Box::pin(random_bytes(state, arguments)))
        }
        ("wasi:cli/exit", _) => WasiFunctionImpl::Trap("the plugin called `exit`".to_owned()),
        _ => WasiFunctionImpl::Trap(format!(
            "the plugin called `{interface}#{name}`, which this host does not offer"
        )),
    }
}

async fn write(state: &mut GuestState, arguments: &[Val]) -> Result<Val> {
    // The first argument is the stream.
    let Some(Val::List(items)) = arguments.get(1) else {
        bail!("a WASI write without a list of bytes")
    };
    let bytes: Vec<u8> = items
        .iter()
        .filter_map(|item| if let Val::U8(byte) = item { Some(*byte) } else { None })
        .collect();
    state.write(&bytes).await;
    Ok(success(None))
}

async fn wall_clock(state: &mut GuestState) -> Result<Val> {
    let now_ms = now_ms(state).await?;
    let nanoseconds = u32::try_from(now_ms % 1000 * 1_000_000)?;
    Ok(Val::Record(vec![
        ("seconds".to_owned(), Val::U64(now_ms / 1000)),
        ("nanoseconds".to_owned(), Val::U32(nanoseconds)),
    ]))
}

/// Returns the time by a recorded call. In `describe` and `validate`, which must return the same answer each time, it
/// is always 1970, so that a language runtime that reads the clock at its start loads.
async fn now_ms(state: &mut GuestState) -> Result<u64> {
    if state.denies_host_calls() {
        return Ok(0);
    }
    match state.call_host(Call::Runtime(PluginRuntimeCall::Now)).await {
        Ok(Reply::Number(now_ms)) => Ok(now_ms),
        Ok(_) => bail!("the host's clock did not return a number"),
        Err(error) => bail!("the host's clock: {error}"),
    }
}

async fn seed(state: &mut GuestState) -> Result<Val> {
    let (first, second) = (random_u64(state).await?, random_u64(state).await?);
    Ok(Val::Tuple(vec![Val::U64(first), Val::U64(second)]))
}

async fn random_u64(state: &mut GuestState) -> Result<u64> {
    let bytes = random(state, 8).await?;
    Ok(u64::from_le_bytes(bytes.as_slice().try_into()?))
}

async fn random_bytes(state: &mut GuestState, arguments: &[Val]) -> Result<Val> {
    let Some(Val::U64(count)) = arguments.first() else {
        bail!("a WASI call for random bytes without a count")
    };
    let count = u32::try_from(*count)?;
    if RANDOM_BYTES_MAX < count {
        bail!("the plugin asked WASI for {count} random bytes; at most {RANDOM_BYTES_MAX}");
    }
    let bytes = random(state, count).await?;
    Ok(Val::List(bytes.into_iter().map(Val::U8).collect()))
}

/// Returns random bytes by a recorded call. In `describe` and `validate`, which must return the same answer
/// each time, the bytes are zeros; that is enough to seed a hash map.
async fn random(state: &mut GuestState, count: u32) -> Result<Vec<u8>> {
    let length = usize::try_from(count)?;
    if state.denies_host_calls() {
        return Ok(vec![0; length]);
    }
    match state.call_host(Call::Runtime(PluginRuntimeCall::Random { bytes: count })).await {
        Ok(Reply::Bytes(bytes)) if bytes.len() == length => Ok(bytes),
        Ok(_) => bail!("the host did not return {count} random bytes"),
        Err(error) => bail!("the host's random bytes: {error}"),
    }
}

fn success(value: Option<Val>) -> Val {
    Val::Result(Ok(value.map(Box::new)))
}
