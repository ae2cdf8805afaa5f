//! Checks the ends of every range in the table of settings with a real server.
//!
//! The server must accept every value that the table accepts, because otherwise it would not start. It must
//! refuse every value that the table refuses, except where the table is stricter on purpose.
#![cfg(test)]

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tholepin_redis_types::setting::{self, OFFERED, RedisSettingType};

/// How long a server may take to listen or to end.
const START_MAX: Duration = Duration::from_secs(20);

/// Values that the server accepts and the table refuses; `table.rs` gives the reasons.
const STRICTER: &[(&str, &str)] = &[
    ("hz", "0"),
    ("hz", "501"),
    ("list-max-listpack-size", "-6"),
    ("maxclients", "1048545"),
    ("maxmemory", "9223372036854775808"),
    ("maxmemory-samples", "65"),
    ("repl-backlog-size", "16383"),
    ("repl-backlog-size", "68719476737"),
    ("repl-backlog-ttl", "2147483648"),
    ("slowlog-max-len", "1000001"),
];

/// Values whose acceptance depends on how the server was built, which a spec does not say; the server itself
/// refuses them.
const DEPENDS_ON_THE_BUILD: &[(&str, &str)] = &[("activedefrag", "yes")];

#[test]
fn the_server_agrees_with_the_table() {
    let directory = Directory::new("edges");
    let mut server = Server::start(&directory.0, &[]).expect("a server without settings starts");
    for offered in OFFERED {
        let before = server.get(offered.name);
        let (accepted, refused) = edges(offered.kind);
        for value in accepted {
            assert_eq!(setting::check(offered.name, &value), Ok(()), "{} {value}", offered.name);
            if DEPENDS_ON_THE_BUILD.contains(&(offered.name, value.as_str())) {
                continue;
            }
            let answer = server.set(offered.name, &value);
            let accepted_by_server = answer.starts_with("+OK") || starts_with(offered.name, &value);
            assert!(accepted_by_server, "the engine refuses `{} {value}`: {answer}", offered.name);
            let shown = setting::as_shown(offered.name, &value);
            if let Some(shown) = shown.filter(|_| answer.starts_with("+OK")) {
                assert_eq!(server.get(offered.name), shown, "{} {value}", offered.name);
            }
        }
        for value in refused {
            assert!(setting::check(offered.name, &value).is_err(), "{} {value}", offered.name);
            let stricter = STRICTER.contains(&(offered.name, value.as_str()));
            let answer = server.set(offered.name, &value);
            let accepted_by_server = if answer.contains("immutable") {
                starts_with(offered.name, &value)
            } else {
                answer.starts_with("+OK")
            };
            // The system's limit on open files is no statement about the range.
            let by_the_system = answer.contains("operating system");
            assert!(
                accepted_by_server == stricter || by_the_system,
                "`{} {value}`: the server replies {answer}; stricter on purpose: {stricter}",
                offered.name
            );
        }
        server.set(offered.name, &before);
    }
}

#[test]
fn a_server_starts_with_all_smallest_and_all_largest_values() {
    for name in ["smallest", "largest"] {
        let lines: Vec<String> = OFFERED
            .iter()
            .filter_map(|offered| {
                let (mut accepted, _) = edges(offered.kind);
                accepted.retain(|value| {
                    !DEPENDS_ON_THE_BUILD.contains(&(offered.name, value.as_str()))
                });
                let value = if name == "smallest" { accepted.first()? } else { accepted.last()? };
                let value = if value.is_empty() { "\"\"" } else { value };
                Some(format!("{} {value}", offered.name))
            })
            .collect();
        let directory = Directory::new(name);
        let started = Server::start(&directory.0, &lines);
        assert!(started.is_ok(), "{name}: {}", started.err().unwrap_or_default());
    }
}

