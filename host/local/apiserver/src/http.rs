//! Speaks HTTP: listens, negotiates, reads requests and writes answers.
//!
//! Nothing below here knows an object; nothing above knows a socket.

pub(crate) mod answer;
pub(crate) mod listener;
pub(crate) mod negotiate;
pub(crate) mod query;
pub(crate) mod request;
pub(crate) mod route;
