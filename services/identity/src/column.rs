//! Values of the rules in columns: enums as `text`, limits as `jsonb`. A derive of `sqlx::Type` would be
//! shorter, but the crate of the rules has no dependency on sqlx: without one, a rule cannot run a statement.

use std::collections::BTreeMap;

use identity_rules::{
    billing::SeatPolicy,
    mailed_link::Purpose,
    organization::{Limits, Plan, Subscription},
    policy::{OrgRole, ProjectRole},
    types::StoredText,
};
use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef},
    types::Json,
};

/// An enum in a column. `sqlx.toml` declares it for each such column; `query_as!` converts it by `From`.
#[derive(Debug)]
pub(crate) struct Stored<T>(pub(crate) T);

impl<T> Type<Postgres> for Stored<T> {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }

    fn compatible(column: &PgTypeInfo) -> bool {
        <str as Type<Postgres>>::compatible(column)
    }
}

impl<T: StoredText> Encode<'_, Postgres> for Stored<T> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode_by_ref(&self.0.as_text(), buffer)
    }
}

impl<T: StoredText> Decode<'_, Postgres> for Stored<T> {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let text = <&str as Decode<Postgres>>::decode(value)?;
        let known = T::parse_text(text).map(Self);
        known.ok_or_else(|| format!("the column has the unknown value {text:?}").into())
    }
}

impl From<Stored<Self>> for OrgRole {
    fn from(stored: Stored<Self>) -> Self {
        stored.0
    }
}

impl From<Stored<Self>> for ProjectRole {
    fn from(stored: Stored<Self>) -> Self {
        stored.0
    }
}

impl From<Stored<Self>> for Plan {
    fn from(stored: Stored<Self>) -> Self {
        stored.0
    }
}

impl From<Stored<Self>> for Subscription {
    fn from(stored: Stored<Self>) -> Self {
        stored.0
    }
}

impl From<Stored<Self>> for SeatPolicy {
    fn from(stored: Stored<Self>) -> Self {
        stored.0
    }
}

impl From<Stored<Self>> for Purpose {
    fn from(stored: Stored<Self>) -> Self {
        stored.0
    }
}

/// The limits of a plan: a JSON object with a number or null for each key.
#[derive(Debug, Type)]
#[sqlx(transparent)]
pub(crate) struct StoredLimits(Json<BTreeMap<String, Option<i64>>>);

impl From<StoredLimits> for Limits {
    fn from(stored: StoredLimits) -> Self {
        Self(stored.0.0)
    }
}
