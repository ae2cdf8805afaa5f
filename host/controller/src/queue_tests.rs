use super::*;
use crate::testing::key;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn queue() -> (WorkQueue, Instant) {
    (WorkQueue::new(MINUTE, 1), Instant::now())
}

/// Takes every due key and completes it.
fn drain(queue: &mut WorkQueue, now: Instant) -> Vec<String> {
    let mut taken = Vec::new();
    while let Some(next) = queue.take(now) {
        queue.done(&next.key, KeyCompletion::AwaitChange, now);
        taken.push(format!("{}/{}", next.key.plugin, next.key.name));
    }
    taken
}

#[test]
fn a_key_waits_once_and_its_causes_are_merged() {
    let (mut queue, now) = queue();
    for cause in ["b", "a", "b"] {
        queue.add(&key("p", "x"), QueuePriority::Event, cause, now);
    }
    let taken = queue.take(now + SECOND).unwrap();
    assert_eq!(taken.causes, ["a", "b"]);
    assert_eq!(taken.waited, SECOND);
    assert_eq!(queue.take(now), None);
}

#[test]
fn a_failed_key_can_be_hurried_and_a_delayed_one_cannot() {
    let (mut queue, now) = queue();
    let (failed, resting) = (key("p", "failed"), key("p", "resting"));
    for (key, completion) in
        [(&failed, KeyCompletion::Retry), (&resting, KeyCompletion::After(SECOND))]
    {
        queue.add(key, QueuePriority::Event, "", now);
        queue.take(now).unwrap();
        queue.done(key, completion, now);
    }
    queue.retry_failed_now(now);
    let taken = queue.take(now).unwrap();
    assert_eq!((taken.key, taken.failures), (failed.clone(), 1));
    assert_eq!(queue.take(now), None);
    queue.retry_failed_now(now);
    assert_eq!(queue.take(now), None, "a running key is not added");
    queue.done(&failed, KeyCompletion::AwaitChange, now);
    queue.retry_failed_now(now);
    assert_eq!(drain(&mut queue, now + SECOND), ["p/resting"]);
}

#[test]
fn causes_are_bounded() {
    let (mut queue, now) = queue();
    for number in 0..100 {
        queue.add(&key("p", "x"), QueuePriority::Event, &format!("{number:03}"), now);
    }
    let causes = queue.take(now).unwrap().causes;
    assert_eq!(causes.len(), CAUSES_MAX + 1);
    assert_eq!(causes.last().map(String::as_str), Some(MORE_CAUSES));
}

#[test]
fn a_running_key_is_not_taken_and_runs_again_if_it_was_added_meanwhile() {
    let (mut queue, now) = queue();
    let x = key("p", "x");
    queue.add(&x, QueuePriority::Event, "one", now);
    assert!(queue.take(now).is_some());
    queue.add(&x, QueuePriority::Resync, "two", now);
    queue.add(&x, QueuePriority::Urgent, "three", now);
    assert_eq!(queue.take(now), None, "it runs");
    queue.add(&key("p", "y"), QueuePriority::Event, "", now);
    queue.done(&x, KeyCompletion::After(SECOND), now);
    let again = queue.take(now).unwrap();
    assert_eq!((again.key.name.as_str(), again.causes), ("x", vec!["three".into(), "two".into()]));
    queue.done(&x, KeyCompletion::AwaitChange, now);
    assert_eq!(
        drain(&mut queue, now + SECOND),
        ["p/y"],
        "taking it dropped the delay of one second"
    );
}

#[test]
fn priorities_come_in_order_and_a_key_moves_up_but_never_down() {
    let (mut queue, now) = queue();
    queue.add(&key("p", "resync"), QueuePriority::Resync, "", now);
    queue.add(&key("p", "event"), QueuePriority::Event, "", now);
    queue.add(&key("p", "moved"), QueuePriority::Resync, "", now);
    queue.add(&key("p", "urgent"), QueuePriority::Urgent, "", now);
    queue.add(&key("p", "moved"), QueuePriority::Urgent, "", now);
    queue.add(&key("p", "urgent"), QueuePriority::Resync, "", now);
    assert_eq!(drain(&mut queue, now), ["p/urgent", "p/moved", "p/event", "p/resync"]);
    assert_eq!(drain(&mut queue, now), Vec::<String>::new());
}

