//! Events of a tenant and of its Owner, from which the audit service makes entries of the log.

use anyhow::Result;
use api::{
    event::{Actor, ActorKind, Envelope, Outcome, Resource},
    project::{Environment, EnvironmentUpdated},
};
use chassis::Clock;
use prost::{Message, Name};
use sqlx::PgConnection;

use crate::mutation::SampleProject;

/// Adds events to the outbox of the project service: as many as the tenant has rows, of the organization
/// (`$1`) or, without one, of the account. `$2`: the encoded event without its id and its sequence, which are
/// its first and its last field.
const INSERT: &str = r"
    with counted as (
        insert into project.outbox_sequence as counter (org_id, last)
        select coalesce($1::uuid, '00000000-0000-0000-0000-000000000000'), row_count from tenant
        on conflict (org_id) do update set last = counter.last + excluded.last
        returning last
    ), event as (
        select case when $1::uuid is null then made(51, number, n) else made(50, number, n) end as id,
               last - row_count + n as sequence
        from tenant, counted, generate_series(1, row_count) as n
    )
    insert into project.outbox (id, type, org_id, sequence, envelope)
    select id, 'tenantry.project.v1.EnvironmentUpdated', $1::uuid, sequence,
           '\x0a24'::bytea || id::text::bytea || $2 || 'y'::bytea || project.little_endian(sequence)
    from event order by sequence";

/// Adds the events.
#[expect(clippy::disallowed_methods, reason = "a benchmark has no checked queries")]
pub(super) async fn insert(connection: &mut PgConnection, sample: &SampleProject) -> Result<()> {
    for org_id in [Some(&sample.org_id), None] {
        let event = encode(sample, org_id.map_or("", |it| it));
        sqlx::query(INSERT).bind(org_id).bind(event).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Returns an event without its id and its sequence.
fn encode(sample: &SampleProject, org_id: &str) -> Vec<u8> {
    let before = Environment {
        id: sample.project_id.clone(),
        org_id: org_id.to_owned(),
        name: "development".to_owned(),
        branch: "main".to_owned(),
        ..Default::default()
    };
    let after = Environment { branch: "feature".to_owned(), ..before.clone() };
    let updated = EnvironmentUpdated { before: Some(before), after: Some(after) };
    let envelope = Envelope {
        source: "project".to_owned(),
        org_id: org_id.to_owned(),
        resource: Some(Resource {
            kind: "environment".to_owned(),
            id: sample.project_id.clone(),
            name: "development".to_owned(),
        }),
        actor: Some(Actor {
            kind: ActorKind::User.into(),
            id: sample.user_id.clone(),
            name: "Owner".to_owned(),
            email: "owner@example.com".to_owned(),
            ..Default::default()
        }),
        occur_time: Some(chassis::timestamp(Clock::default().now())),
        event: Some(prost_types::Any {
            type_url: EnvironmentUpdated::type_url(),
            value: updated.encode_to_vec(),
        }),
        salt: vec![7; 16],
        outcome: Outcome::Success.into(),
        ..Default::default()
    };
    envelope.encode_to_vec()
}
