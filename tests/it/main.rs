//! Integration tests of the suite: real servers in this process or as processes, PostgreSQL, NATS and
//! browsers. One folder per service; a file that tests one gRPC service has its name.

#![expect(clippy::disallowed_methods, reason = "a test has no host whose tasks are drained")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

// Accounts, sessions, organizations, members, teams, roles and access decisions.
mod identity {
    mod access_lists; // Paged lists of AccessService.
    mod access_model; // Random operations compared with a reference model.
    mod access_service; // Permission checks, explanations, history and simulation.
    mod account_rights; // Change of the address, leaving and deletion.
    pub(crate) mod api_key_service; // Scopes, expiry and rates of API keys.
    mod billing; // Plan changes without a billing provider.
    mod billing_life; // The life of a customer of Stripe, as a table.
    mod billing_stripe; // Webhooks, outages and payments of Stripe.
    mod capabilities; // Capabilities of roles and their API keys.
    mod claims; // Strangers who register the address of another person.
    mod credentials; // Forged and stale credentials.
    mod external_login; // Sign-in with an OpenID provider.
    mod large_removals; // Removals with more dependents than fit into one event.
    mod member_service; // Members, teams and grants.
    mod organization_service; // Organizations from creation to purge.
    pub(crate) mod password_attacks; // Floods, guesses and races around passwords and codes.
    mod remedies; // Changes that Explain names, carried out.
    mod user_service; // Accounts, sessions and second factors.
    mod viewer_limit;
}

// Projects, environments, deployments, tasks, servers and their runners' calls.
mod project {
    mod addon_service; // Add-ons: a database for each environment.
    mod alerts; // Alerts that the suite raises itself.
    mod collaborator_service; // People and teams of a project.
    pub(crate) mod dns_connection_service; // Tests, changes and deletion of DNS connections.
    mod dns_records; // Records of environments on DNS servers, and challenges of runners.
    pub(crate) mod domain_service; // Custom domains: proofs, two environments with one domain, daily checks.
    mod environment_command_service; // Commands between callers and runners.
    mod environment_copy; // Copies of environments whose database is busy.
    mod environment_log_service; // Streams of logs between runners and readers.
    mod environment_service; // Deployment, rollback, copies, stop and destruction.
    mod failed_tasks; // Programs that run after a failed task.
    mod git_connection_service; // Tests, changes and deletion of Git connections.
    mod git_host_api; // Repositories, branches and push webhooks by the APIs of Git servers.
    mod hostnames; // Host names of environments: uniqueness, and their life.
    mod lock_order; // Order of row locks of every operation.
    mod metrics; // Resource usage over time.
    mod modules; // Updates of modules, neutralized copies, the database of Odoo projects.
    mod production_role; // Minimum role for changes of production.
    mod project_service; // Settings, lists and deletion of projects.
    pub(crate) mod push_webhook; // Deployments by signed pushes of git servers.
    mod runner_service; // Cleaning of text that runners report.
    mod server_service; // Tokens, plan limits, capacity and health of servers.
    mod storage_connection_kinds; // SFTP servers and folders.
    mod storage_connection_service; // Buckets, addresses, default and deletion of storage connections.
    mod task_events; // Requests of people and what runners did, in the audit log.
    mod task_service; // Tasks from the queue to their end.
    mod variables; // Limits and names of variables.
}

// Invitations and the pages behind their links.
mod invitation {
    pub(crate) mod acceptance; // From the invitation to the membership.
    mod expiry_and_revocation; // Ends of invitations, and guesses of links.
    pub(crate) mod invitation_service; // Creation, lists, mails, batches and sign-up.
    mod pages; // Invitation pages in a browser and for scanners.
    mod renewal; // Links that are followed twice, and invitations that are renewed.
}

// Notifications in the application, by mail and by webhook.
mod notification {
    mod mail_content; // Links in mails, and the ways to turn mails off.
    mod mail_queue; // Bounces, faults of the sender, retries and the order of mails.
    pub(crate) mod notification_service; // Inboxes, preferences, quiet hours, alerts and mail rules.
    pub(crate) mod smtp; // Delivery over a mail server that fails.
    mod webhook_changes; // Changes of webhooks during a lease, tests, and requested pauses.
    mod webhook_delivery; // Retries, replay, concurrency and leases of webhooks.
    pub(crate) mod webhook_service; // Management, signatures and formats of webhooks.
    mod webhook_targets; // Addresses to which no webhook is sent.
}

