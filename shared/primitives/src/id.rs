//! Identifiers (UUIDv7, RFC 9562): their only source, and a type for each kind of object.

use time::OffsetDateTime;
use uuid::Uuid;

/// Returns a new `UUIDv7`: unique, and sorted by its time of creation.
#[expect(clippy::disallowed_methods, reason = "this is the one place that makes identifiers")]
pub fn new() -> Uuid {
    Uuid::now_v7()
}

/// Returns the lowest `UUIDv7` of a time (RFC 9562, 5.7): identifiers below it were made earlier.
pub fn lower_bound(time: OffsetDateTime) -> Uuid {
    let milliseconds = u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&milliseconds.to_be_bytes()[2..]);
    Uuid::from_bytes(bytes)
}

/// Returns the time of a `UUIDv7` or of a [`lower_bound`], to the millisecond; `None` if it is out of range.
pub fn time_of(id: Uuid) -> Option<OffsetDateTime> {
    let mut milliseconds = [0; 8];
    milliseconds[2..].copy_from_slice(&id.as_bytes()[..6]);
    let nanoseconds = i128::from(u64::from_be_bytes(milliseconds)) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()
}

/// Returns the time in a `UUIDv7`, in whole seconds; `None` for a UUID of another version.
pub fn created_at(id: Uuid) -> Option<OffsetDateTime> {
    let (seconds, _) = id.get_timestamp()?.to_unix();
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}

/// Parses an identifier that has no type of its own; `field` names it in the violation.
pub fn parse(field: &str, text: &str) -> Result<Uuid, crate::Error> {
    Uuid::try_parse(text).map_err(|_| crate::Error::invalid(field, "must be a UUID"))
}

/// Declares the identifier type of a kind of object. The noun names the object in errors.
#[macro_export]
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub uuid::Uuid);

        impl $name {
            /// The object that the identifier names, for errors.
            pub const NOUN: &'static str = $noun;

            /// Returns a new identifier.
            #[expect(clippy::new_without_default, reason = "an identifier has no default")]
            pub fn new() -> Self {
                Self($crate::id::new())
            }
        }

        $crate::column! {
            $name as uuid::Uuid,
            encode: |id| id.0,
            decode: |id| Ok(Self(id))
        }

        impl std::str::FromStr for $name {
            type Err = $crate::Error;
            fn from_str(text: &str) -> Result<Self, $crate::Error> {
                let id = uuid::Uuid::try_parse(text);
                id.map(Self).map_err(|_| $crate::Error::invalid(concat!($noun, "_id"), "must be a UUID"))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

id!(
    /// Identifies an organization.
    OrgId,
    "org"
);
id!(
    /// Identifies a project.
    ProjectId,
    "project"
);
id!(
    /// Identifies an account.
    UserId,
    "user"
);
id!(
    /// Identifies a team.
    TeamId,
    "team"
);
