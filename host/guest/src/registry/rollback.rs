//! Decides which revision serves: the file's, unless it was rolled back.

use std::sync::Arc;

use metrics::counter;
use tholepin_core::{PluginName, RevisionDigest};
use tokio::task;

use super::{
    PluginHistory, PluginRegistry, PluginRejectReason, RevisionLoadStage, RollbackRecord,
    directory::{self, FoundPlugin, PluginSettingsFile},
    history::{PluginRevisionRecord, RevisionServingStart, now_ms},
    stages::{self, PluginRevisionRejection, PluginStageProgress},
};
use crate::LoadedPlugin;

/// The reason why a plugin cannot be rolled back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RollbackError {
    /// No revision of this plugin serves, and none is kept.
    #[error(
        "no revision of a plugin `{0}` serves or is kept; `tholepin plugin list` shows the plugins"
    )]
    NoPlugin(PluginName),
    /// Its settings were removed from the plugin directory.
    #[error(
        "the plugin directory has no `{0}.yaml`, so the plugin `{0}` has no grants; restore its files first"
    )]
    NoFiles(PluginName),
    /// Another revision serves now.
    #[error("the revision {0} no longer serves")]
    NotServing(RevisionDigest),
    /// No kept revision served before and was not rolled back.
    #[error(
        "`{0}` has no earlier revision that was not rolled back; `tholepin plugin history {0}` shows the kept \
         ones, and `tholepin plugin rollback {0} REVISION` chooses one of them"
    )]
    NoneBefore(PluginName),
    /// No kept revision begins with the given digits.
    #[error(
        "no kept revision of `{name}` begins with `{prefix}`; `tholepin plugin history {name}` shows them"
    )]
    NoSuch {
        /// The plugin.
        name: PluginName,
        /// The requested digits.
        prefix: String,
    },
    /// Several kept revisions begin with the given digits.
    #[error(
        "{count} kept revisions of `{name}` begin with `{prefix}`; give more digits: `tholepin plugin history \
         {name}` shows them"
    )]
    NotOne {
        /// The plugin.
        name: PluginName,
        /// The requested digits.
        prefix: String,
        /// The number of matching revisions.
        count: usize,
    },
    /// The revision already serves.
    #[error("the revision {0} already serves")]
    ServesAlready(RevisionDigest),
    /// The revision cannot be loaded.
    #[error("the revision {revision} cannot be loaded: {message}")]
    NotLoaded {
        /// The revision.
        revision: RevisionDigest,
        /// The reason.
        message: String,
    },
}

impl PluginRegistry {
    /// Returns the last revisions of a plugin that served.
    #[must_use]
    pub fn history(&self, name: &PluginName) -> PluginHistory {
        self.history.read(name)
    }

