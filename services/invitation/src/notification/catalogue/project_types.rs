//! Notification types of projects, environments, deployments and servers.

use api::{
    notification::{
        NotificationCategory::{Access, Deployment, Environment, Monitoring},
        Severity::{Critical, Info, Warning},
    },
    project::{self as prj, EnvironmentState, ServerHealth},
};

use super::{Audience, Content, NotificationType};

/// Largest number of characters of a runner's error message in a notification.
const ERROR_CHARS_MAX: usize = 300;

pub(super) fn all() -> Vec<NotificationType> {
    let mut types = operation_types();
    types.extend(deployment_types());
    types.extend(environment_types());
    types.extend([
        NotificationType::of(
            "project.deleted",
            Access,
            Warning,
            "A project and everything in it was deleted. To members who manage access to projects.",
            |event: prj::ProjectDeleted, _| {
                let title = format!("Project {} was deleted", event.before?.name);
                let body = "Its environments, files, databases and grants were deleted. The audit log \
                            remains.";
                Some(Content::new(title, body, Audience::holders("org.access.view")))
            },
        ),
        NotificationType::of(
            "server.health_changed",
            Monitoring,
            Warning,
            "A server stopped responding, or responds again. To members who manage servers.",
            |event: prj::ServerHealthChanged, _| event.after.map(|server| server_health(&server)),
        ),
    ]);
    types
}

/// Types of one operation on an environment: its completion and its failure.
macro_rules! operation {
    ($noun:literal, $completed:ident => $completed_name:literal, $failed:ident => $failed_name:literal) => {
        [
            NotificationType::of(
                $completed_name,
                Environment,
                Info,
                concat!($noun, " of an environment is complete. To members who see the project."),
                |event: prj::$completed, _| event.after.map(|it| completed(&it, $noun)),
            ),
            NotificationType::of(
                $failed_name,
                Environment,
                Warning,
                concat!($noun, " of an environment failed. To members who see the project."),
                |event: prj::$failed, _| event.after.map(|it| failed(&it, $noun)),
            ),
        ]
    };
}

