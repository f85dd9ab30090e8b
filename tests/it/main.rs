//! The suite as its users see it.

#![expect(clippy::disallowed_methods, reason = "a test has no host whose tasks are drained")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod access;
mod accounts;
mod admission;
mod attachments;
mod authorization;
mod bad_input;
mod cancellation;
mod chaos;
mod collaborators;
mod coverage;
mod crash;
mod credentials;
mod crowd;
mod environments;
mod events;
mod exports;
mod fencing;
mod hosting;
mod ingestion;
mod invitation_ends;
mod invitation_life;
mod invitations;
mod keys;
mod ledger;
mod mails;
mod membership;
mod model;
mod mutants;
mod notifications;
mod organizations;
mod outage;
mod outbox;
mod pages;
mod projects;
mod provider;
mod pushes;
mod races;
mod raw;
mod receipts;
mod retention;
mod runners;
mod search;
mod secrets;
mod servers;
mod start;
mod story;
mod streams;
mod tampering;
mod tasks;
mod tidy;
mod webhook_targets;
mod webhooks;
mod world;
