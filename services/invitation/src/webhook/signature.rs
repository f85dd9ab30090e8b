//! Signatures of Standard Webhooks: HMAC-SHA256 over id, time and body (N-13).

use aws_lc_rs::hmac;
use chassis::key::{self, Secret};
use data_encoding::BASE64;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{MessageId, Webhook};

const PREFIX: &str = "whsec_";

/// A new secret: sealed, to be stored, and as it is shown, once.
pub(super) fn new_secret(seal: &Secret, webhook_id: Uuid) -> (Vec<u8>, String) {
    let secret = key::random();
    let sealed = key::seal(seal, webhook_id.as_bytes(), &secret);
    (sealed, format!("{PREFIX}{}", BASE64.encode(&secret)))
}

/// Signs what is sent to one webhook, with each secret that lives.
pub(crate) struct Signer(Vec<hmac::Key>);

impl Signer {
    /// Opens the secrets of a webhook.
    pub(crate) fn new(seal: &Secret, it: &Webhook, now: OffsetDateTime) -> Self {
        let old = it.old_secret.as_ref().filter(|_| it.old_secret_until.is_some_and(|it| it > now));
        let sealed = [Some(&it.secret), old];
        let open = |it: &Vec<u8>, id: Uuid| key::open(seal, id.as_bytes(), it);
        let keys = sealed.into_iter().flatten().filter_map(|secret| open(secret, it.id.0));
        Self(keys.map(|it| hmac::Key::new(hmac::HMAC_SHA256, &it)).collect())
    }

    /// The value of `webhook-signature`.
    pub(crate) fn sign(&self, id: MessageId, timestamp: i64, body: &str) -> String {
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

    /// NO-3: the example of the Standard Webhooks text, whose id is no UUID, by its own bytes.
    #[test]
    fn signatures_are_as_standard_webhooks_say() {
        let secret = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let signed = "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        let tag = BASE64.encode(hmac::sign(&key, signed.as_bytes()).as_ref());
        assert_eq!(tag, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let signer = Signer(vec![key]);
        let id = Uuid::nil();
        let again = format!("{id}.7.x");
        let expected = BASE64.encode(hmac::sign(&signer.0[0], again.as_bytes()).as_ref());
        assert_eq!(signer.sign(id, 7, "x"), format!("v1,{expected}"));
    }
}
