//! Content negotiation: the response format for an `Accept` header. Responses are always JSON.

use crate::status::ApiError;

/// The format in which objects are returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseFormat {
    /// Whole objects.
    Whole,
    /// As `Table` rows.
    Table,
    /// Only their metadata.
    Metadata,
    /// Aggregated discovery, `apidiscovery.k8s.io/v2`.
    DiscoveryV2,
    /// Aggregated discovery, `apidiscovery.k8s.io/v2beta1`.
    DiscoveryV2Beta1,
}

/// Returns the first format in the `Accept` header that the server supports.
///
/// The order of the header decides, because Kubernetes clients list their preferred format first. Protobuf is not
/// supported and is skipped.
///
/// # Errors
///
/// 406 if the server supports no format of the header.
pub(crate) fn choose(accept: Option<&str>) -> Result<ResponseFormat, ApiError> {
    let accept = accept.unwrap_or("").trim();
    if accept.is_empty() {
        return Ok(ResponseFormat::Whole);
    }
    accept.split(',').find_map(response_format).ok_or_else(|| {
        ApiError::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        )
    })
}

fn response_format(range: &str) -> Option<ResponseFormat> {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or("");
    if !matches!(media, "application/json" | "*/*" | "application/*" | "text/plain" | "text/*") {
        return None;
    }
    let (mut as_, mut group, mut version) = ("", "", "");
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match name.trim() {
            "as" => as_ = value.trim(),
            "g" => group = value.trim(),
            "v" => version = value.trim(),
            _ => {}
        }
    }
    match (as_, group, version) {
        ("", ..) => Some(ResponseFormat::Whole),
        ("Table", "meta.k8s.io", "v1") => Some(ResponseFormat::Table),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
            Some(ResponseFormat::Metadata)
        }
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Some(ResponseFormat::DiscoveryV2),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => {
            Some(ResponseFormat::DiscoveryV2Beta1)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expected: Option<ResponseFormat>) {
        assert_eq!(choose(Some(accept)).ok(), expected, "{accept}");
    }

    #[test]
    fn the_first_supported_format_is_chosen() {
        check("", Some(ResponseFormat::Whole));
        check("*/*", Some(ResponseFormat::Whole));
        check("application/vnd.kubernetes.protobuf,application/json", Some(ResponseFormat::Whole));
        check("application/vnd.kubernetes.protobuf", None);
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some(ResponseFormat::Table),
        );
        check(
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            Some(ResponseFormat::Metadata),
        );
        check(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
            Some(ResponseFormat::DiscoveryV2),
        );
    }
}
