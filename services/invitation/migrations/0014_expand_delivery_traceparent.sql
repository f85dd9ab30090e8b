-- Trace context of the call that the delivery follows from (W3C `traceparent`); empty if spans are not
-- exported.
alter table webhook_delivery add column traceparent text not null default '';
