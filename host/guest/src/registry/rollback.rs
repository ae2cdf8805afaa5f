//! Which revision serves: the file's, unless that was taken back.

use std::sync::Arc;

use metrics::counter;
use tholepin_core::{PluginName, RevisionDigest};
use tokio::task;

use super::{
    PluginHistory, PluginRegistry, RejectReason, RevisionStage, RollbackRecord,
    directory::{self, FoundPlugin, PluginSettingsFile},
    history::{RevisionOrigin, RevisionRecord, now_ms},
    stages::{self, RejectedRevision, StageProgress},
};
use crate::LoadedPlugin;

/// Why a plugin does not go back to an earlier revision.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RollbackError {
    /// No revision of this plugin serves, and none is kept.
    #[error(
        "no revision of a plugin `{0}` serves or is kept; `tholepin plugin list` shows the plugins"
    )]
    NoPlugin(PluginName),
    /// Its files are gone.
    #[error(
        "the files of `{0}` are gone from the directory of plugins, so that nothing grants it anything; put \
         them back first"
    )]
    NoFiles(PluginName),
    /// Another revision serves by now.
    #[error("the revision {0} does not serve any more")]
    NotServing(RevisionDigest),
    /// There is none that served before and was not taken back.
    #[error(
        "no earlier revision of `{0}` is kept that was not taken back; `tholepin plugin history {0}` shows \
         those that are kept, and one of them can be named"
    )]
    NoneBefore(PluginName),
    /// The words name no kept revision.
    #[error(
        "no kept revision of `{name}` begins with `{wanted}`; `tholepin plugin history {name}` shows them"
    )]
    NoSuch {
        /// The plugin.
        name: PluginName,
        /// What was asked for.
        wanted: String,
    },
    /// The words name several kept revisions.
    #[error(
        "{count} kept revisions of `{name}` begin with `{wanted}`: give more digits; `tholepin plugin history \
         {name}` shows them"
    )]
    NotOne {
        /// The plugin.
        name: PluginName,
        /// What was asked for.
        wanted: String,
        /// How many revisions begin so.
        count: usize,
    },
    /// It serves already.
    #[error("the revision {0} serves already")]
    ServesAlready(RevisionDigest),
    /// It cannot be loaded any more.
    #[error("the revision {revision} cannot be loaded: {message}")]
    NotLoaded {
        /// Which revision.
        revision: RevisionDigest,
        /// Why.
        message: String,
    },
}

impl PluginRegistry {
    /// The revisions of a plugin that served last.
    #[must_use]
    pub fn history(&self, name: &PluginName) -> PluginHistory {
        self.history.read(name)
    }

    /// Lets the revision that a file has serve, and notes it in the history; a rollback to an earlier one
    /// ends. A revision that was taken back is refused until the file has another.
    pub(super) async fn activate(
        &self,
        plugin: Arc<LoadedPlugin>,
        settings: &PluginSettingsFile,
    ) -> Result<(), RejectedRevision> {
        let name = plugin.name.clone();
        let history = self.history.read(&name);
        let since_ms = history.since_ms(&plugin.digest);
        let rollback = history.rollback;
        if let Some(rollback) = rollback.as_ref().filter(|it| it.refused == plugin.digest) {
            let kept = match self.active(&name) {
                Some(_) => Ok(()),
                None => self.serve_kept(&name, &rollback.serving).await,
            };
            match kept {
                Ok(()) => return Err(refused(&name, rollback)),
                // A revision that was taken back is better than none.
                Err(RejectedRevision { message, .. }) => {
                    let (serving, file) = (rollback.serving.short(), plugin.digest.short());
                    tracing::warn!(plugin = %name, serving, file, message,
                        "the revision that served in place of the file's cannot be loaded; the file's serves");
                }
            }
        }
        let serves = self.active(&name).is_some_and(|before| before.digest == plugin.digest);
        if serves && rollback.is_none() {
            return Ok(());
        }
        let component = self.options.directory.join(&settings.plugin.spec.source.file);
        if !serves {
            self.publish(plugin.clone(), since_ms);
        }
        let (store, object) = (self.history.clone(), settings.object.clone());
        let keep = move || store.keep(&plugin, &object, &component, since_ms);
        let kept = task::spawn_blocking(keep).await;
        if let Err(error) = kept.map_err(std::io::Error::other).flatten() {
            tracing::warn!(plugin = %name, %error, "the revision serves, and cannot be kept for a rollback");
        }
        Ok(())
    }