// Audit log: ingestion, search, export, proofs, retention and erasure.
mod audit {
    mod audit_service; // Search, account log and live stream of entries.
    mod continuous_export; // Continuous export to storage, its outages, and who manages it.
    mod erasure; // Personal data after the deletion of an account.
    mod export; // Exports, resumption and erased people in proofs.
    mod export_formats; // Formats of exports, and the log of a deleted organization.
    mod fsck_job; // Check of the whole log by time and on request.
    mod ingest_service; // Order, deduplication and rejection of ingested events.
    mod lock_order; // Order of row locks of appends and of the signer.
    mod log_monitor; // The log followed from outside, with forks and changed bytes.
    mod log_service; // Receipts, checkpoints and proofs.
    mod quarantine; // Damage of one log: containment, alarm and repair.
    mod query_plans; // Plans of all statements that read entries.
    mod replicas; // Several replicas: one signer, one history.
    mod retention; // Display period, purge and legal hold.
    mod stream_ingestion; // Full batches of the stream: order and completeness under failures.
    mod subject_keys; // A damaged key of one person.
    mod tampering; // Changes of the log by a superuser.
    mod tlog_tiles; // The log over HTTP as tiles (C2SP).
    mod url_credentials; // Credentials in URLs of old events.
    mod witness_program; // The witness as a program: hostile requests, kills, state.
    mod witnesses; // Publication of heads that witnesses cosign, and forks.
}

// Runner processes and the isolation of deployed code.
mod runner {
    mod addresses; // Host names of environments behind the proxy.
    mod certificates; // Certificates of host names by DNS-01.
    mod commands; // Commands beside programs, in sandboxes and containers.
    mod conformance; // Promises that every driver keeps.
    mod deployment_times; // Time until a cached image serves.
    mod docker; // Environments in containers.
    mod docker_attacks; // Attacks of deployed code in containers.
    mod docker_usage; // Figures of an environment beside those of its engine.
    mod domains; // Custom domains: routes, removal, and programs that go on.
    mod foreign_text; // Output of programs that no text of the contract may contain.
    mod git_connections; // Private repositories by HTTPS and SSH, and their secrets.
    mod kills; // Kills of runner, proxy and engine in each step of a deployment.
    mod logs; // Output of programs, read while they run.
    mod machine; // Database server, programs and network rules that runners share.
    mod ports; // Ports that other programs take.
    mod private_repository; // Access tokens of repositories, from the request to git.
    mod process; // The runner as a program: kills, tokens, rights.
    mod published_ports; // Ports that are published for sandboxes.
    mod recipes; // Tryton and Odoo by their recipes.
    mod registry; // Images of a registry that needs a password.
    mod repository; // Submodules, LFS, encodings of manifests, late commits.
    mod request_metrics; // Requests and network traffic in metrics.
    mod sandbox; // Attacks of deployed code on its host.
    mod secrets; // Secrets that builds and programs print.
    mod server_network; // A server whose link is cut.
    mod traffic; // Requests and web sockets while programs are replaced.
}

