//! Chooses the shape of an answer from the `Accept` header. Answers are always JSON.

use crate::status::Failure;

/// How objects are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As they are.
    Whole,
    /// As `Table` rows.
    Table,
    /// Only their metadata.
    Metadata,
    /// Discovery in one document, `apidiscovery.k8s.io/v2`.
    DiscoveryV2,
    /// The same in its beta version.
    DiscoveryV2Beta1,
}

/// Picks the first shape that the client accepts and the server has.
///
/// `Accept` lists are read in order, which is how Kubernetes clients write their preference; protobuf
/// is passed over.
///
/// # Errors
///
/// 406 where nothing on the list can be had.
pub(crate) fn choose(accept: Option<&str>) -> Result<Shape, Failure> {
    let accept = accept.unwrap_or("").trim();
    if accept.is_empty() {
        return Ok(Shape::Whole);
    }
    accept.split(',').find_map(shape).ok_or_else(|| {
        Failure::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        )
    })
}

fn shape(range: &str) -> Option<Shape> {
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
        ("", ..) => Some(Shape::Whole),
        ("Table", "meta.k8s.io", "v1") => Some(Shape::Table),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
            Some(Shape::Metadata)
        }
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Some(Shape::DiscoveryV2),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => {
            Some(Shape::DiscoveryV2Beta1)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expected: Option<Shape>) {
        assert_eq!(choose(Some(accept)).ok(), expected, "{accept}");
    }

    #[test]
    fn the_first_shape_that_can_be_had_is_chosen() {
        check("", Some(Shape::Whole));
        check("*/*", Some(Shape::Whole));
        check("application/vnd.kubernetes.protobuf,application/json", Some(Shape::Whole));
        check("application/vnd.kubernetes.protobuf", None);
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some(Shape::Table),
        );
        check(
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            Some(Shape::Metadata),
        );
        check(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
            Some(Shape::DiscoveryV2),
        );
    }
}