    /// Where the file's revision cannot serve and none does, because the host has just started: the one that
    /// served last goes on.
    pub(super) async fn serve_last(&self, name: &PluginName) {
        let history = self.history.read(name);
        let last = history.revisions.last().map(|it| it.revision.clone());
        let Some(last) = last.filter(|_| self.active(name).is_none()) else { return };
        match self.serve_kept(name, &last).await {
            Ok(()) => {
                tracing::info!(plugin = %name, revision = last.short(), "the revision that served last goes on")
            }
            Err(RejectedRevision { message, .. }) => {
                tracing::warn!(plugin = %name, message, "the revision that served last cannot serve");
            }
        }
    }

    /// Lets an earlier revision of a plugin serve because a person asks for it, in place of the one that serves
    /// now: the one whose digest begins with `wanted`, or the last one that was not taken back. The file's
    /// revision is refused until the file has another, unless it is the one that is gone back to.
    ///
    /// # Errors
    ///
    /// Fails, and changes nothing, if there is no such revision, or if it does not load.
    pub async fn roll_back(
        &self,
        name: &PluginName,
        wanted: Option<&str>,
    ) -> Result<RevisionDigest, RollbackError> {
        self.change_revision(name, wanted, RollbackCause::Person).await
    }

    async fn change_revision(
        &self,
        name: &PluginName,
        wanted: Option<&str>,
        cause: RollbackCause<'_>,
    ) -> Result<RevisionDigest, RollbackError> {
        let _turn = self.changing.lock().await;
        let now = self.active(name).map(|now| now.digest.clone());
        let history = self.history.read(name);
        if now.is_none() && history.revisions.is_empty() {
            return Err(RollbackError::NoPlugin(name.clone()));
        }
        // Who removes the settings withdraws what they granted.
        if now.is_none() && !self.options.directory.join(format!("{name}.yaml")).exists() {
            return Err(RollbackError::NoFiles(name.clone()));
        }
        let RevisionRecord { revision, .. } = match wanted {
            Some(wanted) => {
                let (name, wanted) = (name.clone(), wanted.to_owned());
                history.find(&wanted).map_err(|count| match count {
                    0 => RollbackError::NoSuch { name, wanted: wanted.clone() },
                    count => RollbackError::NotOne { name, wanted: wanted.clone(), count },
                })?
            }
            None => match &now {
                Some(now) => history.last_good_before(now),
                None => history.revisions.iter().rev().find(|it| it.taken_back.is_none()),
            }
            .ok_or_else(|| RollbackError::NoneBefore(name.clone()))?,
        };
        if now.as_ref() == Some(revision) {
            return Err(RollbackError::ServesAlready(revision.clone()));
        }
        self.go_back(name, revision, wanted.is_some(), cause).await.map_err(
            |RejectedRevision { message, .. }| RollbackError::NotLoaded {
                revision: revision.clone(),
                message,
            },
        )?;
        Ok(revision.clone())
    }

    /// Takes a revision back that serves and turned out bad: the last good one serves again.
    ///
    /// # Errors
    ///
    /// As [`roll_back`](Self::roll_back); and if another revision serves by now, if this one was gone back to,
    /// so that nobody knows a better one, or if a person wanted it all the same.
    pub async fn take_back(
        &self,
        name: &PluginName,
        bad: &RevisionDigest,
        why: &str,
    ) -> Result<RevisionDigest, RollbackError> {
        let serves = self.active(name).is_some_and(|now| now.digest == *bad);
        if !serves {
            return Err(RollbackError::NotServing(bad.clone()));
        }
        let history = self.history.read(name);
        if history.rollback.is_some() || history.insisted.as_ref() == Some(bad) {
            return Err(RollbackError::NoneBefore(name.clone()));
        }
        self.change_revision(name, None, RollbackCause::WentWrong(why)).await
    }

