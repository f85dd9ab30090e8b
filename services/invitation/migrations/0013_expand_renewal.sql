-- Number of renewals of an expired invitation. Each has links of its own.
alter table invitation add column link_generation integer not null default 0;
-- Time of the last renewal, at which the present lifetime began.
alter table invitation add column renewed_at timestamptz;
