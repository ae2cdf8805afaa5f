//! Layers around the `kube` client: request metrics, the user agent, and a callback for accepted watches.

use std::time::Instant;

use http::{
    Request, Response,
    header::{HeaderValue, USER_AGENT},
};
use kube::client::{Body, Client};
use metrics::{counter, histogram};
use tower::service_fn;

/// Returns the client with every request counted under the metric names of client-go.
pub(crate) fn with_request_metrics(client: Client, namespace: String, host: String) -> Client {
    let service = service_fn(move |request: Request<Body>| {
        let (client, host) = (client.clone(), host.clone());
        async move {
            let method = request.method().to_string();
            let start = Instant::now();
            let response = client.send(request).await;
            // client-go uses the same label value if there is no reply.
            let code = response.as_ref().map_or_else(
                |_| "<error>".to_owned(),
                |response: &Response<Body>| response.status().as_u16().to_string(),
            );
            let labels = [("method", method.clone()), ("host", host.clone()), ("code", code)];
            counter!("rest_client_requests_total", &labels).increment(1);
            histogram!("rest_client_request_duration_seconds", "verb" => method, "host" => host)
                .record(start.elapsed());
            response
        }
    });
    Client::new(service, namespace)
}

/// Returns the client with this user agent on every request that has none yet. `kube::Config::headers` would do
/// the same with a client, and thus a connection pool, per plugin.
pub(crate) fn with_user_agent(client: Client, agent: HeaderValue) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = service_fn(move |mut request: Request<Body>| {
        let (client, agent) = (client.clone(), agent.clone());
        async move {
            request.headers_mut().entry(USER_AGENT).or_insert(agent);
            client.send(request).await
        }
    });
    Client::new(service, namespace)
}

/// Returns the client with `callback` called whenever the server accepts a watch request.
pub(crate) fn with_watch_callback(
    client: Client,
    callback: impl Fn() + Clone + Send + Sync + 'static,
) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = service_fn(move |request: Request<Body>| {
        let (client, callback) = (client.clone(), callback.clone());
        async move {
            let is_watch = request.uri().query().is_some_and(is_watch);
            let response = client.send(request).await?;
            if is_watch && response.status().is_success() {
                callback();
            }
            Ok::<_, kube::Error>(response)
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

    #[tokio::test]
    async fn a_request_has_the_user_agent_of_its_plugin() {
        let server = service_fn(|request: Request<Body>| async move {
            let agent = request.headers()[USER_AGENT].clone();
            Ok::<_, kube::Error>(
                Response::builder().header("x-agent", agent).body(Body::empty()).unwrap(),
            )
        });
        let host =
            with_user_agent(Client::new(server, "n"), HeaderValue::from_static("tholepin/1"));
        let plugin = with_user_agent(host.clone(), HeaderValue::from_static("tholepin:p/1"));
        for (client, expected) in [(host, "tholepin/1"), (plugin, "tholepin:p/1")] {
            let request = Request::get("http://192.0.2.1/").body(Body::empty()).unwrap();
            assert_eq!(client.send(request).await.unwrap().headers()["x-agent"], expected);
        }
    }

    #[test]
    fn a_watch_request_is_recognised_by_its_query() {
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
