//! What wasmtime makes of `wit/`: the host's side of the contract. Generated; nothing is decided here.

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "tholepin:host/reconciler",
    imports: { default: async },
    exports: { default: async },
});
