//! The ports to Redis and to the prober.

use std::{net::SocketAddr, sync::Arc, sync::atomic::Ordering, time::Duration};

use tholepin_core::{
    BoxedFuture, CallError, RespReply,
    port::{InstanceMembers, PerformedAction, PodPortProber, PollDetail, Redis, RedisPollStream},
    step::RedisCliCommand,
};
use tholepin_schema::{
    action::{Action, ActionOutcome, Verb},
    probe::NetworkProbeOutcome,
    snapshot::{MemberAnswer, Snapshot, UnreachableReason},
};
use tokio::sync::watch;

use crate::FakeCluster;

struct FakePollStream(watch::Receiver<Option<Arc<Snapshot>>>);

impl RedisPollStream for FakePollStream {
    fn next(&mut self) -> BoxedFuture<'_, Arc<Snapshot>> {
        Box::pin(async {
            self.0.changed().await.unwrap();
            self.0.borrow_and_update().clone().unwrap()
        })
    }
}

impl FakeCluster {
    /// Records an action; `configure` changes the settings that the member reports.
    fn perform(&self, action: &Action) {
        let (name, pod) = (action.verb.name(), action.verb.pod().unwrap_or("all"));
        let Verb::Configure { settings, .. } = &action.verb else {
            return self.record_write(format!("{name} to {pod}"));
        };
        let pairs: Vec<_> = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        self.record_write(format!("{name} to {pod}: {}", pairs.join(" ")));
        let mut snapshot = self.snapshot.lock().unwrap();
        let member = snapshot.members.iter_mut().find(|member| member.pod == pod);
        if let Some(MemberAnswer::Answered(facts)) = member.map(|member| &mut member.answer)
            && !self.actions_fail.load(Ordering::SeqCst)
        {
            facts.settings.extend(settings.clone());
        }
    }

    /// Why no member answers these credentials, if none does.
    fn refusal(&self, password: Option<&String>) -> Option<UnreachableReason> {
        if self.members_are_unreachable.load(Ordering::SeqCst) {
            return Some(UnreachableReason::Refused);
        }
        let accepted = self.accepted_password.lock().unwrap();
        let is_accepted = accepted.is_none() || accepted.as_ref() == password;
        (!is_accepted).then_some(UnreachableReason::Auth)
    }
}

impl Redis for FakeCluster {
    fn pipeline<'a>(
        &'a self,
        _: &'a InstanceMembers,
        pod: &'a str,
        commands: &'a [Vec<Vec<u8>>],
        _: Duration,
        _: &'a tholepin_core::port::ReplyRoom,
    ) -> BoxedFuture<'a, Result<Vec<RespReply>, CallError>> {
        self.record_write(format!("pipeline of {} to {pod}", commands.len()));
        Box::pin(async { Ok(commands.iter().map(|_| RespReply::default()).collect()) })
    }

    fn observe<'a>(
        &'a self,
        members: &'a InstanceMembers,
        _: &'a [String],
    ) -> BoxedFuture<'a, Snapshot> {
        let password = members.credentials.password.clone();
        let observed = members.members.iter().map(|member| (member.pod.clone(), member.running));
        *self.observed_members.lock().unwrap() = observed.collect();
        let mut snapshot = self.snapshot.lock().unwrap().clone();
        if let Some(reason) = self.refusal(password.as_ref()) {
            for member in &mut snapshot.members {
                let message = String::new();
                member.answer = MemberAnswer::Unreachable { reason, message };
            }
        }
        self.passwords_used.lock().unwrap().push(password);
        Box::pin(async { snapshot })
    }

    fn act<'a>(
        &'a self,
        _: &'a InstanceMembers,
        wave: &'a [Action],
    ) -> BoxedFuture<'a, Vec<PerformedAction>> {
        for action in wave {
            self.perform(action);
        }
        let fails = self.actions_fail.load(Ordering::SeqCst);
        let result = move |action: &Action| if fails { failed() } else { done(action) };
        Box::pin(async move { wave.iter().map(result).collect() })
    }

    fn decide<'a>(
        &'a self,
        _: &'a InstanceMembers,
        wave: &'a [Action],
    ) -> BoxedFuture<'a, Vec<PerformedAction>> {
        Box::pin(async move { wave.iter().map(done).collect() })
    }

    fn refuses(&self, _: SocketAddr) -> BoxedFuture<'_, bool> {
        Box::pin(async { self.dials_are_refused.load(Ordering::SeqCst) })
    }

    fn container_ended(&self, _: &str) {}

    fn watch(&self, members: &InstanceMembers, detail: PollDetail<'_>) -> Result<(), CallError> {
        let mut polled = self.polled_instances.lock().unwrap();
        if self.polls_are_refused.load(Ordering::SeqCst) && !polled.contains_key(&members.instance)
        {
            return Err(CallError::Transient(
                "the share of polled instances is used up".to_owned(),
            ));
        }
        polled.insert(members.instance.clone(), format!("{detail:?}"));
        Ok(())
    }

    fn unwatch(&self, instance: &str) {
        self.polled_instances.lock().unwrap().remove(instance);
    }

    fn join(
        &self,
        members: &InstanceMembers,
        _: &[String],
    ) -> Result<Box<dyn RedisPollStream>, CallError> {
        let pods: Vec<_> = members.members.iter().map(|member| member.pod.as_str()).collect();
        self.record_write(format!("join {}", pods.join(",")));
        Ok(Box::new(FakePollStream(self.polled.subscribe())))
    }
}

impl PodPortProber for FakeCluster {
    fn probe<'a>(
        &'a self,
        address: SocketAddr,
        get: Option<&'a str>,
        _: Duration,
    ) -> BoxedFuture<'a, NetworkProbeOutcome> {
        let outcome = match get {
            None => NetworkProbeOutcome::Connected { took_ms: 0 },
            Some(path) => {
                let body = format!("{address} {path}");
                NetworkProbeOutcome::Answered { status: 200, body, cut: false, took_ms: 0 }
            }
        };
        Box::pin(async { outcome })
    }
}

/// The result of an action that succeeded with one command.
fn done(action: &Action) -> PerformedAction {
    let pod = action.verb.pod().unwrap_or("all").to_owned();
    let command = if let Verb::Configure { settings, .. } = &action.verb {
        let pairs = settings.iter().flat_map(|(key, value)| [key.as_str(), value]);
        ["CONFIG", "SET"].into_iter().chain(pairs).collect::<Vec<_>>().join(" ")
    } else {
        action.verb.name().to_owned()
    };
    PerformedAction {
        outcome: ActionOutcome::Done { took_ms: 0, note: String::new() },
        commands: vec![RedisCliCommand { pod, command }],
    }
}

fn failed() -> PerformedAction {
    let outcome = ActionOutcome::Failed {
        reason: "Timeout".to_owned(),
        message: "no answer".to_owned(),
        may_have_run: true,
    };
    PerformedAction { outcome, commands: Vec::new() }
}
