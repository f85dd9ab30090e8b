//! SQL statements that insert the rows of a tenant. The temporary table `tenant` has one row with its number,
//! the ids of its organization, Owner and project, the address of its Owner, and the number of rows of each
//! list. `made` returns the id of a row from its kind, tenant and number; ids begin with times of yesterday,
//! one millisecond apart.

use anyhow::Result;
use sqlx::PgConnection;

/// Request fields that name the parent of a list, and the kinds of these objects. The first row is the
/// parent.
pub(super) const PARENTS: [(&str, i32); 4] =
    [("team_id", 3), ("environment_id", 11), ("dns_connection_id", 14), ("webhook_id", 22)];

/// Returns the id of the first row of a kind.
pub(super) async fn id(connection: &mut PgConnection, kind: i32, tenant: u32) -> Result<String> {
    let id = sqlx::query_scalar("select made($1, $2, 1)::text");
    Ok(id.bind(kind).bind(i32::try_from(tenant)?).fetch_one(connection).await?)
}

/// The statements, in order.
pub(super) const INSERTS: &[&str] = &[
    "create or replace function made(kind int, tenant int, n bigint) returns uuid language sql stable as
     $$ select (lpad(to_hex(extract(epoch from current_date - 1)::bigint * 1000 + n), 12, '0')
                || '7' || lpad(to_hex(kind), 3, '0') || '8' || lpad(to_hex(tenant), 3, '0')
                || lpad(to_hex(n), 12, '0'))::uuid $$",
    // Identity: access to the organization.
    "begin",
    "update identity.organization set access_version = access_version + 1
     where id = (select org_id from tenant)",
    "insert into identity.access_change (org_id, version, event_id, changed_at)
     select organization.id, access_version, gen_random_uuid(), now()
     from identity.organization, tenant
     where organization.id = org_id",
    "insert into identity.account (id, email, canonical_email, display_name, email_verified_at, created_at)
     select made(1, number, n), address, address, 'Person ' || n, now(), now()
     from tenant, generate_series(1, row_count) as n, lateral (select 'p' || number || '-' || n ||
            '@example.com' as address) as mailbox",
    "insert into identity.member (id, org_id, user_id, role, created_at)
     select made(2, number, n), org_id, made(1, number, n), 'developer', now()
     from tenant, generate_series(1, row_count) as n",
    "insert into identity.team (id, org_id, name, name_key, description, color, revision, created_at)
     select made(3, number, n), org_id, 'Team ' || n, 'team ' || n, '', '#112233', 1, now()
     from tenant, generate_series(1, row_count) as n",
    "insert into identity.team_member (id, org_id, team_id, user_id, created_at)
     select made(4, number, n), org_id, made(3, number, 1), made(1, number, n), now()
     from tenant, generate_series(1, row_count) as n",
    "insert into identity.project (org_id, id)
     select org_id, made(5, number, n)
     from tenant, generate_series(1, row_count) as n",
    "insert into identity.project_grant (id, org_id, project_id, user_id, role, granted_by, created_at)
     select made(6, number, n), org_id, project_id, made(1, number, n), 'viewer', user_id, now()
     from tenant, generate_series(1, row_count) as n",
    "commit",
    // Identity: lists without snapshots, and lists of the account.
    "insert into identity.api_key (id, org_id, project_id, name, is_full, owner_id, secret_hash, created_at)
     select made(7, number, n), org_id, project_id, 'Key ' || n, false, user_id, '', now()
     from tenant, generate_series(1, row_count) as n",
    "begin",
    "insert into identity.organization (id, name, slug, plan, owner_id, created_by, access_version,
         created_at)
     select made(8, number, n), 'Org ' || n, 'org-' || number || '-' || n, 'pro', user_id, user_id, 1, now()
     from tenant, generate_series(1, row_count) as n",
    "insert into identity.member (id, org_id, user_id, role, created_at)
     select made(9, number, n), made(8, number, n), user_id, 'owner', now()
     from tenant, generate_series(1, row_count) as n",
    "commit",
    "insert into identity.session (id, user_id, secret_hash, created_at, expires_at, last_used_at)
     select made(10, number, n), user_id, '', now(), now() + interval '1 day', now()
     from tenant, generate_series(1, row_count) as n",
    // Project.
    "insert into project.project (id, org_id, name, slug, repository_url, default_branch, creator_id,
         created_at, updated_at)
     select made(5, number, n), org_id, 'Project ' || n, 'project-' || n, 'https://git.example.com/a.git',
            'main', user_id, now(), now() - interval '1 ms' * n
     from tenant, generate_series(1, row_count) as n",
    "insert into project.environment (id, org_id, project_id, name, kind, state, branch, created_at,
         updated_at)
     select made(11, number, n), org_id, project_id, 'env-' || n, 'development', 'pending', 'main', now(),
            now()
     from tenant, generate_series(1, row_count) as n",
    "insert into project.task (id, org_id, project_id, environment_id, state, triggered_by, created_at,
         completed_at)
     select made(12, number, n), org_id, project_id, made(11, number, 1), 'completed', user_id, now(), now()
     from tenant, generate_series(1, row_count) as n",
    "insert into project.domain (id, org_id, project_id, environment_id, hostname, state, txt_value,
         creator_id, created_at)
     select made(13, number, n), org_id, project_id, made(11, number, 1), 'h' || n || '.example.com',
            'pending', 'value', user_id, now()
     from tenant, generate_series(1, row_count) as n",
    "insert into project.dns_connection (id, org_id, name, zone, provider, server_address, remote_id,
         key_name, sealed, tested_at, secret_updated_at, creator_id, created_at, updated_at)
     select made(14, number, n), org_id, 'DNS ' || n, 'example.com', 'cloudflare', '', '', '', '', now(),
            now(), user_id, now(), now()
     from tenant, generate_series(1, row_count) as n",
    "insert into project.dns_record (id, org_id, environment_id, dns_connection_id, name, record_type,
         value, ttl, state, created_at, updated_at)
     select made(15, number, n), org_id, made(11, number, 1), made(14, number, 1), 'h' || n ||
            '.example.com', 'A', '192.0.2.1', 60, 'published', now(), now()
     from tenant, generate_series(1, row_count) as n",
    "insert into project.git_connection (id, org_id, name, provider, server_url, test_repository_url,
         username, sealed, public_key, host_key, tested_at, secret_updated_at, creator_id, created_at,
         updated_at)
     select made(16, number, n), org_id, 'Git ' || n, 'other', 'https://git.example.com', '', 'git', '', '',
            '', now(), now(), user_id, now(), now()
     from tenant, generate_series(1, row_count) as n",
    "insert into project.storage_connection (id, org_id, name, kind, server_url, region, bucket, path,
         username, path_style, sealed, public_key, host_key, tested_at, secret_updated_at, creator_id,
         created_at, updated_at)
     select made(17, number, n), org_id, 'Storage ' || n, 'folder', '', '', '', '', '', false, '', '', '',
            now(), now(), user_id, now(), now()
     from tenant, generate_series(1, row_count) as n",
    "insert into project.server (id, org_id, name, address, created_at)
     select made(18, number, n), org_id, 'Server ' || n, 's' || n || '.example.com', now()
     from tenant, generate_series(1, row_count) as n",
    // Invitation: of the organization, and of its Owner to other organizations.
    "insert into invitation.invitation (id, org_id, email, canonical_email, role, project_access, message,
         max_uses, secret_hash, inviter_id, inviter_name, org_name, created_at, expires_at)
     select id, org, address, address, 1, '[]', '', 1, '', user_id, 'Owner', 'Acme', now(), now() + interval
            '7 days'
     from (select made(19, number, n) as id, org_id as org, 'i' || n || '@example.com' as address, user_id
     from tenant, generate_series(1, row_count) as n
     union all
     select made(20, number, n), made(8, number, n), email, user_id
     from tenant, generate_series(1, row_count) as n) as invited",
    // Notification. Webhooks and rules are disabled, so that nothing is sent.
    "insert into invitation.notification (id, user_id, org_id, event_id, event_type, category, severity,
         title, body, created_at)
     select made(21, number, n), user_id, org_id, gen_random_uuid(), 'member.added', 1, 1, 'A title', 'A
            text', now()
     from tenant, generate_series(1, row_count) as n",
    "insert into invitation.webhook (id, org_id, url, event_types, description, format, enabled, secret,
         created_at)
     select made(22, number, n), org_id, 'https://hooks.example.com/' || n, '{member.added}', '', 1, false,
            '', now()
     from tenant, generate_series(1, row_count) as n",
    "insert into invitation.mail_rule (id, org_id, recipients, event_types, description, enabled,
         created_at)
     select made(23, number, n), org_id, '{a@example.com}', '{member.added}', '', false, now()
     from tenant, generate_series(1, row_count) as n",
    "insert into invitation.webhook_delivery (id, org_id, webhook_id, event_id, event_type, body, state,
         due_at, created_at, delivered_at)
     select made(24, number, n), org_id, made(22, number, 1), gen_random_uuid(), 'member.added', '{}', 2,
            now(), now(), now()
     from tenant, generate_series(1, row_count) as n",
    "insert into invitation.alert (id, org_id, kind, target, target_name, severity, value, opened_at,
         updated_at)
     select made(25, number, n), org_id, 1, 'server ' || n, 'Server ' || n, 1, '', now(), now()
     from tenant, generate_series(1, row_count) as n",
    "insert into invitation.silenced_address (org_id, address, silenced_at, reply)
     select org_id, 's' || lpad(n::text, 9, '0') || '@example.com', now(), '550'
     from tenant, generate_series(1, row_count) as n",
    // Audit. The export sinks are paused.
    "insert into audit.export_sink (id, org_id, name, storage_connection_id, prefix, ndjson, parquet,
         paused, creator_id, created_at, updated_at)
     select made(26, number, n), org_id, 'Sink ' || n, made(17, number, n), 'log/', true, false, true,
            user_id, now(), now()
     from tenant, generate_series(1, row_count) as n",
];
