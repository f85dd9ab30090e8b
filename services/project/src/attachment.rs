//! Extra services of a project (2.8). What there is to attach is data (`catalogue.json`); a runner provides
//! it.

pub(crate) mod provide;
pub(crate) mod rpc;
pub(crate) mod store;
mod wire;

use std::{collections::BTreeMap, sync::LazyLock};

use api::{check::Violation, error::Reason, project as pb};
use chassis::{About, Changed, Code, Error, OrgId, ProjectId, Refusal, Result, UserId};
use serde::Deserialize;
use sqlx::types::Json;
use time::OffsetDateTime;

use crate::environment::EnvironmentId;

chassis::id!(
    /// Identifies an attached service.
    AttachmentId,
    "attachment"
);

/// A service that can be attached.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) name: String,
    pub(crate) category: String,
    pub(crate) about: String,
    /// In which the program finds it.
    pub(crate) variable: String,
    pub(crate) settings: Vec<Setting>,
}

/// A number that a service takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) about: String,
    pub(crate) minimum: i64,
    pub(crate) maximum: i64,
    pub(crate) default: i64,
}

static CATALOGUE: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("attachment/catalogue.json")).expect("the catalogue is one")
});

/// Every service there is.
pub(crate) fn catalogue() -> &'static [Entry] {
    &CATALOGUE
}

/// The service with a key.
pub(crate) fn entry(key: &str) -> Result<&'static Entry> {
    let keys: Vec<_> = catalogue().iter().map(|it| it.key.as_str()).collect();
    let known = catalogue().iter().find(|it| it.key == key);
    known.ok_or_else(|| {
        Error::invalid("service_key", format!("must be one of: {}", keys.join(", ")))
    })
}

/// The settings of a service, by key.
pub(crate) type Config = BTreeMap<String, i64>;

impl Entry {
    /// The settings after these were given; what is left out stays, or has its default.
    pub(crate) fn configure(&self, old: &Config, given: &[pb::ServiceSetting]) -> Result<Config> {
        let mut config: Config =
            self.settings.iter().map(|it| (it.key.clone(), it.default)).collect();
        config.extend(old.iter().map(|(key, value)| (key.clone(), *value)));
        let mut wrong = vec![];
        for (index, it) in given.iter().enumerate() {
            let field = format!("config[{index}]");
            match self.settings.iter().find(|setting| setting.key == it.key) {
                None => {
                    let keys: Vec<_> = self.settings.iter().map(|it| it.key.as_str()).collect();
                    let description = format!("the service takes: {}", keys.join(", "));
                    wrong.push(Violation { field, description });
                }
                Some(setting) => match it.value.parse() {
                    Ok(value) if (setting.minimum..=setting.maximum).contains(&value) => {
                        config.insert(setting.key.clone(), value);
                    }
                    _ => {
                        let (from, to) = (setting.minimum, setting.maximum);
                        let description = format!("must be a number from {from} to {to}");
                        wrong.push(Violation { field, description });
                    }
                },
            }
        }
        if wrong.is_empty() { Ok(config) } else { Err(Error::Invalid(wrong)) }
    }
}

/// What an environment has of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum State {
    Waiting,
    Ready,
    Error,
    Removing,
}

/// A service of a project.
#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    pub(crate) id: AttachmentId,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: ProjectId,
    pub(crate) service_key: String,
    pub(crate) config: Json<Config>,
    pub(crate) removing: bool,
    pub(crate) creator_id: UserId,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) version: i64,
}

/// What an environment has of it.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) attachment_id: AttachmentId,
    pub(crate) environment_id: EnvironmentId,
    pub(crate) state: State,
    pub(crate) error_message: String,
    pub(crate) sealed: Vec<u8>,
}

/// Why a service is not attached, changed or taken away.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the project has this service")]
    Attached,
    #[error("somebody changed the attachment meanwhile; read it again")]
    Stale,
    #[error("this is not the service's exact key; nothing was done")]
    WrongKey,
    #[error("the service is being taken away")]
    Removing,
    #[error("the environment does not have it yet; deploy it first")]
    NotYet,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Attached => Code::AlreadyExists,
            Self::Stale => Code::Aborted,
            Self::WrongKey => Code::InvalidArgument,
            Self::Removing | Self::NotYet => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Attached => Reason::ServiceAttached,
            Self::Stale => Reason::Conflict,
            Self::WrongKey => Reason::ConfirmationMismatch,
            Self::Removing | Self::NotYet => Reason::InvalidState,
        }
    }
}

impl Attachment {
    /// A service for every environment of a project.
    pub(crate) fn attach(
        place: (OrgId, ProjectId),
        entry: &Entry,
        config: Config,
        creator_id: UserId,
        now: OffsetDateTime,
    ) -> Changed<Self> {
        let it = Self {
            id: AttachmentId::new(),
            org_id: place.0,
            project_id: place.1,
            service_key: entry.key.clone(),
            config: Json(config),
            removing: false,
            creator_id,
            created_at: now,
            version: 1,
        };
        let event = pb::ServiceAttached { after: Some((&it).into()) };
        let about = it.about();
        Changed::new(it, &event, about)
    }

    /// Other settings. `None`: nothing changes.
    pub(crate) fn configure(
        mut self,
        config: Config,
        etag: &str,
    ) -> Result<Option<Changed<Self>>, Refused> {
        if self.removing {
            return Err(Refused::Removing);
        }
        if !etag.is_empty() && etag != self.etag() {
            return Err(Refused::Stale);
        }
        if *self.config == config {
            return Ok(None);
        }
        let before = Some((&self).into());
        self.config = Json(config);
        let event = pb::ServiceUpdated { before, after: Some((&self).into()) };
        let about = self.about();
        Ok(Some(Changed::new(self, &event, about)))
    }

    /// It is to be taken away.
    pub(crate) fn detach(mut self, confirm_key: &str) -> Result<Changed<Self>, Refused> {
        if confirm_key != self.service_key {
            return Err(Refused::WrongKey);
        }
        let event = pb::ServiceDetachRequested { before: Some((&self).into()) };
        self.removing = true;
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    /// It is gone.
    pub(crate) fn gone(self) -> Changed<Self> {
        let event = pb::ServiceDetached { before: Some((&self).into()) };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    pub(crate) fn etag(&self) -> String {
        self.version.to_string()
    }

    pub(crate) fn about(&self) -> About {
        About::object("attachment", self.id, &self.service_key)
            .of(self.org_id)
            .in_project(self.project_id)
    }
}

/// What the instance of an environment is called on its server.
pub(crate) fn name(environment_id: EnvironmentId) -> String {
    format!("env_{}", environment_id.0.simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(key: &str, value: &str) -> pb::ServiceSetting {
        pb::ServiceSetting { key: key.to_owned(), value: value.to_owned() }
    }

    /// 2.8: what the catalogue says is what can be set, all that is wrong is said at once.
    #[test]
    fn settings_are_as_the_catalogue_says() {
        let entry = entry("postgresql").unwrap();
        let config = entry.configure(&Config::new(), &[]).unwrap();
        assert_eq!(config["connections_max"], 20);
        let config = entry.configure(&config, &[given("connections_max", "50")]).unwrap();
        assert_eq!(entry.configure(&config, &[]).unwrap()["connections_max"], 50);
        let wrong = [given("connections_max", "0"), given("typo", "1")];
        let Err(Error::Invalid(wrong)) = entry.configure(&config, &wrong) else { panic!("wrong") };
        assert_eq!(wrong.len(), 2);
        assert!(super::entry("nothing").is_err());
    }
}
