//! Columns that the secret key of the deployment seals. The names in their associated data are those with
//! which the rules seal; a test of the rotation compares them.

use chassis::Db;
use host::Host;
use project_rules::project::repository_token;
use worker::reseal::{self, KeyColumn, SealedColumn};

/// Keys of an organization's values.
const OF_ORG: &str = "'variables of ' || org_id";

/// Adds the columns to the rotation of the secret key, and the purposes whose keys are kept after it.
pub(crate) fn install(host: &mut Host, db: &Db) {
    db.retain_keys_for(&["owner of DNS records"]);
    host.add_sealed_columns(db, &COLUMNS);
}

const fn of_org(table: &'static str, associated_data: &'static str) -> SealedColumn {
    SealedColumn {
        table,
        column: "sealed",
        key: reseal::ID,
        purpose: OF_ORG,
        associated_data,
        convert: None,
    }
}

const COLUMNS: [SealedColumn; 8] = [
    SealedColumn {
        table: "project",
        column: "push_secret",
        key: reseal::ID,
        purpose: "'push secrets'",
        associated_data: "uuid_send(id)",
        convert: None,
    },
    SealedColumn {
        table: "project",
        column: "repository_token",
        key: reseal::ID,
        purpose: OF_ORG,
        associated_data: "convert_to(id || ' ' || repository_url, 'UTF8')",
        convert: Some(repository_token::stored_name),
    },
    SealedColumn {
        key: &[
            KeyColumn { name: "environment_id", sql_type: "uuid" },
            KeyColumn { name: "name", sql_type: "text" },
        ],
        ..of_org("environment_variable", "convert_to(name, 'UTF8')")
    },
    SealedColumn {
        key: &[
            KeyColumn { name: "addon_id", sql_type: "uuid" },
            KeyColumn { name: "environment_id", sql_type: "uuid" },
        ],
        ..of_org(
            "addon_instance",
            "convert_to('env_' || replace(environment_id::text, '-', ''), 'UTF8')",
        )
    },
    of_org("git_deploy_key", "convert_to('deploy key ' || id, 'UTF8')"),
    of_org(
        "git_connection",
        "convert_to(case when deploy_key_id is null
                         then 'token of the Git connection ' || id || ' for ' || server_url
                         else 'deploy key ' || deploy_key_id end, 'UTF8')",
    ),
    of_org(
        "storage_connection",
        "convert_to(case when deploy_key_id is null
                         then 'secret access key of the storage connection ' || id || ' for ' || server_url
                         else 'deploy key ' || deploy_key_id end, 'UTF8')",
    ),
    of_org(
        "dns_connection",
        "convert_to('secret of the DNS connection ' || id || ' for ' || server_address, 'UTF8')",
    ),
];
