use super::*;
use tholepin_core::port::{MemberPod, RedisCredentials};
use tholepin_schema::manifest::KindName;

fn members() -> InstanceMembers {
    let kind = KindName { api_version: "a/v1".to_owned(), kind: "K".to_owned() };
    let (plugin, namespace) = ("p".parse().unwrap(), "n".to_owned());
    InstanceMembers {
        instance: "i".to_owned(),
        owner: Arc::new(ReconcileKey { plugin, kind, namespace, name: "x".to_owned() }),
        members: Vec::<MemberPod>::new(),
        strangers: Vec::new(),
        credentials: RedisCredentials::default(),
        credentials_facts: Default::default(),
    }
}

#[test]
fn settings_of_earlier_watches_and_waits_are_dropped() {
    let (limits, members) = (RedisClientLimits::default(), members());
    let poller = Arc::new(RedisInstancePoller::new(mpsc::channel(1).0));
    let setting = |number: usize| [format!("s-{number}")];
    let watch = |number: usize| {
        let settings = &setting(number)[..];
        poller.add(&members, PollDetail::Whole { settings }, &limits).unwrap();
    };
    let read = || {
        let watched = locked(&poller.watched);
        let polled = &watched["i"];
        polled.watched_settings.union(&polled.joined_settings).cloned().collect::<Vec<_>>()
    };
    for number in 0..100 {
        watch(number);
        drop(poller.join(&members, &setting(1_000 + number), &limits).unwrap());
    }
    assert_eq!(read(), ["s-99"]);
    let waits = [1, 2].map(|number| poller.join(&members, &setting(number), &limits).unwrap());
    assert_eq!(read(), ["s-1", "s-2", "s-99"]);
    drop(waits);
    poller.add(&members, PollDetail::Changes, &limits).unwrap();
    assert_eq!(read(), [] as [String; 0]);
}
