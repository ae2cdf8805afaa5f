//! What the model reads from a snapshot.

use tholepin_schema::snapshot::NodeFlag;

use crate::{
    cluster_model::{AbsentNodeState, ObservedClusterModel},
    test_cluster::{CLUSTER, TestClusterModel, spec},
};

#[test]
fn a_node_at_whose_address_another_answers_has_ended() {
    let cluster = TestClusterModel::formed(spec(3, 1));
    let observed = cluster.observed();
    let model = ObservedClusterModel::new(CLUSTER, &cluster.spec, &observed);
    let [node, other] = ["demo-shard-0-0", "demo-shard-1-0"].map(|pod| cluster.id(pod));
    let address = model.address(node);
    let absence = model.absence(node, address.as_deref());
    assert!(matches!(absence, AbsentNodeState::Loading(_)), "{absence:?}");
    let absence = model.absence(other, address.as_deref());
    assert!(matches!(absence, AbsentNodeState::Gone(Some(_))), "{absence:?}");
}

#[test]
fn a_node_is_reached_only_over_a_link_that_is_up_by_a_member_that_does_not_suspect_it() {
    for (connected, suspected, expected) in
        [(true, false, true), (false, false, false), (true, true, false), (false, true, false)]
    {
        let cluster = TestClusterModel::formed(spec(3, 1));
        let node = cluster.id("demo-shard-1-0");
        let mut observed = cluster.observed();
        let row = observed.snapshot.view.get_mut(&node).unwrap();
        row.connected = connected;
        if suspected {
            row.flags.insert(NodeFlag::MaybeFail);
        }
        let model = ObservedClusterModel::new(CLUSTER, &cluster.spec, &observed);
        // The node's own row of itself is not a link.
        let is_reached =
            model.answering.values().filter(|answering| answering.node != node).any(|answering| {
                observed
                    .snapshot
                    .row_seen_by(answering.member, node)
                    .is_some_and(|row| row.connected)
            });
        assert_eq!(is_reached, connected);
        assert_eq!(model.is_reached(node), expected, "{connected} {suspected}");
    }
}

#[test]
fn only_a_replica_that_answers_and_is_in_sync_counts_as_such() {
    use tholepin_redis_types::redis_cluster::MemberRole;

    use crate::MemberState;

    for (role, in_sync, is_replica_in_sync, reports_sync) in [
        (MemberRole::Replica, true, true, true),
        (MemberRole::Replica, false, false, true),
        (MemberRole::Silent, true, false, true),
        (MemberRole::Silent, false, false, false),
        (MemberRole::Primary, false, false, false),
        (MemberRole::Joining, false, false, false),
    ] {
        let state = MemberState { node: None, role, in_sync };
        assert_eq!(state.is_replica_in_sync(), is_replica_in_sync, "{state:?}");
        assert_eq!(state.reports_sync(), reports_sync, "{state:?}");
    }
}
