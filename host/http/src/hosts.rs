//! The `Host` names to which a server answers, as a protection against DNS rebinding: if a web page points a domain
//! name of its own at the server's address, the browser sends that name, and the server refuses the request.

use std::{collections::BTreeSet, net::IpAddr};

use hyper::{header::HOST, http::request::Parts};

/// The names of a server, without ports, in lower case.
#[derive(Clone, Debug)]
pub struct AllowedHostHeaders(BTreeSet<String>);

/// A request was sent to a name that is not the server's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this server is not `{0}`")]
pub struct HostHeaderError(pub String);

impl AllowedHostHeaders {
    /// Allows an address and these names.
    #[must_use]
    pub fn new(address: IpAddr, names: &[&str]) -> Self {
        let mut hosts: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        hosts.insert(match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        });
        Self(hosts)
    }

    /// Checks that a request was sent to one of the names. A request can have a name in its URI and in its `Host`
    /// header; each must be allowed, and at least one must be present.
    ///
    /// # Errors
    ///
    /// Fails with the first name of the request; an empty one if the request has none.
    pub fn check(&self, parts: &Parts) -> Result<(), HostHeaderError> {
        let authority = parts.uri.authority().map(|authority| authority.as_str());
        let header = parts.headers.get(HOST).map(|value| value.to_str().unwrap_or(""));
        let mut named = authority.into_iter().chain(header).peekable();
        if named.peek().is_some() && named.all(|host| self.contains(host)) {
            return Ok(());
        }
        Err(HostHeaderError(authority.or(header).unwrap_or("").to_owned()))
    }

    fn contains(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        self.0.contains(&name.to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    #[test]
    fn every_name_in_a_request_must_be_allowed() {
        let hosts = AllowedHostHeaders::new([127, 0, 0, 1].into(), &["localhost"]);
        let rows = [
            ("/", Some("127.0.0.1:80"), true),
            ("/", Some("LOCALHOST"), true),
            ("http://localhost:1/", Some("localhost:1"), true),
            ("/", None, false),
            ("/", Some(""), false),
            ("/", Some("evil.example"), false),
            ("/", Some("127.0.0.1.evil.example"), false),
            ("/", Some("localhost:evil"), false),
            ("http://evil.example/", Some("localhost"), false),
            ("http://localhost/", Some("evil.example"), false),
        ];
        for (uri, host, expected) in rows {
            let mut request = Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header(HOST, host);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(hosts.check(&parts).is_ok(), expected, "{uri} {host:?}");
        }
        let ipv6 = AllowedHostHeaders::new("::1".parse().unwrap(), &[]);
        assert!(ipv6.contains("[::1]:80") && !ipv6.contains("::1"));
    }
}
