use serde_json::json;

use super::*;
use crate::kinds;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

/// Returns the cells of one object as `HEADER=CELL`, including the wide columns.
fn cells(group: &str, plural: &str, mut object: Value) -> Vec<String> {
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:54:57Z");
    let kind = kinds::find(group, "v1", plural).unwrap();
    let table = render(&columns(kind, None).unwrap(), &[&object], IncludeObject::None, now());
    let headers = table["columnDefinitions"].as_array().unwrap().iter();
    let row = table["rows"][0]["cells"].as_array().unwrap().iter();
    let cell = |(header, cell): (&Value, &Value)| {
        let cell = cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
        format!("{}={cell}", header["name"].as_str().unwrap())
    };
    headers.zip(row).map(cell).collect()
}

fn pod(status: Value) -> Value {
    json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "a"}, {"name": "b"}],
            "initContainers": [{"name": "i"}, {"name": "j"}]},
        "status": status,
    })
}

#[test]
fn pod_status_is_the_most_important_reason() {
    let running = json!({"name": "a", "ready": true, "restartCount": 1, "state": {"running": {}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T00:59:00Z"}}});
    let crashing = json!({"name": "b", "ready": false, "restartCount": 2,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
    let exited = json!({"name": "b", "state": {"terminated": {"exitCode": 3}}});
    let completed = json!({"name": "b", "state": {"terminated": {"reason": "Completed"}}});
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let cases = [
        (json!({"phase": "Pending"}), "0/2 Pending 0"),
        (
            json!({"phase": "Running", "containerStatuses": [running, crashing]}),
            "1/2 CrashLoopBackOff 3 (60s ago)",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [running, exited]}),
            "1/2 ExitCode:3 1 (60s ago)",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [running, completed], "conditions": ready}),
            "1/2 Running 1 (60s ago)",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [running, completed]}),
            "1/2 NotReady 1 (60s ago)",
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), "0/2 Evicted 0"),
        (
            json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "state": {"terminated": {"exitCode": 0}}},
            {"name": "j", "state": {"running": {}}}]}),
            "0/2 Init:1/2 0",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "restartCount": 4, "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
            "0/2 Init:Error 4",
        ),
    ];
    for (status, expected) in cases {
        let cells = cells("", "pods", pod(status.clone()));
        let values: Vec<&str> =
            cells[1..4].iter().map(|cell| cell.split_once('=').unwrap().1).collect();
        assert_eq!(values.join(" "), expected, "{status}");
    }
    let mut deleting = pod(json!({"phase": "Running", "podIP": "127.0.1.2"}));
    deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:59Z");
    assert_eq!(
        cells("", "pods", deleting),
        [
            "Name=p",
            "Ready=0/2",
            "Status=Terminating",
            "Restarts=0",
            "Age=5m3s",
            "IP=127.0.1.2",
            "Node=n",
            "Nominated Node=<none>",
            "Readiness Gates=<none>"
        ]
    );
}

#[test]
fn workloads_and_their_services_print_their_columns() {
    assert_rows(&[
        (
            "",
            "services",
            json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "127.0.240.1",
                "selector": {"b": "2", "a": "1"},
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
            "Name=s Type=NodePort Cluster-IP=127.0.240.1 External-IP=<none> Port(s)=80:30080/TCP,53/UDP Age=5m3s Selector=a=1,b=2",
        ),
        (
            "apps",
            "statefulsets",
            json!({"metadata": {"name": "s"}, "spec": {"replicas": 3, "template": {"spec":
                {"containers": [{"name": "redis", "image": "redis:8"}]}}}, "status": {"readyReplicas": 2}}),
            "Name=s Ready=2/3 Age=5m3s Containers=redis Images=redis:8",
        ),
        (
            "",
            "configmaps",
            json!({"metadata": {"name": "m"}, "data": {"a": "1"}, "binaryData": {"b": ""}}),
            "Name=m Data=2 Age=5m3s",
        ),
        (
            "",
            "secrets",
            json!({"metadata": {"name": "s"}, "type": "Opaque", "data": {"a": ""}}),
            "Name=s Type=Opaque Data=1 Age=5m3s",
        ),
    ]);
}