// Behaviour across services.
mod suite {
    mod account_sessions; // Sessions of an account, for support.
    mod admin; // Dead letters, pauses, queues and settings, for operators.
    mod admission; // Limits on connections, unfinished requests and streams.
    mod alerts; // Alerts of Prometheus, fired and cleared by their causes, and queries of dashboards.
    mod authorization; // Golden table: every method and every kind of caller.
    mod broken_installations; // Wrong keys, certificates and database servers.
    mod broken_settings; // Nineteen refused starts and their sentences.
    mod cancellation; // Clients that cancel during a call.
    mod certificates; // Replacement of certificates, and the warning before their end.
    mod chaos; // Kills of processes, PostgreSQL and NATS under load.
    mod cleanup; // Deletion of rows that nothing needs any more.
    mod concurrency; // Sixty-four concurrent callers.
    mod contract; // Rules that hold for every method of the contract.
    mod contract_examples; // Examples of requests, also called with grpcurl.
    mod crash; // `kill -9` and restart of the suite.
    mod database_connections; // Few database connections, and first steps that fail.
    mod database_move; // Move of the database to another PostgreSQL cluster.
    mod database_roles; // PostgreSQL roles and privileges of the services.
    mod dead_letters; // Events that a reaction cannot process.
    mod demo; // The demo scenario on every topology.
    mod discovery; // Reflection and health of all services, for a gateway.
    mod drills; // Restarts, rotations and fail-overs under load.
    mod event_consumers; // Events in NATS for programs outside of the suite.
    mod event_goldens; // JSON of events compared with golden files.
    mod event_sizes; // Every event at its largest declared size.
    mod fault_injection; // Loss and duplicates with a safety device switched off.
    mod fencing; // Commits that rest on an outdated authorization.
    mod growth; // Partitions, sizes and plans of tables that grow with time.
    mod grpc_web; // Calls of browsers.
    mod hung_identity; // An identity service that accepts calls and never answers.
    mod inactive_organizations; // Blocked and deleted organizations.
    mod input_validation; // Malformed requests, unknown ids, reused request ids.
    mod key_rotation; // Secret keys that values need, and those that are retired.
    mod letters; // Names, passwords and addresses in all forms of Unicode.
    mod list_plans; // Plans of the statements that read pages of lists.
    mod locales; // Answers on databases of different locales.
    mod message_sizes; // Every message at its largest size.
    mod migrations; // Time-outs and locks of migrations.
    mod nats_outage; // Loss, emptied disk and redelivery of NATS.
    pub(crate) mod outbox; // Overlapping transactions and their events.
    mod pages; // Lists whose rows change between two pages.
    mod races; // Last seats, last uses and double deployments.
    mod rate_limits; // Rate limits of all replicas together.
    mod readiness; // Start without a database, readiness, health checks.
    mod refusals; // Methods that errors name as remedies, carried out.
    mod replicas; // Replicas that hang or end.
    mod restore_drill; // Backup under load, loss of the server, and restore to the latest and an older state.
    mod revoked_credentials; // Sessions and API keys that end on one of two replicas.
    mod startup; // Refusals to start, with their remedy.
    pub(crate) mod stored_secrets; // Secrets in tables.
    mod streams; // Limits, revocation and expiry of server streams.
    mod stubs; // Stubs that other tools generate from the contract.
    mod traces; // One trace from a call to its mails and webhooks.
}

// Checks of the source text.
mod tidy;

// Fixtures and clients for the tests above.
mod support {
    pub(crate) mod admin_client; // Client of the AdminService.
    pub(crate) mod audit_client; // Exports, checkpoints and the verifier.
    pub(crate) mod authority; // Certificates of services, signed again and again.
    pub(crate) mod billing; // An organization that pays at Stripe.
    pub(crate) mod cluster; // Two replicas of each service.
    pub(crate) mod command_session; // A session of RunCommand, as a caller has it.
    pub(crate) mod exported; // What a continuous export has written, and its verification.
    pub(crate) mod exports; // An organization whose audit log is exported to a bucket.
    pub(crate) mod fake_runner; // Calls of a runner, made by a test.
    pub(crate) mod hosting; // A project whose environments really run.
    pub(crate) mod large_log; // A log with many entries.
    pub(crate) mod raw; // Calls of any method with any bytes.
    pub(crate) mod sealed_values; // Columns that the secret key seals.
    pub(crate) mod server_network; // A server in a network namespace, whose link can be cut.
    pub(crate) mod service_processes; // Four services as processes.
    pub(crate) mod storage; // An organization with storage.
    pub(crate) mod suite_process; // The suite as a process that is killed and restarted.
    pub(crate) mod tables; // Search for bytes in all tables.
    pub(crate) mod tampering; // Changes of the stored log by a superuser.
    pub(crate) mod tiles_client; // HTTP client of the tiles of a log.
    pub(crate) mod web_site; // A server whose environments are served by Caddy.
    pub(crate) mod witness_process; // A witness as a process that is killed and restarted.
    pub(crate) mod world; // An organization with one person in each role.
}
