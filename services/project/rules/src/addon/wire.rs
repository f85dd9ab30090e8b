//! Conversion between messages of the contract and add-ons.

use api::project as pb;
use chassis::{OrgId, Result, timestamp};

use super::{
    Addon, CatalogEntry, Config, DesiredAddon, Instance, SettingRule, State, database_name,
};
use crate::{types::EnvironmentId, variable::Vault};

impl From<&CatalogEntry> for pb::AddonType {
    fn from(it: &CatalogEntry) -> Self {
        let rule = |it: &SettingRule| pb::AddonSettingRule {
            key: it.key.clone(),
            about: it.about.clone(),
            minimum: it.minimum,
            maximum: it.maximum,
            default_value: it.default,
        };
        Self {
            key: it.key.clone(),
            name: it.name.clone(),
            category: it.category.clone(),
            about: it.about.clone(),
            variable: it.variable.clone(),
            settings: it.settings.iter().map(rule).collect(),
        }
    }
}

/// Settings in the order of their keys.
fn settings(config: &Config) -> Vec<pb::AddonSetting> {
    let setting = |(key, value): (&String, &i64)| pb::AddonSetting {
        key: key.clone(),
        value: value.to_string(),
    };
    config.iter().map(setting).collect()
}

impl From<&Addon> for pb::Addon {
    fn from(it: &Addon) -> Self {
        let state =
            if it.removing { pb::AddonState::Removing } else { pb::AddonState::Provisioning };
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            project_id: it.project_id.into(),
            addon_key: it.addon_key.clone(),
            state: state.into(),
            config: settings(&it.config),
            creator_id: it.creator_id.into(),
            create_time: Some(timestamp(it.created_at)),
            etag: it.etag(),
            instances: vec![],
        }
    }
}

/// Converts an add-on with its instances. Instances that wait for the first deployment of their environment
/// do not count for its state; `deployed` are the environments that were deployed.
pub fn addon_with_instances(
    addon: &Addon,
    instances: &[&Instance],
    deployed: &[EnvironmentId],
) -> pb::Addon {
    let any = |state: State| {
        instances.iter().any(|it| {
            let counts = state != State::Waiting || deployed.contains(&it.environment_id);
            counts && it.state == state
        })
    };
    let state = if addon.removing {
        pb::AddonState::Removing
    } else if any(State::Error) {
        pb::AddonState::Error
    } else if any(State::Waiting) {
        pb::AddonState::Provisioning
    } else {
        pb::AddonState::Ready
    };
    let instances = instances.iter().map(|it| pb::Instance::from(*it)).collect();
    pb::Addon { state: state.into(), instances, ..addon.into() }
}

impl From<&Instance> for pb::Instance {
    fn from(it: &Instance) -> Self {
        let state = match it.state {
            State::Waiting => pb::InstanceState::Waiting,
            State::Ready => pb::InstanceState::Ready,
            State::Error => pb::InstanceState::Error,
            State::Removing => pb::InstanceState::Removing,
        };
        Self {
            environment_id: it.environment_id.into(),
            state: state.into(),
            error_message: it.error_message.clone(),
        }
    }
}

impl DesiredAddon {
    /// Converts the add-on for a runner, with its password opened.
    pub fn to_wire(&self, org_id: OrgId, vault: &Vault) -> Result<pb::Provision> {
        let name = database_name(self.instance.environment_id);
        let setting = |(name, value): (&String, &i64)| pb::Variable {
            name: name.clone(),
            value: value.to_string(),
            secret: false,
        };
        Ok(pb::Provision {
            addon_key: self.addon_key.clone(),
            password: vault.unseal(org_id, &name, &self.instance.sealed)?,
            variable: self.variable.clone(),
            settings: self.config.iter().map(setting).collect(),
            remove: self.instance.state == State::Removing,
            name,
        })
    }
}
