//! Between the contract and the rules.

use api::project as pb;
use chassis::timestamp;

use super::{Attachment, Config, Entry, Instance, State};

impl From<&Entry> for pb::CatalogueEntry {
    fn from(it: &Entry) -> Self {
        let rule = |it: &super::Setting| pb::SettingRule {
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

/// Settings, by key.
pub(super) fn settings(config: &Config) -> Vec<pb::ServiceSetting> {
    let setting = |(key, value): (&String, &i64)| pb::ServiceSetting {
        key: key.clone(),
        value: value.to_string(),
    };
    config.iter().map(setting).collect()
}

impl From<&Attachment> for pb::Attachment {
    fn from(it: &Attachment) -> Self {
        let state = if it.removing {
            pb::AttachmentState::Removing
        } else {
            pb::AttachmentState::Provisioning
        };
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            project_id: it.project_id.into(),
            service_key: it.service_key.clone(),
            state: state.into(),
            config: settings(&it.config),
            creator_id: it.creator_id.into(),
            create_time: Some(timestamp(it.created_at)),
            etag: it.etag(),
            instances: vec![],
        }
    }
}

/// An attachment with what each environment has of it. `deployed` are the environments that were deployed.
pub(super) fn whole(
    it: &Attachment,
    instances: &[Instance],
    deployed: &[crate::environment::EnvironmentId],
) -> pb::Attachment {
    let any = |state: State| {
        let here =
            |it: &&Instance| state != State::Waiting || deployed.contains(&it.environment_id);
        instances.iter().filter(here).any(|it| it.state == state)
    };
    let state = match () {
        () if it.removing => pb::AttachmentState::Removing,
        () if any(State::Error) => pb::AttachmentState::Error,
        () if any(State::Waiting) => pb::AttachmentState::Provisioning,
        () => pb::AttachmentState::Ready,
    };
    let instance = |it: &Instance| {
        let state = match it.state {
            State::Waiting => pb::InstanceState::Waiting,
            State::Ready => pb::InstanceState::Ready,
            State::Error => pb::InstanceState::Error,
            State::Removing => pb::InstanceState::Removing,
        };
        pb::Instance {
            environment_id: it.environment_id.into(),
            state: state.into(),
            error_message: it.error_message.clone(),
        }
    };
    let instances = instances.iter().map(instance).collect();
    pb::Attachment { state: state.into(), instances, ..it.into() }
}
