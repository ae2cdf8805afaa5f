//! Finds a kind by any of its names, as kubectl does: kind, plural, singular or short name.
//!
//! It reads the resource lists itself, because kube's `ApiResource` has neither singular nor short names.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIResource, APIResourceList};
use tholepin_core::{CallError, ErrorChain};
use tholepin_schema::manifest::KindName;
use tokio::time::timeout;

use crate::{KubernetesApi, error::REQUEST_DEADLINE};

/// A kind that was found by one of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindFoundByName {
    /// The kind.
    pub kind: KindName,
    /// Whether its objects are in namespaces.
    pub is_namespaced: bool,
}

impl KubernetesApi {
    /// Returns the one among these kinds that has a name, in kubectl's forms: `rediscluster`,
    /// `redisclusters`, `RedisCluster` or a short name, each also with `.GROUP` or `.VERSION.GROUP`. Returns
    /// `None` if no kind has the name.
    ///
    /// # Errors
    ///
    /// Fails if discovery fails.
    pub async fn find_kind(
        &self,
        argument: &str,
        among: &[KindName],
    ) -> Result<Option<KindFoundByName>, CallError> {
        let mut versions: Vec<&str> = among.iter().map(|kind| kind.api_version.as_str()).collect();
        versions.sort_unstable();
        versions.dedup();
        for version in versions {
            let found = self.resources(version).await?;
            let kinds = among.iter().filter(|kind| kind.api_version == version);
            if let Some(found) = find_named(argument, kinds, &found) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Returns true if the objects of a kind are in namespaces.
    ///
    /// # Errors
    ///
    /// Fails if the API server does not know the kind, or if discovery fails.
    pub async fn is_namespaced(&self, kind: &KindName) -> Result<bool, CallError> {
        Ok(self.served(kind).await?.is_namespaced())
    }

    async fn resources(&self, api_version: &str) -> Result<Vec<APIResource>, CallError> {
        let request = async {
            if api_version.contains('/') {
                self.client.list_api_group_resources(api_version).await
            } else {
                self.client.list_core_api_resources(api_version).await
            }
        };
        match timeout(REQUEST_DEADLINE, request).await {
            Ok(Ok(APIResourceList { resources, .. })) => Ok(resources),
            // A plugin reconciles the kind, and its CustomResourceDefinition is not installed.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(Vec::new()),
            Ok(Err(error)) => {
                let text = format!("discovery of {api_version}: {}", ErrorChain(&error));
                Err(CallError::Transient(text))
            }
            Err(_) => {
                let text = format!("the API server did not answer discovery of {api_version}");
                Err(CallError::Timeout(text))
            }
        }
    }
}

/// Returns the kind that has a name, among the resources that the server serves in its group and version.
fn find_named<'a>(
    argument: &str,
    mut kinds: impl Iterator<Item = &'a KindName>,
    served: &[APIResource],
) -> Option<KindFoundByName> {
    let argument = argument.to_lowercase();
    let (name, rest) = match argument.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (argument.as_str(), None),
    };
    kinds.find_map(|kind| {
        let is_group = rest.is_none_or(|rest| {
            rest == kind.group() || rest == format!("{}.{}", kind.version(), kind.group())
        });
        let resource =
            served.iter().find(|served| served.kind == kind.kind && !served.name.contains('/'))?;
        let short = resource.short_names.iter().flatten();
        let names = [&resource.name, &resource.singular_name].into_iter().chain(short);
        let is_named =
            kind.kind.to_lowercase() == name || names.into_iter().any(|known| known == name);
        let found = KindFoundByName { kind: kind.clone(), is_namespaced: resource.namespaced };
        (is_group && is_named).then_some(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_every_name_that_kubectl_accepts() {
        let kind = KindName {
            api_version: "redis.tholepin.dev/v1alpha1".to_owned(),
            kind: "RedisCluster".to_owned(),
        };
        let resource = |name: &str, short: &[&str]| APIResource {
            name: name.to_owned(),
            singular_name: "rediscluster".to_owned(),
            kind: "RedisCluster".to_owned(),
            namespaced: true,
            short_names: Some(short.iter().map(|name| (*name).to_owned()).collect()),
            ..APIResource::default()
        };
        let served = [resource("redisclusters/status", &[]), resource("redisclusters", &["rdc"])];
        for argument in [
            "RedisCluster",
            "rediscluster",
            "redisclusters",
            "rdc",
            "redisclusters.redis.tholepin.dev",
            "rdc.v1alpha1.redis.tholepin.dev",
        ] {
            let found = find_named(argument, [&kind].into_iter(), &served);
            assert_eq!(found.map(|found| found.kind).as_ref(), Some(&kind), "{argument}");
        }
        for argument in
            ["pod", "redis", "redisclusters.example.org", "rdc.v2.redis.tholepin.dev", ""]
        {
            assert_eq!(find_named(argument, [&kind].into_iter(), &served), None, "{argument}");
        }
        assert_eq!(find_named("rdc", [&kind].into_iter(), &[]), None, "a kind that is not served");
    }
}
