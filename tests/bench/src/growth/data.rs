//! Generated organizations with their members, projects and log entries, loaded by COPY. Triggers do not run,
//! so the rows that they would write are loaded, too. Hash tiles of the log are not loaded.

use std::{fmt, ops::Range};

use anyhow::Result;
use api::{
    event::{Actor, ActorKind, Envelope, Outcome, Resource},
    project::EnvironmentUpdated,
};
use prost::{Message, Name};
use sqlx::{Executor, PgConnection};
use uuid::Uuid;

/// Organizations of the full data set.
const ORGS: u32 = 100_000;

/// Members of an organization.
const MEMBERS: u32 = 100;

/// Projects of an organization.
const PROJECTS: u32 = 10;

/// Log entries of an organization.
const ENTRIES: u32 = 100;

/// Accounts that begin with an organization. Each account is a member of ten organizations.
const ACCOUNTS: u32 = MEMBERS / 10;

/// Bytes of a message of the COPY protocol.
const CHUNK_BYTES: usize = 1 << 20;

/// Number of the first tree, above those of the suite's own organizations.
const FIRST_TREE: u32 = 1_000_000;

/// Size of the data.
pub(super) struct DataSet {
    pub(super) orgs: u32,
}

impl DataSet {
    /// Returns a percentage of the full data set.
    pub(super) fn of_percent(percent: u32) -> Self {
        Self { orgs: ORGS / 100 * percent }
    }
}

impl fmt::Display for DataSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { orgs } = self;
        let (members, projects, entries) = (orgs * MEMBERS, orgs * PROJECTS, orgs * ENTRIES);
        write!(
            f,
            "{orgs} organizations, {members} memberships, {entries} log entries and {projects} projects"
        )
    }
}

/// Kinds of objects in ids.
#[derive(Clone, Copy)]
enum Kind {
    Account = 0x101,
    Org = 0x102,
    Member = 0x103,
    Project = 0x104,
    Event = 0x105,
}

/// Returns the id of an object: UUIDv7 with the time 2026-01-01 plus a millisecond for each number.
fn id(kind: Kind, number: u32) -> Uuid {
    let millis = 1_767_225_600_000_u128 + u128::from(number);
    Uuid::from_u128(millis << 80 | 7 << 76 | (kind as u128) << 64 | 2 << 62 | u128::from(number))
}

/// Loads the organizations with these numbers.
pub(super) async fn load(connection: &mut PgConnection, orgs: Range<u32>) -> Result<()> {
    let settings = "set session_replication_role = replica; set synchronous_commit = off;
                    select audit.open_month(date_trunc('month', now() at time zone 'UTC')::date)";
    connection.execute(settings).await?;
    load_orgs(connection, orgs.clone()).await?;
    load_members(connection, orgs.start * MEMBERS..orgs.end * MEMBERS).await?;
    load_projects(connection, orgs.start * PROJECTS..orgs.end * PROJECTS).await?;
    load_log(connection, orgs).await
}

/// Loads the accounts and organizations.
async fn load_orgs(connection: &mut PgConnection, orgs: Range<u32>) -> Result<()> {
    // The members of the last organization include accounts that begin with later ones.
    let first_account = if orgs.start == 0 { 0 } else { (orgs.start + 9) * ACCOUNTS };
    let accounts = (first_account..(orgs.end + 9) * ACCOUNTS).map(|n| {
        let (id, email) = (id(Kind::Account, n), format!("g{n}@example.com"));
        format!("{id}\t{email}\t{email}\tPerson {n}\tnow\tperson {n} {email}\n")
    });
    let columns = "id, email, canonical_email, display_name, created_at, search_key";
    copy(connection, "identity.account", columns, accounts).await?;
    let rows = orgs.clone().map(|n| {
        let (id, owner) = (id(Kind::Org, n), id(Kind::Account, n * ACCOUNTS));
        format!("{id}\tOrg {n}\tgrown-{n}\tpro\t{owner}\t{owner}\t1\tnow\t{MEMBERS}\t{PROJECTS}\n")
    });
    let columns =
        "id, name, slug, plan, owner_id, created_by, access_version, created_at, member_count,
                   project_count";
    copy(connection, "identity.organization", columns, rows).await?;
    let changes = orgs.map(|n| format!("{}\t1\t{}\tnow\n", id(Kind::Org, n), id(Kind::Event, n)));
    let columns = "org_id, version, event_id, changed_at";
    copy(connection, "identity.access_change", columns, changes).await
}

/// Columns of the table of facts that are loaded.
const FACT: &str = "org_id, kind, subject_id, place_id, role, from_version";

/// Loads the memberships with these numbers.
async fn load_members(connection: &mut PgConnection, members: Range<u32>) -> Result<()> {
    let rows = members.clone().map(|n| {
        let (org, user, role) = member(n);
        format!("{}\t{org}\t{user}\t{role}\tnow\n", id(Kind::Member, n))
    });
    copy(connection, "identity.member", "id, org_id, user_id, role, created_at", rows).await?;
    let facts = members.map(|n| {
        let (org, user, role) = member(n);
        format!("{org}\tmember\t{user}\t{user}\t{role}\t1\n")
    });
    copy(connection, "identity.access_fact", FACT, facts).await
}

