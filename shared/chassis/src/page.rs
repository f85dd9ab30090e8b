//! Pages of a list: opaque tokens, bound to the caller, the method and the filter (AIP-158).

use std::str::FromStr;

use api::error::Reason;
use data_encoding::BASE64URL_NOPAD;
use tonic::Code;

use crate::{
    Error, Result,
    call::Context,
    key::{self, Key, Secret},
};

const SIZE_DEFAULT: i32 = 20;
const SIZE_MAX: i32 = 100;
const MAC_LEN: usize = 16;

/// Makes and reads page tokens.
#[derive(Clone)]
pub struct Pager(Secret);

/// The page that is asked for.
pub struct Page {
    size: usize,
    after: Option<String>,
    seal: Seal,
}

/// What a token is bound to.
struct Seal {
    key: Secret,
    binding: Vec<String>,
}

impl Seal {
    fn mac(&self, cursor: &str) -> [u8; MAC_LEN] {
        let mut parts: Vec<&[u8]> = vec![cursor.as_bytes()];
        parts.extend(self.binding.iter().map(String::as_bytes));
        key::mac(&self.key, &parts)[..MAC_LEN].try_into().expect("a MAC is longer than that")
    }
}

impl Pager {
    /// A pager under the deployment's key.
    pub fn new(key: &Key) -> Self {
        Self(key.derive("page tokens"))
    }

    /// The page that a call asks for. `filter` is everything else that shapes the list.
    pub fn page(&self, context: &Context, size: i32, token: &str, filter: &[&str]) -> Result<Page> {
        let mut binding = vec![context.rule.method.clone(), context.idempotency_scope()];
        binding.extend(filter.iter().map(|it| (*it).to_owned()));
        let seal = Seal { key: self.0, binding };
        let size = if size == 0 { SIZE_DEFAULT } else { size.clamp(1, SIZE_MAX) };
        let size = usize::try_from(size).expect("a page size is positive");
        let after = if token.is_empty() { None } else { Some(open(&seal, token)?) };
        Ok(Page { size, after, seal })
    }
}

fn open(seal: &Seal, token: &str) -> Result<String> {
    let bad = || Error::Refused {
        code: Code::InvalidArgument,
        reason: Reason::InvalidPageToken,
        message: "the page token is damaged or belongs to another list; start without one"
            .to_owned(),
        metadata: vec![],
    };
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| bad())?;
    let (mac, cursor) = bytes.split_at_checked(MAC_LEN).ok_or_else(bad)?;
    let cursor = str::from_utf8(cursor).map_err(|_| bad())?;
    if key::equal(mac, &seal.mac(cursor)) { Ok(cursor.to_owned()) } else { Err(bad()) }
}

impl Page {
    /// How many rows the page has at most.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many rows to read: one more than fits tells whether there is a next page.
    pub fn limit(&self) -> i64 {
        i64::try_from(self.size).expect("a page is small") + 1
    }

    /// The key of the last row of the page before.
    pub fn after<T: FromStr>(&self) -> Result<Option<T>>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let after = self.after.as_deref().map(str::parse).transpose();
        Ok(after.map_err(anyhow::Error::from)?)
    }

    /// Cuts the rows to the page and makes the token of the next one.
    pub fn cut<T>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> String) -> (Vec<T>, String) {
        if rows.len() <= self.size {
            return (rows, String::new());
        }
        rows.truncate(self.size);
        let cursor = rows.last().map(key).unwrap_or_default();
        (rows, self.token(&cursor))
    }

    /// The token of a place in the list.
    pub fn token(&self, cursor: &str) -> String {
        let token = [self.seal.mac(cursor).as_slice(), cursor.as_bytes()].concat();
        BASE64URL_NOPAD.encode(&token)
    }
}

#[cfg(test)]
mod fuzz;
