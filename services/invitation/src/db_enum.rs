//! Columns and JSON fields that hold the number of an enum of the contract.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef},
};

/// An enum of the contract, stored as its number. A number that the contract does not have is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DbEnum<E>(pub(crate) E);

impl<E: Into<i32>> From<DbEnum<E>> for i32 {
    fn from(column: DbEnum<E>) -> Self {
        column.0.into()
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

impl<E: Copy + Into<i32>> Serialize for DbEnum<E> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number: i32 = self.0.into();
        number.serialize(serializer)
    }
}

impl<'de, E> Deserialize<'de> for DbEnum<E>
where
    E: TryFrom<i32, Error: std::fmt::Display>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i32::deserialize(deserializer)?;
        E::try_from(number).map(Self).map_err(serde::de::Error::custom)
    }
}
