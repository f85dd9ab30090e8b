//! Delivery of events to all channels. A reaction stores each event in `pending_event`; a worker renders its
//! notifications and queues them for the inbox, for mails and for webhooks, and retries until that succeeds.
//! A failure delays no other event (NO-12).

pub(super) mod store;
pub(super) mod worker;

pub(super) use store::queue;
