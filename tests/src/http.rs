//! A minimal HTTP client for plain HTTP addresses, such as the metrics address.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};

/// The longest time for a connect and for a pause within the response.
const DEADLINE: Duration = Duration::from_secs(5);

/// Gets a path: HTTP status and body.
///
/// # Errors
///
/// Fails if the server does not answer in time, or not with HTTP.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    // With HTTP 1.0 the response is not chunked, and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no end of headers")?;
    let code = head.split(' ').nth(1).context("the answer has no status")?;
    Ok((code.parse()?, body.to_owned()))
}
