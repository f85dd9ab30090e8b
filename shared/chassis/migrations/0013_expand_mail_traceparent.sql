-- Trace context of the call that queued the mail (W3C `traceparent`); empty if spans are not exported.
alter table mail add column traceparent text not null default '';
