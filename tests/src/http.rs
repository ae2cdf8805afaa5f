//! Looks at an address over plain HTTP, as a scraper does.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};

/// How long a connection, and a silence within the answer, may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Gets a path: status and body.
///
/// # Errors
///
/// Fails if nobody answers in time, or with something that is not HTTP.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    // Version 1.0: the answer comes as a whole, and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has headers")?;
    let code = head.split(' ').nth(1).context("an answer has a status")?;
    Ok((code.parse()?, body.to_owned()))
}
