//! Recipients of mail, compared in canonical form: e-mail addresses that opted out of mail from all
//! organizations, and addresses that are silenced for one organization, because their mail server permanently
//! rejected a mail of it.

pub(crate) mod store;

use api::notification::{self as pb, NotificationCategory, NotificationChannel};
use chassis::{
    Changed, EventTarget, OrgId, UserId,
    key::{DerivedKeys, Key},
    timestamp,
};
use data_encoding::BASE64URL_NOPAD;
use time::OffsetDateTime;

/// Purpose that the encryption of opt-out links is bound to.
const PURPOSE: &[u8] = b"opt-out";

/// Address to which mail rules of an organization send nothing.
pub(crate) struct SilencedAddress {
    pub(crate) address: String,
    pub(crate) silenced_at: OffsetDateTime,
    /// Reply of the mail server.
    pub(crate) reply: String,
}

impl From<&SilencedAddress> for pb::SilencedAddress {
    fn from(silenced: &SilencedAddress) -> Self {
        Self {
            email: silenced.address.clone(),
            silence_time: Some(timestamp(silenced.silenced_at)),
            reply: silenced.reply.clone(),
        }
    }
}

impl SilencedAddress {
    /// The event of clearing the address: mails are sent to it again.
    pub(crate) fn cleared(self, org_id: OrgId) -> Changed<Self> {
        let event = pb::SilencedAddressCleared { before: Some((&self).into()) };
        // Without the address, which is personal data.
        let target = EventTarget::object("organization", org_id, "").in_org(org_id);
        Changed::new(self, &event, target)
    }
}

/// Mails that a link turns off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OptOut {
    /// Invitations and mails of mail rules to an address.
    Address(String),
    /// Mails about events of one category to an account.
    Category { user_id: UserId, category: NotificationCategory },
}

impl OptOut {
    /// Text in the link. An address contains no colon.
    fn encode(&self) -> String {
        match self {
            Self::Address(address) => address.clone(),
            Self::Category { user_id, category } => {
                format!("category:{user_id}:{}", i32::from(*category))
            }
        }
    }

    fn decode(text: String) -> Option<Self> {
        let Some(category) = text.strip_prefix("category:") else {
            return Some(Self::Address(text));
        };
        let (user_id, category) = category.split_once(':')?;
        let category = NotificationCategory::try_from(category.parse::<i32>().ok()?).ok()?;
        Some(Self::Category { user_id: user_id.parse().ok()?, category })
    }
}

/// The event of a category whose mails an account turned off by a link.
fn turned_off_event(user_id: UserId, category: NotificationCategory) -> Changed<()> {
    let preference = pb::NotificationPreference {
        category: category.into(),
        channel: NotificationChannel::Email.into(),
        ..Default::default()
    };
    let event =
        pb::NotificationPreferencesUpdated { preferences: vec![preference], quiet_hours: None };
    Changed::new((), &event, EventTarget::object("user", user_id, ""))
}

/// Links to the page that turns mails off (RFC 8058: a POST without any further step does). They contain the
/// address or the account, encrypted.
#[derive(Clone)]
pub(crate) struct OptOutLinks {
    keys: DerivedKeys,
    base_url: String,
}

impl OptOutLinks {
    /// Derives the keys of links. The base URL comes from the configuration, never from a request (N-08).
    pub(crate) fn new(key: &Key, base_url: String) -> Self {
        Self { keys: key.derive("opt-out links"), base_url }
    }

    /// URL of the opt-out page.
    pub(crate) fn url(&self, opt_out: &OptOut) -> String {
        let sealed = self.keys.seal(PURPOSE, opt_out.encode().as_bytes());
        format!("{}/opt-out/{}", self.base_url, BASE64URL_NOPAD.encode(&sealed))
    }

    /// Decrypts the last path segment of a link; `None` if it is damaged.
    pub(crate) fn open(&self, segment: &str) -> Option<OptOut> {
        let sealed = BASE64URL_NOPAD.decode(segment.as_bytes()).ok()?;
        OptOut::decode(String::from_utf8(self.keys.open(PURPOSE, &sealed)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_contains_its_address_encrypted() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::read_or_create(&dir.path().join("key")).unwrap();
        let links = OptOutLinks::new(&key, "https://tenantry.example".to_owned());
        let user_id = UserId(uuid::Uuid::from_u128(7));
        let category = NotificationCategory::Monitoring;
        for opt_out in
            [OptOut::Address("bob@example.com".to_owned()), OptOut::Category { user_id, category }]
        {
            let url = links.url(&opt_out);
            assert!(!url.contains("bob"), "{url}");
            let segment = url.strip_prefix("https://tenantry.example/opt-out/").unwrap();
            assert_eq!(links.open(segment), Some(opt_out));
        }
        assert_eq!(links.open("AAAA"), None);
    }
}