#[test]
fn plugins_take_turns_within_a_priority() {
    let (mut queue, now) = queue();
    for name in ["1", "2", "3", "4"] {
        queue.add(&key("many", name), QueuePriority::Event, "", now);
    }
    queue.add(&key("few", "1"), QueuePriority::Event, "", now);
    queue.add(&key("few", "2"), QueuePriority::Event, "", now);
    assert_eq!(drain(&mut queue, now), ["many/1", "few/1", "many/2", "few/2", "many/3", "many/4"]);
}

#[test]
fn of_several_delays_the_earliest_counts() {
    let (mut queue, now) = queue();
    let x = key("p", "x");
    for seconds in [30, 10, 20] {
        queue.add_after(&x, SECOND * seconds, now);
    }
    assert_eq!(queue.next_due(), Some(now + SECOND * 10));
    assert_eq!(queue.take(now + SECOND * 9), None);
    assert_eq!(queue.stats().waiting, BTreeMap::new());
    let taken = queue.take(now + SECOND * 11).unwrap();
    assert_eq!((taken.causes, taken.waited), (vec!["requeue".to_owned()], SECOND));
    queue.done(&x, KeyCompletion::AwaitChange, now);
    assert_eq!(queue.next_due(), None);
    assert_eq!(queue.stats().delayed, 0);
}

#[test]
fn failures_back_off_and_success_resets_them() {
    let (mut queue, start) = queue();
    let x = key("p", "x");
    let mut now = start;
    queue.add(&x, QueuePriority::Event, "", now);
    for failure in 0..30_u32 {
        let taken = queue.take(now).unwrap();
        assert_eq!(taken.failures, failure);
        queue.done(&x, KeyCompletion::Retry, now);
        let due = queue.next_due().unwrap();
        let full = backoff(failure, MINUTE);
        assert!((full / 2..=full).contains(&(due - now)), "{failure}: {:?}", due - now);
        now = due;
    }
    assert_eq!(backoff(0, MINUTE), BACKOFF_FIRST);
    assert_eq!(backoff(1, MINUTE), BACKOFF_FIRST * 2);
    assert_eq!(backoff(29, MINUTE), MINUTE);
    assert_eq!(backoff(u32::MAX, MINUTE), MINUTE);
    queue.take(now).unwrap();
    queue.done(&x, KeyCompletion::After(SECOND), now);
    assert_eq!(queue.take(now + SECOND).unwrap().failures, 0);
}

#[test]
fn a_change_ends_the_backoff() {
    let (mut queue, now) = queue();
    let x = key("p", "x");
    queue.add(&x, QueuePriority::Event, "", now);
    queue.take(now).unwrap();
    queue.done(&x, KeyCompletion::Retry, now);
    queue.add(&x, QueuePriority::Event, "changed", now);
    assert_eq!(queue.take(now).unwrap().causes, ["changed"]);
}

#[test]
fn nothing_is_kept_of_a_key_that_is_done() {
    let (mut queue, now) = queue();
    let x = key("p", "x");
    queue.add(&x, QueuePriority::Event, "", now);
    queue.take(now).unwrap();
    queue.done(&x, KeyCompletion::AwaitChange, now);
    assert!(queue.entries.is_empty() && queue.delays.is_empty());
    assert_eq!(queue.take(now), None);
}

