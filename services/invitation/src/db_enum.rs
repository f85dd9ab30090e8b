//! Columns and JSON fields that hold the number of an enum of the contract.

use serde::{Deserialize, Serialize};
use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef},
};

/// An enum of the contract, stored as its number. A number that the contract does not have is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "i32", try_from = "i32")]
#[serde(bound(
    serialize = "E: Clone + Into<i32>",
    deserialize = "E: TryFrom<i32, Error: std::fmt::Display>"
))]
pub(crate) struct DbEnum<E>(pub(crate) E);

impl<E: Into<i32>> From<DbEnum<E>> for i32 {
    fn from(column: DbEnum<E>) -> Self {
        column.0.into()
    }
}

impl<E: TryFrom<i32>> TryFrom<i32> for DbEnum<E> {
    type Error = E::Error;

    fn try_from(number: i32) -> Result<Self, E::Error> {
        E::try_from(number).map(Self)
    }
}

impl<E> Type<Postgres> for DbEnum<E> {
    fn type_info() -> PgTypeInfo {
        <i32 as Type<Postgres>>::type_info()
    }
}

impl<'r, E> Decode<'r, Postgres> for DbEnum<E>
where
    E: TryFrom<i32, Error: std::error::Error + Send + Sync + 'static>,
{
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let number = <i32 as Decode<'r, Postgres>>::decode(value)?;
        Ok(Self(E::try_from(number)?))
    }
}

impl<'q, E: Copy + Into<i32>> Encode<'q, Postgres> for DbEnum<E> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let number: i32 = self.0.into();
        <i32 as Encode<'q, Postgres>>::encode(number, buffer)
    }
}
