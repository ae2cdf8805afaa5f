//! Watches the client's own requests: counts them, and hears which watches the server goes on with.

use std::time::Instant;

use http::{Request, Response};
use kube::client::{Body, Client};
use metrics::{counter, histogram};
use tower::service_fn;

/// The client, with every request counted under the names of client-go.
pub(crate) fn counted(client: Client, namespace: String, host: String) -> Client {
    let service = service_fn(move |request: Request<Body>| {
        let (client, host) = (client.clone(), host.clone());
        async move {
            let method = request.method().to_string();
            let start = Instant::now();
            let answer = client.send(request).await;
            // client-go says the same where there is no answer.
            let code = answer.as_ref().map_or_else(
                |_| "<error>".to_owned(),
                |answer: &Response<Body>| answer.status().as_u16().to_string(),
            );
            let labels = [("method", method.clone()), ("host", host.clone()), ("code", code)];
            counter!("rest_client_requests_total", &labels).increment(1);
            histogram!("rest_client_request_duration_seconds", "verb" => method, "host" => host)
                .record(start.elapsed());
            answer
        }
    });
    Client::new(service, namespace)
}

/// The client, with `tell` called whenever the server begins or continues a watch.
pub(crate) fn heard(client: Client, tell: impl Fn() + Clone + Send + Sync + 'static) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = service_fn(move |request: Request<Body>| {
        let (client, tell) = (client.clone(), tell.clone());
        async move {
            let is_watch = request.uri().query().is_some_and(is_watch);
            let answer = client.send(request).await?;
            if is_watch && answer.status().is_success() {
                tell();
            }
            Ok::<_, kube::Error>(answer)
        }
    });
    Client::new(service, namespace)
}

fn is_watch(query: &str) -> bool {
    query.split('&').any(|parameter| matches!(parameter, "watch=true" | "watch=1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_known_by_its_query() {
        for (query, expected) in [
            ("watch=true&resourceVersion=1", true),
            ("allowWatchBookmarks=true&watch=true", true),
            ("limit=500", false),
            ("labelSelector=watch%3Dtrue", false),
        ] {
            assert_eq!(is_watch(query), expected, "{query}");
        }
    }
}