/// Loads the projects with these numbers.
async fn load_projects(connection: &mut PgConnection, projects: Range<u32>) -> Result<()> {
    let ids = |n: u32| (id(Kind::Org, n / PROJECTS), id(Kind::Project, n));
    let registered = projects.clone().map(|n| {
        let (org, project) = ids(n);
        format!("{org}\t{project}\n")
    });
    copy(connection, "identity.project", "org_id, id", registered).await?;
    let facts = projects.clone().map(|n| {
        let (org, project) = ids(n);
        format!("{org}\tproject\t{project}\t{project}\t\\N\t1\n")
    });
    copy(connection, "identity.access_fact", FACT, facts).await?;
    let rows = projects.map(|n| {
        let (org, project) = ids(n);
        let creator = id(Kind::Account, n / PROJECTS * ACCOUNTS);
        format!(
            "{project}\t{org}\tProject {n}\tproject-{n}\thttps://git.example.com/a.git\tmain\t{creator}\t\
             now\tnow\tproject {n}\tproject {n}\n"
        )
    });
    let columns = "id, org_id, name, slug, repository_url, default_branch, creator_id, created_at, updated_at,
                   name_key, search_key";
    copy(connection, "project.project", columns, rows).await
}

/// Returns the organization, account and role of a membership.
fn member(number: u32) -> (Uuid, Uuid, &'static str) {
    let (org, place) = (number / MEMBERS, number % MEMBERS);
    let role = if place == 0 { "owner" } else { "developer" };
    (id(Kind::Org, org), id(Kind::Account, org * ACCOUNTS + place), role)
}

/// Loads the trees, index terms and entries of the organizations.
async fn load_log(connection: &mut PgConnection, orgs: Range<u32>) -> Result<()> {
    let trees = orgs.clone().map(|n| {
        format!("{}\t{}\t{ENTRIES}\t{ENTRIES}\tnow\tpro\n", FIRST_TREE + n, id(Kind::Org, n))
    });
    let columns = "number, org_id, size, signed, signed_at, plan";
    copy(connection, "audit.tree", columns, trees).await?;
    let terms = orgs.clone().flat_map(|n| {
        let values = [
            (1, id(Kind::Account, n * ACCOUNTS).to_string()),
            (2, format!("{}:environment", id(Kind::Project, n * PROJECTS))),
            (5, "environment.updated".to_owned()),
            (6, "environment".to_owned()),
        ];
        values.into_iter().zip(term_numbers(n)).map(move |((kind, value), number)| {
            format!("{number}\t{}\t{kind}\t{value}\t{ENTRIES}\n", FIRST_TREE + n)
        })
    });
    copy(connection, "audit.term", "number, tree, kind, value, entries", terms).await?;
    let leaf = leaf();
    let entries = (orgs.start * ENTRIES..orgs.end * ENTRIES).map(|n| {
        let (org, index, event) = (n / ENTRIES, n % ENTRIES, id(Kind::Event, n));
        let [actor, resource, action, kind] = term_numbers(org);
        let tree = FIRST_TREE + org;
        format!(
            "{tree}\t{actor}\t{resource}\t{action}\t{kind}\t{index}\tnow\t{event}\t1\t0\t\\\\x{leaf}\n"
        )
    });
    let columns =
        "tree, actor, resource, action, type, index, received_at, event_id, outcome, flags, leaf";
    copy(connection, "audit.entry", columns, entries).await
}

/// Returns the numbers of the index terms of an organization: actor, resource, action and kind.
fn term_numbers(org: u32) -> [u32; 4] {
    let first = 10 * FIRST_TREE + org * 4;
    [first, first + 1, first + 2, first + 3]
}

/// Returns the leaf of all entries in hexadecimal digits.
fn leaf() -> String {
    let envelope = Envelope {
        id: id(Kind::Event, 0).to_string(),
        source: "project".to_owned(),
        org_id: id(Kind::Org, 0).to_string(),
        resource: Some(Resource {
            kind: "environment".to_owned(),
            id: id(Kind::Project, 0).to_string(),
            name: "development".to_owned(),
        }),
        actor: Some(Actor {
            kind: ActorKind::User.into(),
            id: id(Kind::Account, 0).to_string(),
            name: "Person".to_owned(),
            email: "person@example.com".to_owned(),
            ..Default::default()
        }),
        event: Some(prost_types::Any {
            type_url: EnvironmentUpdated::type_url(),
            value: vec![7; 300],
        }),
        salt: vec![7; 16],
        outcome: Outcome::Success.into(),
        ..Default::default()
    };
    envelope.encode_to_vec().iter().map(|it| format!("{it:02x}")).collect()
}

/// Loads rows in the text format of COPY.
async fn copy(
    connection: &mut PgConnection,
    table: &str,
    columns: &str,
    rows: impl Iterator<Item = String>,
) -> Result<()> {
    let mut writer =
        connection.copy_in_raw(&format!("copy {table} ({columns}) from stdin")).await?;
    let mut chunk = String::with_capacity(2 * CHUNK_BYTES);
    for row in rows {
        chunk.push_str(&row);
        if chunk.len() >= CHUNK_BYTES {
            writer.send(chunk.as_bytes()).await?;
            chunk.clear();
        }
    }
    writer.send(chunk.as_bytes()).await?;
    writer.finish().await?;
    Ok(())
}
