//! Add-ons: extra services of a project, like a database. The catalog is data (`catalog.json`); the
//! runner of each environment provisions its instance.

pub mod wire;

use std::{collections::BTreeMap, sync::LazyLock};

use api::{check::Violation, error::Reason, project as pb};
use chassis::{Changed, Code, Error, EventTarget, OrgId, ProjectId, Refusal, Result, UserId};
use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use time::OffsetDateTime;

use crate::{
    types::{AddonId, EnvironmentId, ProjectRef},
    variable::{AddonVariable, Vault},
};

/// Add-on of the catalog.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogEntry {
    pub key: String,
    pub name: String,
    pub category: String,
    /// Description for people.
    pub about: String,
    /// Variable with the connection URL, for programs.
    pub variable: String,
    pub settings: Vec<SettingRule>,
}

/// Numeric setting of an add-on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingRule {
    pub key: String,
    pub about: String,
    pub minimum: i64,
    pub maximum: i64,
    pub default: i64,
}

static CATALOG: LazyLock<Vec<CatalogEntry>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("addon/catalog.json")).expect("the catalog is valid JSON")
});

/// Every add-on of the catalog.
pub fn catalog() -> &'static [CatalogEntry] {
    &CATALOG
}

/// Returns the add-on of the catalog with a key.
pub fn catalog_entry(key: &str) -> Result<&'static CatalogEntry> {
    let entry = catalog().iter().find(|it| it.key == key);
    entry.ok_or_else(|| {
        let keys: Vec<_> = catalog().iter().map(|it| it.key.as_str()).collect();
        Error::invalid("addon_key", format!("must be one of: {}", keys.join(", ")))
    })
}

/// Values of the settings of an add-on, by key.
pub type Config = BTreeMap<String, i64>;

impl CatalogEntry {
    /// Returns the configuration after an update. A setting that is not given keeps its old value, or gets
    /// its default. Refuses with every invalid setting at once.
    pub fn configure(&self, old: &Config, given: &[pb::AddonSetting]) -> Result<Config> {
        let mut config: Config =
            self.settings.iter().map(|it| (it.key.clone(), it.default)).collect();
        config.extend(old.iter().map(|(key, value)| (key.clone(), *value)));
        let mut violations = vec![];
        for (index, setting) in given.iter().enumerate() {
            match self.parse_setting(setting) {
                Ok(value) => _ = config.insert(setting.key.clone(), value),
                Err(description) => {
                    violations.push(Violation { field: format!("config[{index}]"), description });
                }
            }
        }
        if violations.is_empty() { Ok(config) } else { Err(Error::Invalid(violations)) }
    }

    /// Returns the value of a setting, or the description of its violation.
    fn parse_setting(&self, setting: &pb::AddonSetting) -> Result<i64, String> {
        let Some(rule) = self.settings.iter().find(|it| it.key == setting.key) else {
            let keys: Vec<_> = self.settings.iter().map(|it| it.key.as_str()).collect();
            return Err(format!("must have one of the keys: {}", keys.join(", ")));
        };
        let range = rule.minimum..=rule.maximum;
        let value = setting.value.parse().ok().filter(|it| range.contains(it));
        value.ok_or_else(|| format!("must be a number from {} to {}", rule.minimum, rule.maximum))
    }
}

/// State of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The next task that starts the program, or a provisioning task, provisions it.
    Waiting,
    Ready,
    /// A provisioning task failed.
    Error,
    /// The next such task removes it.
    Removing,
}

chassis::text_column!(State {
    Waiting = "waiting", Ready = "ready", Error = "error", Removing = "removing",
});

/// An add-on of a project.
#[derive(Clone, Debug)]
pub struct Addon {
    pub id: AddonId,
    pub org_id: OrgId,
    pub project_id: ProjectId,
    pub addon_key: String,
    pub config: Config,
    /// True from the request to detach it until no environment has an instance.
    pub removing: bool,
    pub creator_id: UserId,
    pub created_at: OffsetDateTime,
    /// Number of changes, from 1 on; its text is the etag.
    pub version: i64,
}

/// Instance of an add-on in an environment.
#[derive(Clone, Debug)]
pub struct Instance {
    pub addon_id: AddonId,
    pub environment_id: EnvironmentId,
    pub state: State,
    pub error_message: String,
    /// Password, encrypted by [`Vault::seal`].
    pub sealed: Vec<u8>,
}

/// An instance that a runner provisions or removes, with the configuration of its add-on.
pub struct DesiredAddon {
    pub addon_key: String,
    pub variable: String,
    pub config: Config,
    pub instance: Instance,
}

impl Instance {
    /// A new instance of an add-on, with a random password.
    pub fn new(addon: &Addon, environment_id: EnvironmentId, vault: &Vault) -> Self {
        let password = BASE64URL_NOPAD.encode(&chassis::key::random());
        Self {
            addon_id: addon.id,
            environment_id,
            state: State::Waiting,
            error_message: String::new(),
            sealed: vault.seal(addon.org_id, &database_name(environment_id), &password),
        }
    }
}

