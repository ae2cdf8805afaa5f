//! A connection to one process: dial, authenticate, send commands, read their replies.
//!
//! Invariants:
//! - A connection must not be used after an error, because a late reply would be taken for the reply to the next
//!   command.
//! - Nothing here has a deadline of its own; the callers set deadlines.

use std::{io, net::SocketAddr};

use tholepin_core::{
    CallError, RespReply,
    port::{RedisCredentials, ReplyRoom},
};
use tholepin_schema::snapshot::UnreachableReason;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    error,
    resp::{RespDecoder, RespError, encode},
};

/// The reason why a call to a process failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// The container does not run.
    #[error("its container does not run")]
    NotRunning,
    /// The Pod has no address.
    #[error("its Pod has no address yet")]
    NoAddress,
    /// No process listens at the address, or it cannot be reached.
    #[error("cannot connect")]
    Dial(#[source] io::Error),
    /// The process closed or reset the connection.
    #[error("the connection was lost")]
    Lost(#[source] io::Error),
    /// The container has ended.
    #[error("its container has ended")]
    Ended,
    /// The process refuses the credentials.
    #[error("the credentials are not accepted: {0}")]
    Auth(String),
    /// The process sent bytes that are not a reply.
    #[error("it does not speak the Redis protocol")]
    Protocol(#[source] RespError),
    /// The replies take more memory than the call may use.
    #[error("its replies take more than {0} bytes; request less in one call")]
    TooLarge(usize),
    /// The deadline passed.
    #[error("no answer within {0} ms")]
    Timeout(u128),
}

impl ConnectionError {
    /// Returns the reason for the snapshot.
    pub(crate) fn reason(&self) -> UnreachableReason {
        match self {
            Self::NotRunning => UnreachableReason::NotRunning,
            Self::NoAddress => UnreachableReason::NoAddress,
            Self::Dial(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                UnreachableReason::Refused
            }
            Self::Dial(_) | Self::Timeout(_) => UnreachableReason::Timeout,
            Self::Lost(_) | Self::Ended => UnreachableReason::Gone,
            Self::Auth(_) => UnreachableReason::Auth,
            Self::Protocol(_) | Self::TooLarge(_) => UnreachableReason::Protocol,
        }
    }

    /// Converts the error to that of a call to the member in `pod`.
    pub(crate) fn into_call_error(self, pod: &str) -> CallError {
        let text = format!("`{pod}`: {}", tholepin_core::ErrorChain(&self));
        match self {
            Self::NotRunning | Self::Lost(_) | Self::Ended => CallError::Gone(text),
            Self::Dial(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                CallError::Gone(text)
            }
            Self::Dial(_) | Self::NoAddress => CallError::Transient(text),
            Self::Auth(_) => CallError::Denied(text),
            Self::Protocol(_) => CallError::Other(text),
            Self::TooLarge(_) => CallError::Invalid(text),
            Self::Timeout(_) => CallError::Timeout(text),
        }
    }

    /// Returns true if commands may have reached the process before this error.
    pub(crate) const fn may_have_run(&self) -> bool {
        match self {
            Self::NotRunning | Self::NoAddress | Self::Dial(_) | Self::Auth(_) => false,
            Self::Lost(_)
            | Self::Ended
            | Self::Protocol(_)
            | Self::TooLarge(_)
            | Self::Timeout(_) => true,
        }
    }
}

impl From<RespError> for ConnectionError {
    fn from(error: RespError) -> Self {
        match error {
            RespError::NoRoom(bytes_max) => Self::TooLarge(bytes_max),
            RespError::Type(_) | RespError::Malformed(_) | RespError::TooLarge(_) => {
                Self::Protocol(error)
            }
        }
    }
}

/// An open connection, authenticated if there is a password.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    decoder: RespDecoder,
}

impl Connection {
    /// Dials and authenticates.
    pub(crate) async fn open(
        address: SocketAddr,
        credentials: &RedisCredentials,
    ) -> Result<Self, ConnectionError> {
        let stream = TcpStream::connect(address).await.map_err(ConnectionError::Dial)?;
        stream.set_nodelay(true).map_err(ConnectionError::Dial)?;
        let mut connection = Self { stream, decoder: RespDecoder::default() };
        let RedisCredentials { user, password } = credentials;
        if let Some(password) = password {
            let arguments = [Some("AUTH"), user.as_deref(), Some(password)];
            let auth = arguments
                .into_iter()
                .flatten()
                .map(|argument| argument.as_bytes().to_vec())
                .collect();
            let replies = connection.exchange(&[auth]).await?;
            if let Some(text) = replies.first().and_then(error::error_text) {
                return Err(ConnectionError::Auth(text.to_owned()));
            }
        }
        Ok(connection)
    }

    /// Sends commands of the host itself and reads one reply for each.
    pub(crate) async fn exchange(
        &mut self,
        commands: &[Vec<Vec<u8>>],
    ) -> Result<Vec<RespReply>, ConnectionError> {
        self.exchange_within(commands, &ReplyRoom::new(usize::MAX)).await
    }

    /// Sends commands and reads one reply for each, all within `room`.
    pub(crate) async fn exchange_within(
        &mut self,
        commands: &[Vec<Vec<u8>>],
        room: &ReplyRoom,
    ) -> Result<Vec<RespReply>, ConnectionError> {
        let bytes = encode(commands);
        let Self { stream, decoder } = self;
        let (mut reader, mut writer) = stream.split();
        // Sends and receives concurrently, because a server that cannot send its replies stops reading commands.
        let send = async { writer.write_all(&bytes).await.map_err(ConnectionError::Lost) };
        let receive = async {
            let mut replies = Vec::with_capacity(commands.len());
            let mut chunk = vec![0; 16 * 1024];
            while replies.len() < commands.len() {
                if let Some(reply) = decoder.next_reply_within(room)? {
                    replies.push(reply);
                    continue;
                }
                let count = reader.read(&mut chunk).await.map_err(ConnectionError::Lost)?;
                if count == 0 {
                    return Err(ConnectionError::Lost(io::ErrorKind::UnexpectedEof.into()));
                }
                if !room.take(count) {
                    return Err(RespError::NoRoom(room.bytes_max()).into());
                }
                decoder.push(chunk.get(..count).unwrap_or_default());
            }
            Ok(replies)
        };
        let ((), replies) = tokio::try_join!(send, receive)?;
        Ok(replies)
    }

    /// Returns true if the connection is open and no unexpected bytes have arrived.
    pub(crate) fn is_usable(&self) -> bool {
        let waiting = self.stream.try_read(&mut [0; 1]);
        let is_quiet = matches!(waiting, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        is_quiet && self.decoder.is_clean()
    }

    /// Waits until the process closes the connection or sends unexpected bytes.
    pub(crate) async fn closed_or_unexpected(&self) {
        // An error of `readable` also ends the wait.
        while self.stream.readable().await.is_ok() {
            if !self.is_usable() {
                return;
            }
        }
    }
}
