//! The links of an invitation. Their secrets follow from the deployment's key, so the same link can be sent
//! or copied again while only its hash is stored.

use chassis::{
    key::{Key, Secret},
    token::{Kind, Token},
};
use secrecy::ExposeSecret;
use uuid::Uuid;

/// How a link reached whoever opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By mail: who opens it reads the mailbox.
    Mailed,
    /// A manager handed it over: it proves nothing about the mailbox. Were it the mailed one, managers could
    /// open accounts with confirmed addresses that are not theirs.
    Copied,
}

/// Makes links.
#[derive(Clone)]
pub(crate) struct Links {
    mailed: Secret,
    copied: Secret,
    opt_out: Secret,
    base_url: String,
}

impl Links {
    /// Links under the deployment's key. What they begin with is configuration; no request has a say (N-08).
    pub(crate) fn new(key: &Key, base_url: String) -> Self {
        Self {
            mailed: key.derive("invitation links"),
            copied: key.derive("copied invitation links"),
            opt_out: key.derive("opt-out links"),
            base_url,
        }
    }

    /// What is stored of the link of an invitation.
    pub(crate) fn hash(&self, id: Uuid, way: Way) -> Vec<u8> {
        self.token(id, way).hash()
    }

    /// The link. Its token is in the path, so that its page needs no script; the page is kept by nobody and
    /// told to nobody (N-09).
    pub(crate) fn link(&self, id: Uuid, way: Way) -> String {
        let token = self.token(id, way).reveal(Kind::Invitation);
        format!("{}/invitations/{}", self.base_url, token.expose_secret())
    }

    /// Where a recipient says that they want no more mail from strangers: the address, sealed.
    pub(crate) fn opt_out(&self, address: &str) -> String {
        let sealed = chassis::key::seal(&self.opt_out, b"opt-out", address.as_bytes());
        format!("{}/opt-out/{}", self.base_url, data_encoding::BASE64URL_NOPAD.encode(&sealed))
    }

    /// The address of an opt-out link.
    pub(crate) fn opting_out(&self, sealed: &str) -> Option<String> {
        let sealed = data_encoding::BASE64URL_NOPAD.decode(sealed.as_bytes()).ok()?;
        String::from_utf8(chassis::key::open(&self.opt_out, b"opt-out", &sealed)?).ok()
    }

    fn token(&self, id: Uuid, way: Way) -> Token {
        let key = match way {
            Way::Mailed => &self.mailed,
            Way::Copied => &self.copied,
        };
        Token::derived(id, key)
    }
}
