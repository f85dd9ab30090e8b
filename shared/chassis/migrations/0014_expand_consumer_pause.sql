-- Pause of the reactions of this service to events, set by an operator.
create table consumer_pause (
    only_row  boolean     primary key default true check (only_row),
    paused_at timestamptz not null
);