/// Returns values at both sides of every end of a range: the accepted ones, smallest first, and the refused
/// ones.
fn edges(kind: RedisSettingType) -> (Vec<String>, Vec<String>) {
    let texts = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>();
    match kind {
        RedisSettingType::Integer { min, max } => (
            vec![min.to_string(), max.to_string()],
            vec![
                (i128::from(min) - 1).to_string(),
                (i128::from(max) + 1).to_string(),
                "+7".to_owned(),
                "07".to_owned(),
                "many".to_owned(),
            ],
        ),
        RedisSettingType::Memory { min, max } => {
            let mut refused = texts(&["lots", "-1", "1 mb", "1tb", "mb1"]);
            refused.push((u128::from(max) + 1).to_string());
            refused.extend(min.checked_sub(1).map(|less| less.to_string()));
            let accepted =
                [min.to_string(), "1GB".to_owned(), "2000000k".to_owned(), max.to_string()];
            (accepted.to_vec(), refused)
        }
        RedisSettingType::YesNo => (texts(&["no", "yes"]), texts(&["true", "1", "maybe", ""])),
        RedisSettingType::OneOf(arguments) => (texts(arguments), texts(&["other", ""])),
        RedisSettingType::BufferLimits => (
            texts(&[
                "normal 0 0 0",
                "pubsub 32mb 8mb 60",
                "replica 256mb 64mb 60 normal 1gb 1gb 0",
                "slave 9223372036854775807 1k 2147483647",
            ]),
            texts(&[
                "lots",
                "replica 1mb 1mb",
                "other 0 0 0",
                "master 0 0 0",
                "replica 1x 0 0",
                "replica 0 0 -1",
                "replica 0 0 2147483648",
                "normal 0 0 0 pubsub",
            ]),
        ),
        RedisSettingType::EventLetters => {
            (texts(&["", "KEA", "g$lshzxetdmn"]), texts(&["hello", "K E", "a"]))
        }
    }
}

/// Returns true if a server starts with one setting.
fn starts_with(name: &str, value: &str) -> bool {
    let directory = Directory::new(name);
    Server::start(&directory.0, &[format!("{name} {value}")]).is_ok()
}

/// A temporary directory for one server, removed on drop.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("tholepin-settings-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A server that listens on a socket file only; it is killed on drop.
struct Server {
    process: Child,
    connection: BufReader<UnixStream>,
}

impl Server {
    /// Starts a server with these lines in its file; on failure returns its last output.
    fn start(directory: &Path, lines: &[String]) -> Result<Self, String> {
        let socket = directory.join("socket");
        let file = directory.join("redis.conf");
        let text = format!(
            "port 0\nunixsocket {}\ndir {}\nsave \"\"\n{}\n",
            socket.display(),
            directory.display(),
            lines.join("\n")
        );
        fs::write(&file, text).unwrap();
        let mut process = Command::new("redis-server")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("`redis-server` is installed");
        let end = Instant::now() + START_MAX;
        loop {
            if let Ok(stream) = UnixStream::connect(&socket) {
                return Ok(Self { process, connection: BufReader::new(stream) });
            }
            if process.try_wait().unwrap().is_some() || end < Instant::now() {
                let _ = process.kill();
                process.wait().unwrap();
                let mut arguments = String::new();
                process.stderr.take().unwrap().read_to_string(&mut arguments).unwrap();
                return Err(arguments);
            }
            std::thread::yield_now();
        }
    }

    fn set(&mut self, name: &str, value: &str) -> String {
        self.send(&["CONFIG", "SET", name, value])
    }

    /// Returns the current value; the reply is an array of name and value.
    fn get(&mut self, name: &str) -> String {
        assert_eq!(self.send(&["CONFIG", "GET", name]), "*2", "{name}");
        let [_, _, _, value] = [(); 4].map(|()| self.line());
        value
    }

    fn send(&mut self, arguments: &[&str]) -> String {
        let mut command = format!("*{}\r\n", arguments.len());
        for argument in arguments {
            command.push_str(&format!("${}\r\n{argument}\r\n", argument.len()));
        }
        self.connection.get_mut().write_all(command.as_bytes()).unwrap();
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.connection.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