#[rustfmt::skip]
fn operation_types() -> Vec<NotificationType> {
    [
        operation!("The start", EnvironmentStarted => "environment.started",
            EnvironmentStartFailed => "environment.start_failed"),
        operation!("The stop", EnvironmentStopped => "environment.stopped",
            EnvironmentStopFailed => "environment.stop_failed"),
        operation!("The restart", EnvironmentRestarted => "environment.restarted",
            EnvironmentRestartFailed => "environment.restart_failed"),
        operation!("The pause", EnvironmentPaused => "environment.paused",
            EnvironmentPauseFailed => "environment.pause_failed"),
        operation!("The resumption", EnvironmentResumed => "environment.resumed",
            EnvironmentResumeFailed => "environment.resume_failed"),
        operation!("The synchronization", EnvironmentSynced => "environment.synced",
            EnvironmentSyncFailed => "environment.sync_failed"),
        operation!("The cloning", EnvironmentCloned => "environment.cloned",
            EnvironmentCloneFailed => "environment.clone_failed"),
        operation!("The provisioning", EnvironmentProvisioned => "environment.provisioned",
            EnvironmentProvisionFailed => "environment.provision_failed"),
        operation!("The update of modules", EnvironmentModulesUpdated => "environment.modules_updated",
            EnvironmentModulesUpdateFailed => "environment.modules_update_failed"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn completed(environment: &prj::Environment, noun: &str) -> Content {
    let title = format!("{} is {}", environment.name, state_name(environment));
    to_viewers(title, format!("{noun} is complete."))
}

fn failed(environment: &prj::Environment, noun: &str) -> Content {
    let title = format!("{noun} of {} failed", environment.name);
    to_viewers(title, runner_error(environment))
}

/// Types of deployments, and of the cancellation of any task.
fn deployment_types() -> [NotificationType; 4] {
    [
        NotificationType::of(
            "deployment.completed",
            Deployment,
            Info,
            "A deployment is running. To members who see the project.",
            |event: prj::DeploymentCompleted, _| {
                let environment = event.after?;
                let commit = environment.commit.get(..12).unwrap_or(&environment.commit);
                let body = format!("It runs {commit} at ");
                let content = to_viewers(format!("{} is deployed", environment.name), body);
                Some(Content { url: environment.url, ..content })
            },
        ),
        NotificationType::of(
            "deployment.failed",
            Deployment,
            Critical,
            "A deployment failed. To members who see the project.",
            |event: prj::DeploymentFailed, _| {
                event.after.map(|environment| failed(&environment, "The deployment"))
            },
        ),
        NotificationType::of(
            "deployment.started",
            Deployment,
            Info,
            "A runner started a deployment. To members who see the project.",
            |event: prj::DeploymentStarted, _| {
                let body = format!("A runner works on task {}.", event.after?.id);
                Some(to_viewers("A deployment started".to_owned(), body))
            },
        ),
        NotificationType::of(
            "task.cancelled",
            Deployment,
            Info,
            "A deployment or another task was cancelled. To members who see the project.",
            |event: prj::TaskCancelled, _| {
                let environment = event.after?;
                let body = format!("The environment is still {}.", state_name(&environment));
                Some(to_viewers(format!("A task of {} was cancelled", environment.name), body))
            },
        ),
    ]
}

/// Types of the creation, the destruction and the unexpected exit of an environment.
fn environment_types() -> [NotificationType; 4] {
    [
        NotificationType::of(
            "environment.created",
            Environment,
            Info,
            "An environment was created. To members who see the project.",
            |event: prj::EnvironmentCreated, _| {
                let environment = event.after?;
                let body = format!("It follows the branch {}.", environment.branch);
                Some(to_viewers(format!("{} was created", environment.name), body))
            },
        ),
        NotificationType::of(
            "environment.destroy_failed",
            Environment,
            Warning,
            "The destruction of an environment failed. To members who see the project.",
            |event: prj::EnvironmentDestroyFailed, _| {
                event.after.map(|environment| failed(&environment, "The destruction"))
            },
        ),
        NotificationType::of(
            "environment.destroyed",
            Environment,
            Warning,
            "An environment was destroyed. To members who see the project.",
            |event: prj::EnvironmentDestroyed, _| {
                let title = format!("{} was destroyed", event.before?.name);
                Some(to_viewers(title, "Its files and its data were deleted.".to_owned()))
            },
        ),
        NotificationType::of(
            "environment.state_corrected",
            Environment,
            Critical,
            "The program of an environment exited unexpectedly. To members who see the project.",
            |event: prj::EnvironmentStateCorrected, _| {
                let environment = event.after?;
                // Other corrections, for example of the URL, need nobody's attention.
                let has_failed = [prj::Observed::Failed, prj::Observed::Unspecified];
                if !has_failed.contains(&environment.observed()) {
                    return None;
                }
                let body = format!(
                    "Its program should be running, but exited: {}",
                    environment.last_error
                );
                Some(to_viewers(format!("{} has failed", environment.name), body))
            },
        ),
    ]
}

/// A notification to everybody who sees the project.
fn to_viewers(title: String, body: String) -> Content {
    Content::new(title, body, Audience::holders("project.view"))
}

fn runner_error(environment: &prj::Environment) -> String {
    let error: String = environment.last_error.chars().take(ERROR_CHARS_MAX).collect();
    format!("Error message of the runner: {error}")
}

/// State of an environment in a sentence, for example `running`.
fn state_name(environment: &prj::Environment) -> String {
    let state: EnvironmentState = environment.state();
    state.as_str_name().trim_start_matches("ENVIRONMENT_STATE_").to_lowercase()
}

fn server_health(server: &prj::Server) -> Content {
    let health = server.health().as_str_name().trim_start_matches("SERVER_HEALTH_").to_lowercase();
    let body = match server.health() {
        ServerHealth::Healthy => "Its runner sends heartbeats again.",
        ServerHealth::Degraded => "Its runner has missed two heartbeats in a row.",
        ServerHealth::Dead => "Its runner has sent no heartbeat for minutes. Check the machine.",
        _ => "Its runner sends no heartbeats. Tasks on this server wait for its next heartbeat.",
    };
    let title = format!("Server {} is {health}", server.name);
    Content::new(title, body, Audience::holders("org.servers.manage"))
}
