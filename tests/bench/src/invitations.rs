//! Invitations: rate of creation, compared to the same SQL statements sent by pgbench; and latency of
//! acceptance, which involves two services, compared to a call that changes one row.

use std::time::Instant;

use anyhow::{Context, Result};
use api::{
    identity as id,
    invitation::{self as inv, invitation_service_client::InvitationServiceClient},
};
use tonic::{Request, metadata::MetadataValue};

use crate::{load, median, mutation, noop, print, print_rates, suite::Suite};

/// Number of concurrent callers.
const CONNECTIONS: usize = 8;

/// Number of people who accept the invitation, one after the other.
const GUESTS: usize = 60;

/// SQL statements of `CreateInvitation`, in order: session, access version, queries of the identity service,
/// and the transaction.
const SCRIPT: &str = "
\\set guest random(1, 1000000000)
select account.id, account.email, account.display_name, account.email_verified_at is not null,
       session.secret_hash, session.expires_at, session.proved_at, session.last_used_at
from identity.session join identity.account on account.id = session.user_id
where session.id = :session and session.revoked_at is null;
select access_version from identity.organization where id = :org;
select member.id, org_id, user_id, email, display_name, email_verified_at is not null, role, invitation_id,
       member.created_at
from identity.member join identity.account on account.id = member.user_id
where org_id = :org and user_id = :user;
select organization.id, name, slug, plan, owner_id, subscription, access_version, revision,
       organization.created_at, deleted_at,
       (select count(*) from identity.member as m where m.org_id = organization.id),
       (select count(*) from identity.project where org_id = organization.id),
       coalesce((select jsonb_object_agg(key, value) from identity.plan_limit
        where plan_limit.plan = organization.plan), '{}'),
       array(select service from identity.closing where closing.org_id = organization.id
             and closed_at is null order by service)
from identity.organization where id = :org;
select account.canonical_email from identity.member join identity.account on account.id = member.user_id
where member.org_id = :org and account.canonical_email = any(array['guest' || :guest]);
begin;
select pg_advisory_xact_lock(hashtextextended('guest' || :guest, 1));
select id from invitation.invitation
where org_id = :org and canonical_email = 'guest' || :guest and max_uses = 1 and use_count = 0
  and revoked_at is null and expires_at > now();
insert into invitation.invitation (id, org_id, email, canonical_email, role, project_access, message,
    max_uses, secret_hash, copied_hash, inviter_id, inviter_name, org_name, created_at, expires_at, team_ids,
    mailed_at, mail_count)
values (gen_random_uuid(), :org, 'guest@example.com', 'guest' || :guest, 1, '[]', '', 1,
    decode(repeat('ab', 32), 'hex'), decode(repeat('cd', 32), 'hex'), :user, 'Ann', 'Acme', now(),
    now() + interval '7 days', '{}', array[now()], 1);
with counted as (insert into invitation.outbox_sequence as counter (org_id, last) values (:org, 1)
                 on conflict (org_id) do update set last = counter.last + 1 returning last)
insert into invitation.outbox (id, type, org_id, sequence, envelope)
select gen_random_uuid(), 'x', :org, last, decode(repeat('ab', 700), 'hex') from counted;
insert into invitation.mail (id, template, subject_id, due_at)
values (gen_random_uuid(), 'x', gen_random_uuid(), now() + interval '1 year');
commit;
";

/// Runs both measurements.
pub(crate) async fn run() -> Result<()> {
    measure_creation().await?;
    measure_acceptance().await
}

/// Measures the rate of creation. Mails are held back, so that their delivery is not measured.
async fn measure_creation() -> Result<()> {
    let suite = Suite::start(&noop::without_audit()).await?;
    let token = suite.sign_in("ann@example.com").await?;
    suite.hold_mails().await?;
    let sample = mutation::create_sample_project(&suite, &token).await?;
    // Warm-up, with a round number that is not measured.
    measure(&suite, &token, &sample.org_id, 9).await?;
    let mut measured = vec![];
    let mut reference = vec![];
    for round in 0..3 {
        suite.analyze().await?;
        reference.push(mutation::pgbench(&suite.options, SCRIPT, &sample)?);
        measured.push(measure(&suite, &token, &sample.org_id, round).await?);
    }
    let measurement = "`CreateInvitation`, 8 callers (pgbench)";
    print_rates(measurement, median(measured), median(reference), "≥ 0.8");
    suite.stop().await
}

/// Returns the rate of creation. The round is a part of the addresses, so that each is invited once.
async fn measure(suite: &Suite, token: &str, org_id: &str, round: usize) -> Result<f64> {
    let channels = load::channels(suite.address).await?;
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    let org_id = org_id.to_owned();
    load::rate(CONNECTIONS, move |caller, number| {
        let mut client = InvitationServiceClient::new(channels[caller % channels.len()].clone());
        let mut request = Request::new(inv::CreateInvitationRequest {
            org_id: org_id.clone(),
            email: format!("guest-{round}-{number}@example.com"),
            role: id::OrgRole::Viewer.into(),
            ..Default::default()
        });
        request.metadata_mut().insert("authorization", bearer.clone());
        async move {
            client.create_invitation(request).await?;
            Ok(())
        }
    })
    .await
}

/// Measures the latency of acceptance, without concurrent calls.
async fn measure_acceptance() -> Result<()> {
    let suite = Suite::start(&noop::without_audit()).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let sample = mutation::create_sample_project(&suite, &token).await?;
    let ann = suite.client.with_token(&token);
    let invite = inv::CreateInvitationRequest {
        org_id: sample.org_id.clone(),
        email: "link@example.com".to_owned(),
        role: id::OrgRole::Viewer.into(),
        max_uses: Some(100),
        ..Default::default()
    };
    let service = "tenantry.invitation.v1.InvitationService";
    let _: inv::CreateInvitationResponse =
        ann.call(&format!("{service}/CreateInvitation"), invite).await?;
    let invitation_token = suite.mailbox.token("link@example.com", "tny_inv_").await?;
    let mut guests = vec![];
    for number in 0..GUESTS {
        let token = suite.sign_in(&format!("guest{number}@example.com")).await?;
        guests.push(suite.client.with_token(&token));
    }
    let mut accept_times_ms = vec![];
    let mut update_times_ms = vec![];
    for guest in guests {
        let started = Instant::now();
        let accept = inv::AcceptInvitationRequest {
            invitation: Some(inv::accept_invitation_request::Invitation::Token(
                invitation_token.clone(),
            )),
            ..Default::default()
        };
        let accepted: inv::AcceptInvitationResponse =
            guest.call(&format!("{service}/AcceptInvitation"), accept).await?;
        accept_times_ms.push(started.elapsed().as_secs_f64() * 1e3);
        accepted.member.context("the response has no member")?;
        let started = Instant::now();
        let name = format!("Acme {}", accept_times_ms.len());
        let update = id::UpdateOrganizationRequest {
            org_id: sample.org_id.clone(),
            name,
            update_mask: Some(prost_types::FieldMask { paths: vec!["name".to_owned()] }),
            ..Default::default()
        };
        let method = "tenantry.identity.v1.OrganizationService/UpdateOrganization";
        let _: id::UpdateOrganizationResponse = ann.call(method, update).await?;
        update_times_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let measured = median(accept_times_ms);
    let reference = median(update_times_ms);
    print(&format!(
        "| `AcceptInvitation`, one caller (`UpdateOrganization`) | {measured:.2} ms | {reference:.2} ms | \
         {:.2} | ≤ 2.5 |\n",
        measured / reference
    ));
    suite.stop().await
}
