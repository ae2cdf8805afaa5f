//! A client that follows a Redis Cluster's redirections and otherwise hides nothing: what fails, fails
//! at once, so that an outage is measured and not smoothed over.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use redis::{Client, Cmd, Connection, FromRedisValue, IntoConnectionInfo, RedisError};

/// How long a connection may take to be made, and a command to be answered.
const ANSWER_DEADLINE: Duration = Duration::from_millis(250);
/// The most redirections of one command.
const REDIRECTIONS_MAX: usize = 5;

/// A client of one cluster.
pub struct ClusterClient {
    entry: String,
    password: Option<String>,
    connections: BTreeMap<String, Connection>,
    /// Where each key's owner was found last, by the text between its braces.
    homes: BTreeMap<String, String>,
}

impl ClusterClient {
    /// A client that enters at an address `ip:port`, such as the client Service's.
    #[must_use]
    pub fn new(entry: &str, password: Option<&str>) -> Self {
        Self {
            entry: entry.to_owned(),
            password: password.map(str::to_owned),
            connections: BTreeMap::new(),
            homes: BTreeMap::new(),
        }
    }

    /// Sends a command about keys with this tag, following redirections once each.
    ///
    /// # Errors
    ///
    /// Fails as soon as a server cannot be reached or answers an error that is no redirection; the
    /// next call starts at the entry again.
    pub fn send<T: FromRedisValue>(&mut self, tag: &str, command: &Cmd) -> Result<T> {
        let mut address = self.homes.get(tag).cloned().unwrap_or_else(|| self.entry.clone());
        for _ in 0..REDIRECTIONS_MAX {
            match self.ask(&address, command) {
                Ok(answer) => {
                    self.homes.insert(tag.to_owned(), address);
                    return Ok(answer);
                }
                Err(error) => match moved_to(&error) {
                    Some(next) => address = next,
                    None => {
                        self.connections.remove(&address);
                        self.homes.remove(tag);
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
    /// Fails if it cannot be reached or answers an error.
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
/// Fails if the server refuses, is silent, or wants another password.
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
