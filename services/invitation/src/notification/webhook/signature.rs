//! Signatures of the Standard Webhooks specification: HMAC-SHA256 over id, timestamp and body (N-13).

use aws_lc_rs::hmac;
use chassis::key::{self, DerivedKeys};
use data_encoding::BASE64;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Webhook, WebhookId};

/// Prefix of secrets.
const PREFIX: &str = "whsec_";

/// A new signing secret.
pub(super) struct NewSecret {
    /// Encrypted secret, to be stored.
    pub(super) sealed: Vec<u8>,
    /// Secret as text, shown once.
    pub(super) text: String,
}

impl NewSecret {
    /// Generates a secret. Its encryption is bound to the webhook.
    pub(super) fn generate(secret_keys: &DerivedKeys, webhook_id: WebhookId) -> Self {
        let secret = key::random();
        let sealed = secret_keys.seal(webhook_id.0.as_bytes(), &secret);
        Self { sealed, text: format!("{PREFIX}{}", BASE64.encode(&secret)) }
    }
}

/// Signer of requests to one webhook, with the present secret and, for a day after a rotation, the former
/// one.
pub(crate) struct Signer(Vec<hmac::Key>);

impl Signer {
    /// Decrypts the valid secrets of a webhook.
    pub(crate) fn new(secret_keys: &DerivedKeys, webhook: &Webhook, now: OffsetDateTime) -> Self {
        let old_is_valid = webhook.old_secret_until.is_some_and(|until| until > now);
        let old_secret = webhook.old_secret.as_ref().filter(|_| old_is_valid);
        let sealed = [Some(&webhook.secret), old_secret];
        let open = |it: &Vec<u8>| secret_keys.open(webhook.id.0.as_bytes(), it);
        let secrets = sealed.into_iter().flatten().filter_map(open);
        Self(secrets.map(|it| hmac::Key::new(hmac::HMAC_SHA256, &it)).collect())
    }

    /// Value of the header `webhook-signature`.
    pub(crate) fn sign(&self, id: Uuid, timestamp: i64, body: &str) -> String {
        let signed = format!("{id}.{timestamp}.{body}");
        let sign = |key: &hmac::Key| {
            format!("v1,{}", BASE64.encode(hmac::sign(key, signed.as_bytes()).as_ref()))
        };
        self.0.iter().map(sign).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NO-3: the example of the specification. Its id is no UUID, so its text is signed directly.
    #[test]
    fn signatures_match_the_standard_webhooks_example() {
        let secret = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let signed = "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        let tag = BASE64.encode(hmac::sign(&key, signed.as_bytes()).as_ref());
        assert_eq!(tag, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let signer = Signer(vec![key]);
        let id = Uuid::nil();
        let signed = format!("{id}.7.x");
        let expected = BASE64.encode(hmac::sign(&signer.0[0], signed.as_bytes()).as_ref());
        assert_eq!(signer.sign(id, 7, "x"), format!("v1,{expected}"));
    }
}
