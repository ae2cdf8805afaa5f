//! A client that follows the redirections of a Redis Cluster and retries nothing: an error is returned
//! immediately, so that outages are measured and not hidden.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use redis::{Client, Cmd, Connection, FromRedisValue, IntoConnectionInfo, RedisError};

/// The longest time for a connect and for a reply.
const ANSWER_DEADLINE: Duration = Duration::from_millis(250);
/// The most redirections of one command.
const REDIRECTIONS_MAX: usize = 5;

/// A client of one cluster.
pub struct ClusterClient {
    entry: String,
    password: Option<String>,
    connections: BTreeMap<String, Connection>,
    /// The address that last served each tag (the text between the braces of a key).
    owners: BTreeMap<String, String>,
}

impl ClusterClient {
    /// Creates a client that starts at an address `ip:port`, such as the client Service's.
    #[must_use]
    pub fn new(entry: &str, password: Option<&str>) -> Self {
        Self {
            entry: entry.to_owned(),
            password: password.map(str::to_owned),
            connections: BTreeMap::new(),
            owners: BTreeMap::new(),
        }
    }

    /// Sends a command about keys with this tag and follows redirections.
    ///
    /// # Errors
    ///
    /// Fails if a server cannot be reached or replies with an error that is not a redirection; the next call
    /// starts at the entry address again.
    pub fn send<T: FromRedisValue>(&mut self, tag: &str, command: &Cmd) -> Result<T> {
        let mut address = self.owners.get(tag).cloned().unwrap_or_else(|| self.entry.clone());
        for _ in 0..REDIRECTIONS_MAX {
            match self.ask(&address, command) {
                Ok(answer) => {
                    self.owners.insert(tag.to_owned(), address);
                    return Ok(answer);
                }
                Err(error) => match moved_to(&error) {
                    Some(next) => address = next,
                    None => {
                        self.connections.remove(&address);
                        self.owners.remove(tag);
                        return Err(error);
                    }
                },
            }
        }
        bail!("more than {REDIRECTIONS_MAX} redirections for `{tag}`")
    }

    /// Sends a command to one server.
    ///
    /// # Errors
    ///
    /// Fails if the server cannot be reached or replies with an error.
    pub fn ask<T: FromRedisValue>(&mut self, address: &str, command: &Cmd) -> Result<T> {
        if !self.connections.contains_key(address) {
            let connection = connect(address, self.password.as_deref())?;
            self.connections.insert(address.to_owned(), connection);
        }
        let connection = self.connections.get_mut(address).context("just connected")?;
        let start = Instant::now();
        let answer = command.query(connection);
        answer.with_context(|| format!("{address} after {:?}", start.elapsed()))
    }
}

fn moved_to(error: &anyhow::Error) -> Option<String> {
    let error = error.downcast_ref::<RedisError>()?;
    error.redirect_node().map(|(address, _)| address.to_owned())
}

/// Connects and authenticates within the deadline.
///
/// # Errors
///
/// Fails if the server refuses, does not answer, or expects another password.
pub fn connect(address: &str, password: Option<&str>) -> Result<Connection> {
    let info = format!("redis://{address}/").into_connection_info()?;
    let mut settings = info.redis_settings().clone();
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    let client = Client::open(info.set_redis_settings(settings))?;
    let connection = client.get_connection_with_timeout(ANSWER_DEADLINE);
    let connection = connection.with_context(|| format!("cannot connect to {address}"))?;
    connection.set_read_timeout(Some(ANSWER_DEADLINE))?;
    connection.set_write_timeout(Some(ANSWER_DEADLINE))?;
    Ok(connection)
}
