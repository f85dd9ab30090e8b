//! Servers: machines on which environments run. They are connected by organizations, or shared by the
//! platform.

pub(crate) mod health;
pub(crate) mod rpc;
