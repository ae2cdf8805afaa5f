//! Answers what a language's standard library imports of WASI, without any authority.
//!
//! There is no environment, no argument, no file and no network. Standard output and error become log
//! lines; clocks and randomness are recorded calls; `exit` and everything else is a trap that says which
//! function it was. The version that the guest asks for does not matter: functions are matched by name,
//! and one of another shape does not link.

use std::sync::Arc;

use tholepin_core::{BoxedFuture, Call, Reply, RuntimeCall};
use wasmtime::{
    AsContextMut, Result, StoreContextMut, bail,
    component::{
        Component, Linker, LinkerInstance, Resource, ResourceType, Val, types::ComponentItem,
    },
};

use crate::state::GuestState;

/// Every WASI resource has this one type on our side: there are no contents to tell apart.
struct EmptyResource;

/// The most random bytes that one WASI call gives.
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
            bail!("the import `{interface}` is no interface");
        };
        let mut defined = linker.instance(interface)?;
        for (name, export) in instance.exports(&engine) {
            match export.ty {
                ComponentItem::ComponentFunc(_) => define_function(&mut defined, interface, name)?,
                ComponentItem::Resource(_) => {
                    defined.resource(name, ResourceType::host::<EmptyResource>(), |_, _| Ok(()))?;
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

/// How a WASI function is answered.
enum WasiStub {
    /// Without asking anybody.
    Constant(fn(StoreContextMut<'_, GuestState>) -> Result<Val>),
    /// By a recorded call, or by the log.
    Asked(for<'a> fn(&'a mut GuestState, &'a [Val]) -> BoxedFuture<'a, Result<Val>>),
    /// By returning nothing.
    Nothing,
    /// By a trap.
    Trap(String),
}

fn define_function(
    linker: &mut LinkerInstance<'_, GuestState>,
    interface: &str,
    name: &str,
) -> Result<()> {
    let stub = Arc::new(stub(interface, name));
    linker.func_new_async(name, move |mut context, _, given, results| {
        let stub = Arc::clone(&stub);
        Box::new(async move {
            let value = match &*stub {
                WasiStub::Constant(value) => Some(value(context.as_context_mut())?),
                WasiStub::Asked(ask) => Some(ask(context.data_mut(), given).await?),
                WasiStub::Nothing => None,
                WasiStub::Trap(text) => bail!("{text}"),
            };
            // A handle that was lent must be given back, else the call is a trap.
            for handle in given {
                if let Val::Resource(handle) = handle {
                    handle.resource_drop_async(&mut context).await?;
                }
            }
            match (value, results.first_mut()) {
                (Some(value), Some(result)) => *result = value,
                (None, None) => {}
                _ => bail!("a WASI function of an unknown shape"),
            }
            Ok(())
        })
    })
}

/// The whole table.
fn stub(interface: &str, name: &str) -> WasiStub {
    let package = interface.split('@').next().unwrap_or(interface);
    match (package, name) {
        ("wasi:cli/environment", "get-environment" | "get-arguments")
        | ("wasi:filesystem/preopens", "get-directories") => {
            WasiStub::Constant(|_| Ok(Val::List(Vec::new())))
        }
        ("wasi:cli/environment", "initial-cwd")
        | (
            "wasi:cli/terminal-stdin" | "wasi:cli/terminal-stdout" | "wasi:cli/terminal-stderr",
            "get-terminal-stdin" | "get-terminal-stdout" | "get-terminal-stderr",
        ) => WasiStub::Constant(|_| Ok(Val::Option(None))),
        (
            "wasi:cli/stdin" | "wasi:cli/stdout" | "wasi:cli/stderr",
            "get-stdin" | "get-stdout" | "get-stderr",
        )
        | ("wasi:io/streams", "[method]output-stream.subscribe") => WasiStub::Constant(|context| {
            let handle: Resource<EmptyResource> = Resource::new_own(0);
            Ok(Val::Resource(handle.try_into_resource_any(context)?))
        }),
        // Output never has to wait.
        ("wasi:io/poll", "[method]pollable.block") => WasiStub::Nothing,
        ("wasi:io/poll", "[method]pollable.ready") => WasiStub::Constant(|_| Ok(Val::Bool(true))),
        ("wasi:io/streams", "[method]output-stream.check-write") => {
            WasiStub::Constant(|_| Ok(success(Some(Val::U64(4096)))))
        }
        (
            "wasi:io/streams",
            "[method]output-stream.flush" | "[method]output-stream.blocking-flush",
        ) => WasiStub::Constant(|_| Ok(success(None))),
        (
            "wasi:io/streams",
            "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush",
        ) => WasiStub::Asked(|state, given| Box::pin(write(state, given))),
        ("wasi:clocks/wall-clock", "now") => {
            WasiStub::Asked(|state, _| Box::pin(wall_clock(state)))
        }
        ("wasi:clocks/monotonic-clock", "now") => WasiStub::Asked(|state, _| {
            Box::pin(async { Ok(Val::U64(now_ms(state).await?.saturating_mul(1_000_000))) })
        }),
        ("wasi:random/random", "get-random-u64")
        | ("wasi:random/insecure", "get-insecure-random-u64") => {
            WasiStub::Asked(|state, _| Box::pin(async { Ok(Val::U64(random_u64(state).await?)) }))
        }
        ("wasi:random/insecure-seed", "insecure-seed" | "get-insecure-seed") => {
            WasiStub::Asked(|state, _| Box::pin(seed(state)))
        }
        ("wasi:random/random", "get-random-bytes")
        | ("wasi:random/insecure", "get-insecure-random-bytes") => {
            WasiStub::Asked(|state, given| Box::pin(random_bytes(state, given)))
        }
        ("wasi:cli/exit", _) => WasiStub::Trap("the plugin wanted to exit the process".to_owned()),
        _ => WasiStub::Trap(format!("the plugin called `{interface}#{name}`, which is not there")),
    }
}

async fn write(state: &mut GuestState, given: &[Val]) -> Result<Val> {
    // The first argument is the stream.
    let Some(Val::List(items)) = given.get(1) else { bail!("no bytes to write") };
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

async fn now_ms(state: &mut GuestState) -> Result<u64> {
    match state.ask(Call::Runtime(RuntimeCall::Now)).await {
        Ok(Reply::Number(now_ms)) => Ok(now_ms),
        Ok(_) => bail!("the host's clock gave no number"),
        Err(error) => bail!("the host's clock: {error}"),
    }
}

async fn seed(state: &mut GuestState) -> Result<Val> {
    let one = random_u64(state).await?;
    let other = random_u64(state).await?;
    Ok(Val::Tuple(vec![Val::U64(one), Val::U64(other)]))
}

async fn random_u64(state: &mut GuestState) -> Result<u64> {
    let bytes = random(state, 8).await?;
    Ok(u64::from_le_bytes(bytes.as_slice().try_into()?))
}

async fn random_bytes(state: &mut GuestState, given: &[Val]) -> Result<Val> {
    let Some(Val::U64(count)) = given.first() else { bail!("no count of random bytes") };
    let count = u32::try_from(*count)?;
    if RANDOM_BYTES_MAX < count {
        bail!("the plugin asked WASI for {count} random bytes; at most {RANDOM_BYTES_MAX}");
    }
    let bytes = random(state, count).await?;
    Ok(Val::List(bytes.into_iter().map(Val::U8).collect()))
}

/// Random bytes from the recording. In `describe` and `validate`, which must give the same answer each
/// time, they are zeros: enough for the seed of a hash map.
async fn random(state: &mut GuestState, count: u32) -> Result<Vec<u8>> {
    let length = usize::try_from(count)?;
    if state.is_sealed() {
        return Ok(vec![0; length]);
    }
    match state.ask(Call::Runtime(RuntimeCall::Random { bytes: count })).await {
        Ok(Reply::Bytes(bytes)) if bytes.len() == length => Ok(bytes),
        Ok(_) => bail!("the host gave no {count} random bytes"),
        Err(error) => bail!("the host's random bytes: {error}"),
    }
}

fn success(value: Option<Val>) -> Val {
    Val::Result(Ok(value.map(Box::new)))
}
