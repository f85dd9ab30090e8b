//! The suite as its users see it.

mod story;
mod authorization;
mod bad_input;
mod cancellation;
mod crash;
mod coverage;
mod invitations;
mod outage;
mod races;
mod raw;
mod start;
mod tidy;
