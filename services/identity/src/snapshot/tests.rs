//! The rules of access on small worlds.