    async fn go_back(
        &self,
        name: &PluginName,
        revision: &RevisionDigest,
        is_named: bool,
        cause: RollbackCause<'_>,
    ) -> Result<(), RejectedRevision> {
        let plugin = match self.previous(name).filter(|it| it.digest == *revision) {
            Some(plugin) => plugin,
            None => self.load_kept(name, revision).await?,
        };
        let report = self.reports().remove(name);
        let file = report.as_ref().and_then(|report| report.candidate.clone());
        let before = self.history.read(name).rollback.map(|rollback| rollback.refused);
        let now = || self.active(name).map(|now| now.digest.clone());
        let refused = before.or_else(now).or_else(|| file.clone());
        let refused =
            refused.filter(|refused| refused != revision && file.as_ref() != Some(revision));
        let at_ms = now_ms();
        let (is_by_hand, why) = match cause {
            RollbackCause::Person => (true, BY_HAND),
            RollbackCause::WentWrong(why) => (false, why),
        };
        let (serving, why) = (revision.clone(), why.to_owned());
        let rollback =
            refused.map(|refused| RollbackRecord { refused, serving, why, at_ms, is_by_hand });
        self.publish(plugin.clone(), at_ms);
        counter!("tholepin_plugin_rollbacks_total", "controller" => name.to_string()).increment(1);
        // Whoever names the file's own revision wants it, whatever it did.
        let is_insisted = is_named && rollback.is_none();
        let noted = RevisionOrigin { since_ms: at_ms, rollback: rollback.clone(), is_insisted };
        let store = self.history.clone();
        let noted = task::spawn_blocking(move || store.note(&plugin, noted)).await;
        if let Err(error) = noted.map_err(std::io::Error::other).flatten() {
            tracing::warn!(plugin = %name, %error, "the rollback is not kept: it ends with this process");
        }
        let rejected = rollback.as_ref().map(|rollback| self::refused(name, rollback));
        let (object, candidate) =
            report.map(|report| (report.object, report.candidate)).unwrap_or_default();
        self.report(name, object, (Some(RevisionStage::Active), candidate), rejected.as_ref());
        Ok(())
    }

    /// Lets a kept revision serve.
    async fn serve_kept(
        &self,
        name: &PluginName,
        revision: &RevisionDigest,
    ) -> Result<(), RejectedRevision> {
        let plugin = self.load_kept(name, revision).await?;
        self.publish(plugin, self.history.read(name).since_ms(revision));
        Ok(())
    }

    /// Takes a kept revision through all checks again.
    async fn load_kept(
        &self,
        name: &PluginName,
        revision: &RevisionDigest,
    ) -> Result<Arc<LoadedPlugin>, RejectedRevision> {
        let files = self.history.files(name, revision).ok_or_else(|| {
            RejectedRevision::new(RejectReason::ComponentMissing, "no earlier revisions are kept")
        })?;
        let (place, whose) = (files.clone(), name.clone());
        let found = task::spawn_blocking(move || directory::look(&place, &whose)).await;
        let found: FoundPlugin = found.map_err(|error| {
            RejectedRevision::new(RejectReason::SettingsInvalid, error.to_string())
        })?;
        let mut progress = StageProgress::begin();
        let plugin = stages::load(self, &files, name, &found, &mut progress, |_| {}).await?;
        if plugin.digest != *revision {
            let text = format!("what is kept of the revision {revision} is {} now", plugin.digest);
            return Err(RejectedRevision::new(RejectReason::DigestMismatch, text));
        }
        Ok(plugin)
    }
}

/// For what another revision is put in the place of the one that serves.
#[derive(Clone, Copy)]
enum RollbackCause<'a> {
    /// A person asked for it.
    Person,
    /// It went wrong like this.
    WentWrong(&'a str),
}

/// What is noted of a revision that a person did not want to serve.
const BY_HAND: &str = "by a person, with `tholepin plugin rollback`";

/// Why the file's revision does not serve.
fn refused(name: &PluginName, rollback: &RollbackRecord) -> RejectedRevision {
    let RollbackRecord { refused, serving, why, at_ms: _, is_by_hand } = rollback;
    let (refused, serving) = (refused.short(), serving.short());
    let take = format!("`tholepin plugin rollback {name} {refused}`");
    if *is_by_hand {
        let text = format!(
            "a person had {serving} serve in place of the files' revision {refused}. To end that use {take}, or \
             put another component or other settings there; a comment does not count"
        );
        return RejectedRevision::new(RejectReason::RolledBack, text);
    }
    let text = format!(
        "the revision {refused} was taken back, and {serving} serves: {why}. Put a mended component or other \
         settings there (a comment does not count), or take this one all the same with {take}"
    );
    RejectedRevision::new(RejectReason::TakenBack, text)
}
