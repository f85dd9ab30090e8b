-- Registrations of projects with identity that have no project here: pending, while the project may still be
-- created; abandoned, if its creation failed; deleted with the project. A project is stored after its
-- registration, so that its creation needs one transaction here.
create table project_registration (
    org_id     uuid        not null,
    project_id uuid        primary key,
    state      text        not null check (state in ('pending', 'abandoned', 'deleted')),
    -- Time of the state.
    updated_at timestamptz not null
);
create index project_registration_updated on project_registration (updated_at);
insert into project_registration (org_id, project_id, state, updated_at)
    select org_id, project_id, 'pending', created_at from project_reservation where registered and not confirmed;
drop table project_reservation;