    /// Makes the file's revision serve, records it in the history, and ends a rollback. Refuses the revision if it
    /// is the one that was rolled back.
    pub(super) async fn activate(
        &self,
        plugin: Arc<LoadedPlugin>,
        settings: &PluginSettingsFile,
    ) -> Result<(), PluginRevisionRejection> {
        let name = plugin.name.clone();
        let history = self.history.read(&name);
        let since_ms = history.since_ms(&plugin.digest);
        let rollback = history.rollback;
        if let Some(rollback) = rollback.as_ref().filter(|it| it.refused == plugin.digest) {
            let result = match self.active(&name) {
                Some(_) => Ok(()),
                None => self.serve_kept(&name, &rollback.serving).await,
            };
            match result {
                Ok(()) => return Err(refused(&name, rollback)),
                // Serving a revision that was rolled back is better than serving none.
                Err(PluginRevisionRejection { message, .. }) => {
                    let (serving, file) = (rollback.serving.short(), plugin.digest.short());
                    tracing::warn!(plugin = %name, serving, file, message,
                        "cannot load the revision of the rollback; the file's revision serves");
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
        let result = task::spawn_blocking(keep).await;
        if let Err(error) = result.map_err(std::io::Error::other).flatten() {
            tracing::warn!(plugin = %name, %error, "the revision serves, but cannot be kept for a rollback");
        }
        Ok(())
    }

    /// Makes the revision that served last serve again if none does. Called when the file's revision was rejected;
    /// none serves then if the host has just started.
    pub(super) async fn serve_last(&self, name: &PluginName) {
        let history = self.history.read(name);
        let last = history.revisions.last().map(|it| it.revision.clone());
        let Some(last) = last.filter(|_| self.active(name).is_none()) else { return };
        match self.serve_kept(name, &last).await {
            Ok(()) => {
                tracing::info!(plugin = %name, revision = last.short(), "the revision that served last serves again")
            }
            Err(PluginRevisionRejection { message, .. }) => {
                tracing::warn!(plugin = %name, message, "the revision that served last cannot serve");
            }
        }
    }

    /// Rolls a plugin back at the request of a person: to the revision whose digest begins with `prefix`, or else
    /// to the latest other one that was not rolled back. The file's revision is refused until the file changes,
    /// unless it is the requested one.
    ///
    /// # Errors
    ///
    /// Fails, and changes nothing, if no kept revision or several match, if the revision already serves, or if it
    /// cannot be loaded.
    pub async fn roll_back(
        &self,
        name: &PluginName,
        prefix: Option<&str>,
    ) -> Result<RevisionDigest, RollbackError> {
        self.change_revision(name, prefix, RollbackCause::Person).await
    }

    async fn change_revision(
        &self,
        name: &PluginName,
        prefix: Option<&str>,
        cause: RollbackCause<'_>,
    ) -> Result<RevisionDigest, RollbackError> {
        let _lock = self.change_lock.lock().await;
        let now = self.active(name).map(|now| now.digest.clone());
        let history = self.history.read(name);
        if now.is_none() && history.revisions.is_empty() {
            return Err(RollbackError::NoPlugin(name.clone()));
        }
        // Removing the settings withdraws the grants.
        if now.is_none() && !self.options.directory.join(format!("{name}.yaml")).exists() {
            return Err(RollbackError::NoFiles(name.clone()));
        }
        let PluginRevisionRecord { revision, .. } = match prefix {
            Some(prefix) => {
                let (name, prefix) = (name.clone(), prefix.to_owned());
                history.find(&prefix).map_err(|count| match count {
                    0 => RollbackError::NoSuch { name, prefix: prefix.clone() },
                    count => RollbackError::NotOne { name, prefix: prefix.clone(), count },
                })?
            }
            None => match &now {
                Some(now) => history.last_good_before(now),
                None => history.revisions.iter().rev().find(|it| it.rolled_back.is_none()),
            }
            .ok_or_else(|| RollbackError::NoneBefore(name.clone()))?,
        };
        if now.as_ref() == Some(revision) {
            return Err(RollbackError::ServesAlready(revision.clone()));
        }
        self.go_back(name, revision, prefix.is_some(), cause).await.map_err(
            |PluginRevisionRejection { message, .. }| RollbackError::NotLoaded {
                revision: revision.clone(),
                message,
            },
        )?;
        Ok(revision.clone())
    }

    /// Rolls a failing revision back: the latest other one that was not rolled back serves again.
    ///
    /// # Errors
    ///
    /// As [`roll_back`](Self::roll_back); also if `bad` no longer serves, if a rollback is in force already, or if
    /// a person chose `bad` although it had been rolled back.
    pub async fn roll_back_failing(
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
    ) -> Result<(), PluginRevisionRejection> {
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
        // A person who names the file's own revision accepts it even if it had failed.
        let is_insisted = is_named && rollback.is_none();
        let origin =
            RevisionServingStart { since_ms: at_ms, rollback: rollback.clone(), is_insisted };
        let store = self.history.clone();
        let stored = task::spawn_blocking(move || store.record_activation(&plugin, origin)).await;
        if let Err(error) = stored.map_err(std::io::Error::other).flatten() {
            tracing::warn!(plugin = %name, %error, "cannot store the rollback; it ends with this process");
        }
        let rejected = rollback.as_ref().map(|rollback| self::refused(name, rollback));
        let (object, candidate) =
            report.map(|report| (report.object, report.candidate)).unwrap_or_default();
        self.report(name, object, (Some(RevisionLoadStage::Active), candidate), rejected.as_ref());
        Ok(())
    }

    /// Loads a kept revision and makes it serve.
    async fn serve_kept(
        &self,
        name: &PluginName,
        revision: &RevisionDigest,
    ) -> Result<(), PluginRevisionRejection> {
        let plugin = self.load_kept(name, revision).await?;
        self.publish(plugin, self.history.read(name).since_ms(revision));
        Ok(())
    }

    /// Loads a kept revision through all stages.
    async fn load_kept(
        &self,
        name: &PluginName,
        revision: &RevisionDigest,
    ) -> Result<Arc<LoadedPlugin>, PluginRevisionRejection> {
        let files = self.history.files(name, revision).ok_or_else(|| {
            PluginRevisionRejection::new(
                PluginRejectReason::ComponentMissing,
                "no earlier revisions are kept",
            )
        })?;
        let (directory, plugin) = (files.clone(), name.clone());
        let found = task::spawn_blocking(move || directory::read_plugin(&directory, &plugin)).await;
        let found: FoundPlugin = found.map_err(|error| {
            PluginRevisionRejection::new(PluginRejectReason::SettingsInvalid, error.to_string())
        })?;
        let mut progress = PluginStageProgress::begin();
        let plugin = stages::load(self, &files, name, &found, &mut progress, |_| {}).await?;
        if plugin.digest != *revision {
            let text = format!(
                "the kept files of the revision {revision} were changed: they are the revision {} now",
                plugin.digest
            );
            return Err(PluginRevisionRejection::new(PluginRejectReason::DigestMismatch, text));
        }
        Ok(plugin)
    }
}

/// The cause of a rollback.
#[derive(Clone, Copy)]
enum RollbackCause<'a> {
    /// A person requested it.
    Person,
    /// The revision failed for this reason.
    WentWrong(&'a str),
}

/// The recorded reason of a rollback by a person.
const BY_HAND: &str = "by a person, with `tholepin plugin rollback`";

/// Returns the rejection of the file's revision during a rollback.
fn refused(name: &PluginName, rollback: &RollbackRecord) -> PluginRevisionRejection {
    let RollbackRecord { refused, serving, why, at_ms: _, is_by_hand } = rollback;
    let (refused, serving) = (refused.short(), serving.short());
    let command = format!("`tholepin plugin rollback {name} {refused}`");
    if *is_by_hand {
        let text = format!(
            "a person rolled {name} back from the file's revision {refused} to {serving}. To end the rollback, run \
             {command}, or change the component or the spec in {name}.yaml"
        );
        return PluginRevisionRejection::new(PluginRejectReason::RolledBack, text);
    }
    let text = format!(
        "the host rolled {name} back from the file's revision {refused} to {serving}: {why}. Install a fixed \
         component, change the spec in {name}.yaml, or accept {refused} with {command}"
    );
    PluginRevisionRejection::new(PluginRejectReason::TakenBack, text)
}