#[test]
fn outdated_entries_are_dropped_while_a_lane_starves() {
    let (mut queue, now) = queue();
    let x = key("p", "x");
    queue.add(&key("p", "starves"), QueuePriority::Resync, "", now);
    for _ in 0..1000 {
        queue.add(&x, QueuePriority::Resync, "", now);
        queue.add(&x, QueuePriority::Urgent, "", now);
        assert_eq!(queue.take(now).unwrap().key, x);
        queue.done(&x, KeyCompletion::AwaitChange, now);
    }
    assert!(queue.lanes[&QueuePriority::Resync].entries < 100);
    assert_eq!(drain(&mut queue, now), ["p/starves"]);
}

#[test]
fn a_key_is_overdue_that_was_due_for_one_interval_and_not_reconciled_for_two() {
    let (mut queue, start) = queue();
    let x = key("p", "x");
    let overdue = |queue: &WorkQueue, seconds: u64| {
        let at = start + SECOND * u32::try_from(seconds).unwrap();
        let found = queue.overdue(SECOND * 10, at);
        found.first().map(|key| (key.not_reconciled_for.as_secs(), key.is_running))
    };
    queue.add(&x, QueuePriority::Event, "", start);
    assert_eq!(overdue(&queue, 19), None);
    assert_eq!(overdue(&queue, 20), Some((20, false)), "it was never reconciled");
    queue.take(start).unwrap();
    assert_eq!(overdue(&queue, 20), Some((20, true)));
    queue.mark_reported(&x);
    assert_eq!(overdue(&queue, 60), None, "it is reported once");
    queue.done(&x, KeyCompletion::After(SECOND * 3600), start + SECOND * 60);
    assert_eq!(overdue(&queue, 79), None, "the plugin is called once more, in time");
    queue
        .take(start + SECOND * 60)
        .expect("it is due immediately, so that the plugin reports again");
    queue.done(&x, KeyCompletion::After(SECOND * 3600), start + SECOND * 60);
    assert_eq!(queue.take(start + SECOND * 3600), None, "and only once");
    assert_eq!(overdue(&queue, 3660), None, "the delay was requested");
    assert!(queue.is_due(start + SECOND * 3660));
    assert_eq!(overdue(&queue, 3669), None);
    assert_eq!(overdue(&queue, 3670), Some((3610, false)));
}

#[test]
fn the_numbers_for_metrics_count_waiting_keys_by_plugin_and_priority() {
    let (mut queue, now) = queue();
    for (plugin, name, priority) in [
        ("p", "a", QueuePriority::Event),
        ("p", "b", QueuePriority::Event),
        ("p", "c", QueuePriority::Urgent),
        ("q", "d", QueuePriority::Resync),
    ] {
        queue.add(&key(plugin, name), priority, "", now);
    }
    queue.add_after(&key("q", "later"), SECOND, now);
    let stats = queue.stats();
    let plugin = |name: &str| name.parse::<PluginName>().unwrap();
    let expected = [
        ((plugin("p"), QueuePriority::Event), 2),
        ((plugin("p"), QueuePriority::Urgent), 1),
        ((plugin("q"), QueuePriority::Resync), 1),
    ];
    assert_eq!(stats.waiting, expected.into());
    assert_eq!(stats.delayed, 1);
    let labels = [QueuePriority::Urgent, QueuePriority::Event, QueuePriority::Resync];
    assert_eq!(labels.map(QueuePriority::as_str), ["urgent", "event", "resync"]);
}

/// A key that is moved to a more urgent lane leaves an entry in the lane that it left.
#[test]
fn entries_that_no_key_waits_under_do_not_accumulate() {
    let (mut queue, now) = queue();
    for _ in 0..1_000 {
        queue.add(&key("p", "x"), QueuePriority::Resync, "", now);
        queue.add(&key("p", "x"), QueuePriority::Urgent, "", now);
        queue.take(now).unwrap();
        queue.done(&key("p", "x"), KeyCompletion::AwaitChange, now);
    }
    let left = queue.lanes[&QueuePriority::Resync].entries;
    assert!(left <= 66, "{left} entries of one key");
}