/// Refusals to attach, change, detach or reveal an add-on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the project already has this add-on")]
    Attached,
    #[error("the add-on was changed by another call; read it again and repeat the change")]
    Stale,
    #[error("confirm_key is not the exact key of the add-on; nothing was changed")]
    WrongKey,
    #[error("the add-on is being detached")]
    Removing,
    #[error("the add-on is not provisioned in the environment; deploy the environment first")]
    NotProvisioned,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Attached => Code::AlreadyExists,
            Self::Stale => Code::Aborted,
            Self::WrongKey => Code::InvalidArgument,
            Self::Removing | Self::NotProvisioned => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Attached => Reason::AddonAttached,
            Self::Stale => Reason::Conflict,
            Self::WrongKey => Reason::ConfirmationMismatch,
            Self::Removing | Self::NotProvisioned => Reason::InvalidState,
        }
    }
}

impl Addon {
    /// Attaches an add-on to a project.
    pub fn attach(
        project: ProjectRef,
        entry: &CatalogEntry,
        config: Config,
        creator_id: UserId,
        now: OffsetDateTime,
    ) -> Changed<Self> {
        let addon = Self {
            id: AddonId::new(),
            org_id: project.org_id,
            project_id: project.project_id,
            addon_key: entry.key.clone(),
            config,
            removing: false,
            creator_id,
            created_at: now,
            version: 1,
        };
        let event = pb::AddonAttached { after: Some((&addon).into()) };
        let target = addon.event_target();
        Changed::new(addon, &event, target)
    }

    /// Changes the configuration. `None`: it is unchanged.
    pub fn configure(
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
        if self.config == config {
            return Ok(None);
        }
        let before = Some((&self).into());
        self.config = config;
        let event = pb::AddonUpdated { before, after: Some((&self).into()) };
        let target = self.event_target();
        Ok(Some(Changed::new(self, &event, target)))
    }

    /// Begins to detach the add-on: its instances are removed first.
    pub fn request_detachment(mut self, confirm_key: &str) -> Result<Changed<Self>, Refused> {
        if confirm_key != self.addon_key {
            return Err(Refused::WrongKey);
        }
        let event = pb::AddonDetachRequested { before: Some((&self).into()) };
        self.removing = true;
        let target = self.event_target();
        Ok(Changed::new(self, &event, target))
    }

    /// Detaches an add-on that has no instances any more.
    pub fn detach(self) -> Changed<Self> {
        let event = pb::AddonDetached { before: Some((&self).into()) };
        let target = self.event_target();
        Changed::new(self, &event, target)
    }

    /// Returns the variable that the add-on sets; `None` while it is being detached.
    pub fn variable(&self) -> Result<Option<AddonVariable>> {
        if self.removing {
            return Ok(None);
        }
        Ok(Some(AddonVariable {
            name: catalog_entry(&self.addon_key)?.variable.clone(),
            addon_key: self.addon_key.clone(),
            attached_at: self.created_at,
        }))
    }

    pub fn etag(&self) -> String {
        self.version.to_string()
    }

    pub fn project_ref(&self) -> ProjectRef {
        ProjectRef { org_id: self.org_id, project_id: self.project_id }
    }

    pub fn event_target(&self) -> EventTarget {
        EventTarget::object("addon", self.id, &self.addon_key)
            .in_org(self.org_id)
            .in_project(self.project_id)
    }
}

/// Refuses to attach an add-on if environments have a variable of the same name, which the add-on would
/// replace.
pub fn require_unused_variable(entry: &CatalogEntry, environments: &[String]) -> Result<()> {
    if environments.is_empty() {
        return Ok(());
    }
    let description = format!(
        "must not set {0}, which is a variable of the environments {1}; remove it with SetVariables first",
        entry.variable,
        environments.join(", ")
    );
    Err(Error::invalid("addon_key", description))
}

/// Name of the database, and of its role, of an environment.
pub fn database_name(environment_id: EnvironmentId) -> String {
    format!("env_{}", environment_id.0.simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(key: &str, value: &str) -> pb::AddonSetting {
        pb::AddonSetting { key: key.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn settings_are_checked_against_the_catalog_and_refused_together() {
        let entry = catalog_entry("postgresql").unwrap();
        let config = entry.configure(&Config::new(), &[]).unwrap();
        assert_eq!(config["connections_max"], 20);
        let config = entry.configure(&config, &[given("connections_max", "50")]).unwrap();
        assert_eq!(entry.configure(&config, &[]).unwrap()["connections_max"], 50);
        let invalid = [given("connections_max", "0"), given("typo", "1")];
        let Err(Error::Invalid(violations)) = entry.configure(&config, &invalid) else {
            panic!("both settings are invalid")
        };
        assert_eq!(violations.len(), 2);
        assert!(catalog_entry("nothing").is_err());
    }
}