#[test]
fn other_kinds_print_their_columns() {
    assert_rows(&[
        (
            "",
            "namespaces",
            json!({"metadata": {"name": "n"}, "status": {"phase": "Active"}}),
            "Name=n Status=Active Age=5m3s",
        ),
        (
            "",
            "nodes",
            json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": ""}},
                "spec": {"unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "True"}],
                    "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                    "nodeInfo": {"kubeletVersion": "v1", "osImage": "Debian"}}}),
            "Name=n Status=Ready,SchedulingDisabled Roles=worker Age=5m3s Version=v1 Internal-IP=127.0.0.1 External-IP=<none> OS-Image=Debian Kernel-Version=<unknown> Container-Runtime=<unknown>",
        ),
        (
            "",
            "persistentvolumeclaims",
            json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v", "storageClassName": "local",
                "volumeMode": "Filesystem"}, "status": {"phase": "Bound",
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}}),
            "Name=c Status=Bound Volume=v Capacity=1Gi Access Modes=RWO StorageClass=local VolumeAttributesClass=<unset> Age=5m3s VolumeMode=Filesystem",
        ),
        (
            "",
            "serviceaccounts",
            json!({"metadata": {"name": "default"}}),
            "Name=default Secrets=0 Age=5m3s",
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"port": 6379}],
                "endpoints": [{"addresses": ["127.0.1.1"]}, {"addresses": ["127.0.1.2"]},
                    {"addresses": ["127.0.1.3"]}, {"addresses": ["127.0.1.4"]}]}),
            "Name=s AddressType=IPv4 Ports=6379 Endpoints=127.0.1.1,127.0.1.2,127.0.1.3 + 1 more... Age=5m3s",
        ),
        (
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            json!({"metadata": {"name": "c"}}),
            "Name=c Created At=2026-01-01T00:54:57Z",
        ),
        (
            "apps",
            "controllerrevisions",
            json!({"metadata": {"name": "r", "ownerReferences": [{"controller": true,
                "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s"}]}, "revision": 2}),
            "Name=r Controller=statefulset.apps/s Revision=2 Age=5m3s",
        ),
        (
            "",
            "events",
            json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "Made", "message": "so \n",
                "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "x", "host": "h"},
                "lastTimestamp": "2026-01-01T00:59:30Z", "firstTimestamp": "2026-01-01T00:59:00Z", "count": 2}),
            "Last Seen=30s Type=Normal Reason=Made Object=pod/p Subobject= Source=x, h Message=so First Seen=60s Count=2 Name=e",
        ),
        (
            "events.k8s.io",
            "events",
            json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "Made", "note": "so",
                "regarding": {"kind": "Pod", "name": "p"}, "reportingController": "c",
                "eventTime": "2026-01-01T00:59:30.123456Z"}),
            "Last Seen=30s Type=Normal Reason=Made Object=pod/p Subobject= Source=c Message=so First Seen=30s Count=1 Name=e",
        ),
    ]);
}

#[track_caller]
fn assert_rows(cases: &[(&str, &str, Value, &str)]) {
    for (group, plural, object, expected) in cases {
        assert_eq!(cells(group, plural, object.clone()).join(" "), *expected, "{plural}");
    }
}

#[test]
fn every_builtin_kind_has_a_name_column() {
    for kind in kinds::builtin() {
        let columns = columns(kind, None).unwrap();
        let names = columns.iter().filter(|column| column.format == "name").count();
        assert_eq!(names, 1, "{}", kind.plural);
    }
}

#[test]
fn printer_columns_of_a_crd_are_typed() {
    let crd = json!({"spec": {"group": "g", "scope": "Namespaced",
        "names": {"kind": "K", "plural": "ks"}, "versions": [{"name": "v1"}]}});
    let kind = Kind::from_crd(&crd, "v1").unwrap();
    let printed = json!([
        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
        {"name": "Shards", "type": "integer", "jsonPath": ".spec.shards", "priority": 1, "description": "d"},
        {"name": "List", "type": "string", "jsonPath": ".spec.list"},
        {"name": "Wrong", "type": "integer", "jsonPath": ".spec.text"},
        {"name": "Missing", "type": "string", "jsonPath": ".spec.none"},
        {"name": "Paused", "type": "string", "jsonPath": ".metadata.annotations.a\\.dev/paused"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]);
    let object = json!({"metadata": {"name": "k", "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"a.dev/paused": "true"}},
        "spec": {"shards": 3, "list": ["a"], "text": "x"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let columns = columns(&kind, Some(&printed)).unwrap();
    let table = render(&columns, &[&object], IncludeObject::Metadata, now());
    assert_eq!(
        table["rows"][0]["cells"],
        json!(["k", "True", 3, "[\"a\"]", null, null, "true", "60m"])
    );
    assert_eq!(
        table["columnDefinitions"][2],
        json!({"name": "Shards", "type": "integer", "format": "", "description": "d", "priority": 1})
    );
    assert_eq!(
        table["rows"][0]["object"],
        json!({"kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
    );
    let default = super::columns(&kind, None).unwrap();
    let names: Vec<&str> = default.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["Name", "Age"]);
    assert!(super::columns(&kind, Some(&json!([{"name": "x", "jsonPath": "..x"}]))).is_err());
}

#[test]
fn rows_include_the_requested_part_of_the_object() {
    let kind = kinds::find("", "v1", "configmaps").unwrap();
    let object = json!({"metadata": {"name": "m"}, "data": {"a": "1"}});
    let included_object = |include| {
        let table = render(&columns(kind, None).unwrap(), &[&object], include, now());
        table["rows"][0]["object"].clone()
    };
    assert_eq!(included_object(IncludeObject::None), Value::Null);
    assert_eq!(included_object(IncludeObject::Object), object);
    assert_eq!(included_object(IncludeObject::Metadata)["kind"], "PartialObjectMetadata");
}
