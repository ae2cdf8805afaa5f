//! The HTTP side: listener, content negotiation, requests and responses.
//!
//! The modules below do not read objects; the other modules of the crate do not use sockets.

pub(crate) mod answer;
pub(crate) mod listener;
pub(crate) mod negotiate;
pub(crate) mod query;
pub(crate) mod request;
pub(crate) mod route;
