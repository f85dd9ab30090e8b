//! How it is told what projects, environments and servers do.

use api::project::{self as prj, EnvironmentState, ServerHealth, TaskKind};
use prost::Message;

use super::{
    Kind,
    story::{Words, to_holders, words},
};

/// The words for an event of the project service.
pub(super) fn tell(kind: &Kind, body: &[u8]) -> Option<Words> {
    match kind.name {
        "server.health_changed" => server(body),
        "project.deleted" => {
            let it = prj::ProjectDeleted::decode(body).ok()?.before?;
            let said =
                "Its environments, files, databases and grants are gone; the audit log stays.";
            Some(words(
                format!("The project {} is gone", it.name),
                said,
                to_holders("org.projects.access"),
            ))
        }
        _ => environment(kind, body),
    }
}

fn server(body: &[u8]) -> Option<Words> {
    let it = prj::ServerHealthChanged::decode(body).ok()?.after?;
    let said = match it.health() {
        ServerHealth::Healthy => "Its runner calls again.",
        ServerHealth::Degraded => "Its runner has missed two calls in a row.",
        ServerHealth::Dead => "Its runner has not called for minutes. Look at the machine.",
        _ => "Its runner does not call. Nothing can be asked of it until it does.",
    };
    let health = it.health().as_str_name().trim_start_matches("SERVER_HEALTH_").to_lowercase();
    Some(words(
        format!("The server {} is {health}", it.name),
        said,
        to_holders("org.servers.manage"),
    ))
}

fn environment(kind: &Kind, body: &[u8]) -> Option<Words> {
    // Most of these events have the same shape.
    let decoded = prj::DeploymentCompleted::decode(body).ok();
    let (after, task) = decoded.map(|it| (it.after, it.task)).unwrap_or_default();
    let (after, task) = (after.unwrap_or_default(), task.unwrap_or_default());
    let name = after.name.as_str();
    let error: String = after.last_error.chars().take(300).collect();
    let (title, said) = match kind.name {
        "deploy.started" => {
            let task = prj::DeploymentStarted::decode(body).ok()?.after?;
            let said = format!("A runner works on the deployment {}.", task.id);
            ("A deployment started".to_owned(), said)
        }
        "deploy.completed" => {
            let commit = after.commit.get(..12).unwrap_or(&after.commit);
            (format!("{name} is deployed"), format!("It runs {commit} at {}.", after.url))
        }
        "deploy.failed" => {
            (format!("The deployment of {name} failed"), format!("What the runner said: {error}"))
        }
        "deploy.cancelled" => {
            let said = format!("It is {} as before.", state(&after));
            (format!("A task of {name} was cancelled"), said)
        }
        "environment.created" => {
            let created = prj::EnvironmentCreated::decode(body).ok()?.after?;
            let said = format!("It follows the branch {}.", created.branch);
            (format!("{} was created", created.name), said)
        }
        "environment.deleted" => {
            let gone = prj::EnvironmentDeleted::decode(body).ok()?.before?;
            (format!("{} is gone", gone.name), "So are its files and its data.".to_owned())
        }
        "environment.failed" => {
            let after = prj::EnvironmentStateCorrected::decode(body).ok()?.after?;
            let said = format!("It should run, and does not: {}", after.last_error);
            (format!("{} has failed", after.name), said)
        }
        "environment.action_failed" => {
            let title = format!("{} of {name} failed", what(task.kind()));
            (title, format!("What the runner said: {error}"))
        }
        _ => (format!("{name} is {}", state(&after)), format!("{} is done.", what(task.kind()))),
    };
    Some(words(title, said, to_holders("project.view")))
}

fn state(it: &prj::Environment) -> String {
    let state: EnvironmentState = it.state();
    state.as_str_name().trim_start_matches("ENVIRONMENT_STATE_").to_lowercase()
}

fn what(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Start => "The start",
        TaskKind::Stop => "The stop",
        TaskKind::Restart => "The restart",
        TaskKind::Pause => "The pause",
        TaskKind::Resume => "The resumption",
        TaskKind::Sync => "The look at the server",
        TaskKind::Clone => "The copy",
        TaskKind::Destroy => "The destruction",
        _ => "The deployment",
    }
}
