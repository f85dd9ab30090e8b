//! Delivery of events to all channels. A reaction stores each event in `pending_event`; a worker renders its
//! notifications and hands them to the inbox, to mails and to webhooks, and retries until that succeeds. A
//! failure delays no other event (NO-12).

pub(super) mod store;
pub(super) mod worker;
