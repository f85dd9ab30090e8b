//! Database columns of value types. The macros [`id!`](crate::id!) and [`text_column!`](crate::text_column!)
//! implement the traits of sqlx, so that a crate of pure rules declares its types without a dependency on
//! sqlx, and its manifest shows that it does no I/O.

/// sqlx, for the macros.
#[doc(hidden)]
pub use sqlx;

/// Stores an enum as text: `text_column!(State { Active = "active", Deleting = "deleting" })`.
#[macro_export]
macro_rules! text_column {
    ($name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        impl $name {
            /// Text in the database.
            pub fn column_text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }

        $crate::column! {
            $name as &'static str,
            encode: |value| value.column_text(),
            decode: |text| match text {
                $($text => Ok(Self::$variant),)+
                other => Err(format!("{other:?} is not a value of {}", stringify!($name)).into()),
            }
        }
    };
}

/// Implements the traits of sqlx for a type that is stored as another type.
#[doc(hidden)]
#[macro_export]
macro_rules! column {
    (
        $name:ident as $stored:ty,
        encode: |$value:ident| $encode:expr,
        decode: |$text:ident| $decode:expr
    ) => {
        impl $crate::column::sqlx::Type<$crate::column::sqlx::Postgres> for $name {
            fn type_info() -> $crate::column::sqlx::postgres::PgTypeInfo {
                <$stored as $crate::column::sqlx::Type<_>>::type_info()
            }

            fn compatible(info: &$crate::column::sqlx::postgres::PgTypeInfo) -> bool {
                <$stored as $crate::column::sqlx::Type<_>>::compatible(info)
            }
        }

        impl $crate::column::sqlx::postgres::PgHasArrayType for $name {
            fn array_type_info() -> $crate::column::sqlx::postgres::PgTypeInfo {
                <$stored as $crate::column::sqlx::postgres::PgHasArrayType>::array_type_info()
            }
        }

        impl $crate::column::sqlx::Encode<'_, $crate::column::sqlx::Postgres> for $name {
            fn encode_by_ref(
                &self,
                buffer: &mut $crate::column::sqlx::postgres::PgArgumentBuffer,
            ) -> Result<
                $crate::column::sqlx::encode::IsNull,
                $crate::column::sqlx::error::BoxDynError,
            > {
                let $value = self;
                <$stored as $crate::column::sqlx::Encode<'_, _>>::encode($encode, buffer)
            }
        }

        impl<'r> $crate::column::sqlx::Decode<'r, $crate::column::sqlx::Postgres> for $name {
            fn decode(
                value: $crate::column::sqlx::postgres::PgValueRef<'r>,
            ) -> Result<Self, $crate::column::sqlx::error::BoxDynError> {
                let $text = $crate::column::sqlx::Decode::decode(value)?;
                $decode
            }
        }
    };
}
