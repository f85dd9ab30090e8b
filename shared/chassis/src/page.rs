//! Pagination of lists with opaque page tokens (AIP-158). A token is the place of the last row in the order
//! of the list, with a MAC that binds it to the caller, the method and the filter. It is a place, not a row:
//! the list continues there although the row was changed or deleted.

use std::{fmt, str::FromStr};

use api::error::Reason;
use data_encoding::BASE64URL_NOPAD;
use prost_reflect::MethodDescriptor;
use time::OffsetDateTime;
use tonic::Code;
use uuid::Uuid;

use crate::{
    Error, Result,
    call::Context,
    key::{DerivedKeys, Key},
};

/// Number of rows on a page if the request has no size.
const SIZE_DEFAULT: i32 = 20;
/// Largest number of rows on a page; larger sizes are reduced to it.
const SIZE_MAX: i32 = 100;
/// Length of the MAC in a token, in bytes.
const MAC_LEN: usize = 16;

/// Returns true for a method that returns a list in pages.
pub fn is_paged(method: &MethodDescriptor) -> bool {
    method.input().get_field_by_name("page_token").is_some()
        && method.output().get_field_by_name("next_page_token").is_some()
}

/// The place of a row in a list that is not ordered by id: the value by which the list is ordered, and the
/// id, which orders rows with the same value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<V> {
    /// The value by which the list is ordered.
    pub value: V,
    /// The id of the row.
    pub id: Uuid,
}

impl<V: fmt::Display> fmt::Display for Place<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.value)
    }
}

impl<V: FromStr> FromStr for Place<V> {
    type Err = MalformedPlace;

    fn from_str(text: &str) -> Result<Self, MalformedPlace> {
        let (id, value) = text.split_once(' ').ok_or(MalformedPlace)?;
        let id = id.parse().map_err(|_| MalformedPlace)?;
        Ok(Self { value: value.parse().map_err(|_| MalformedPlace)?, id })
    }
}

/// A time in a place: microseconds since 1970, the resolution of PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixMicros(pub OffsetDateTime);

impl fmt::Display for UnixMicros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.unix_timestamp_nanos() / 1_000)
    }
}

impl FromStr for UnixMicros {
    type Err = MalformedPlace;

    fn from_str(text: &str) -> Result<Self, MalformedPlace> {
        let micros: i64 = text.parse().map_err(|_| MalformedPlace)?;
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000);
        Ok(Self(time.map_err(|_| MalformedPlace)?))
    }
}

/// A place that this version did not write.
#[derive(Debug)]
pub struct MalformedPlace;

impl fmt::Display for MalformedPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the place in the list is malformed")
    }
}

impl std::error::Error for MalformedPlace {}

/// Reads the page parameters of calls.
#[derive(Clone)]
pub struct Pager(DerivedKeys);

/// A requested page.
pub struct Page {
    size: usize,
    after: Option<String>,
    binding: Binding,
}

/// Keys of the MAC of tokens, and the values that the MAC covers beside the cursor (the key of a row).
struct Binding {
    keys: DerivedKeys,
    values: Vec<String>,
}

impl Binding {
    fn mac(&self, cursor: &str) -> [u8; MAC_LEN] {
        let mac = self.keys.mac(&self.parts(cursor));
        mac[..MAC_LEN].try_into().expect("a MAC has 32 bytes")
    }

    fn is_mac(&self, cursor: &str, mac: &[u8]) -> bool {
        self.keys.verify_mac(&self.parts(cursor), mac)
    }

    fn parts<'a>(&'a self, cursor: &'a str) -> Vec<&'a [u8]> {
        let values = self.values.iter().map(String::as_bytes);
        std::iter::once(cursor.as_bytes()).chain(values).collect()
    }
}

impl Pager {
    /// Creates a pager with keys that are derived from the deployment's.
    pub fn new(key: &Key) -> Self {
        Self(key.derive("page tokens"))
    }

    /// Returns the page that a call requests. `filter` has all parameters of the request that select or order
    /// the rows; fails if the token was created for another filter, caller or method.
    pub fn page(&self, context: &Context, size: i32, token: &str, filter: &[&str]) -> Result<Page> {
        let mut values = vec![context.rule.method.clone(), context.idempotency_scope()];
        values.extend(filter.iter().map(|it| (*it).to_owned()));
        let binding = Binding { keys: self.0.clone(), values };
        let size = if size == 0 { SIZE_DEFAULT } else { size.clamp(1, SIZE_MAX) };
        let size = usize::try_from(size).expect("a page size is positive");
        let after = if token.is_empty() { None } else { Some(open(&binding, token)?) };
        Ok(Page { size, after, binding })
    }
}

/// Verifies a token and returns its cursor.
fn open(binding: &Binding, token: &str) -> Result<String> {
    let invalid = || Error::Refused {
        code: Code::InvalidArgument,
        reason: Reason::InvalidPageToken,
        message:
            "the page token is malformed or belongs to another list; list again without page_token"
                .to_owned(),
        metadata: vec![],
    };
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| invalid())?;
    let (mac, cursor) = bytes.split_at_checked(MAC_LEN).ok_or_else(invalid)?;
    let cursor = str::from_utf8(cursor).map_err(|_| invalid())?;
    if binding.is_mac(cursor, mac) { Ok(cursor.to_owned()) } else { Err(invalid()) }
}

impl Page {
    /// Largest number of rows on the page.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Number of rows to read: one more than the page has, to find out if there is a next page.
    pub fn limit(&self) -> i64 {
        i64::try_from(self.size).expect("a page is small") + 1
    }

    /// Place of the last row of the previous page; `None` for the first page.
    pub fn after<T: FromStr>(&self) -> Result<Option<T>>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let after = self.after.as_deref().map(str::parse).transpose();
        Ok(after.map_err(anyhow::Error::from)?)
    }

    /// Removes the row beyond the page, if there is one, and returns the rows with the token of the next
    /// page, which is empty on the last one.
    pub fn paginate<T>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> String) -> (Vec<T>, String) {
        if rows.len() <= self.size {
            return (rows, String::new());
        }
        rows.truncate(self.size);
        let cursor = rows.last().map(key).unwrap_or_default();
        (rows, self.token(&cursor))
    }

    /// Returns the token of the page after the row with this key.
    pub fn token(&self, cursor: &str) -> String {
        let token = [self.binding.mac(cursor).as_slice(), cursor.as_bytes()].concat();
        BASE64URL_NOPAD.encode(&token)
    }
}

#[cfg(test)]
mod fuzz;
