//! Promises of a driver (`runner::driver::Driver`): each is written once, in `promises`, and tested with
//! every driver. Another driver implements [`Technology`] and gets its own line in `promises!`.

pub(super) mod bench;
mod promises;

use std::{path::Path, sync::Arc};

use runner::{
    DockerSettings, IsolationPolicy, NetworkSettings, RecipeSettings, Settings, driver::Driver,
};
use testkit::{BASE_IMAGE, Engine};

use bench::Bench;

/// Memory of a build in MiB: more than the 256 of the smallest environment.
const BUILD_MEMORY_MB: u32 = 512;

/// A technology that runs environments.
pub(super) trait Technology {
    /// Starts its driver, which keeps its files in a directory. `None`: this machine cannot run it, which the
    /// output says.
    async fn start(&self, folder: &Path) -> Option<Arc<dyn Driver>>;
}

/// Settings of a runner that publishes programs at the loopback address.
pub(super) fn settings(folder: &Path, docker: Option<DockerSettings>) -> Settings {
    let loopback = std::net::Ipv4Addr::LOCALHOST;
    Settings {
        name: "conformance".to_owned(),
        data_dir: folder.to_owned(),
        bind: loopback.into(),
        address: Some(loopback.to_string()),
        database_url: None,
        isolation: IsolationPolicy::BestEffort,
        network: NetworkSettings { addresses: "10.213.0.0/16".parse().unwrap(), reachable: vec![] },
        build_memory_mb: Some(BUILD_MEMORY_MB),
        proxy: None,
        docker,
    }
}

/// Starts the driver of an engine.
async fn start_docker(folder: &Path, engine: &Engine) -> Arc<dyn Driver> {
    let docker = DockerSettings {
        socket: engine.socket(),
        base_image: Some(BASE_IMAGE.to_owned()),
        credentials_file: None,
        is_required: true,
        recipes: RecipeSettings::default(),
    };
    runner::process_driver(settings(folder, Some(docker))).await.unwrap()
}

/// Sandboxed processes of this machine.
struct Processes;

impl Technology for Processes {
    async fn start(&self, folder: &Path) -> Option<Arc<dyn Driver>> {
        Some(runner::process_driver(settings(folder, None)).await.unwrap())
    }
}

/// Containers of a Docker Engine.
pub(super) struct Docker;

impl Technology for Docker {
    async fn start(&self, folder: &Path) -> Option<Arc<dyn Driver>> {
        Some(start_docker(folder, Engine::shared().await?).await)
    }
}

/// Containers of the engine of one test.
pub(super) struct DockerOf<'a>(pub(super) &'a Engine);

impl Technology for DockerOf<'_> {
    async fn start(&self, folder: &Path) -> Option<Arc<dyn Driver>> {
        Some(start_docker(folder, self.0).await)
    }
}

/// Defines a test of each promise for each driver.
macro_rules! promises {
    ($($driver:ident: $technology:expr;)* => $promises:tt) => {
        $(promises!(@driver $driver, $technology, $promises);)*
    };
    (@driver $driver:ident, $technology:expr, [$($promise:ident,)*]) => {
        mod $driver {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $promise() {
                    let Some(bench) = Bench::new(&$technology).await else { return };
                    promises::$promise(&bench).await;
                    bench.finish().await;
                }
            )*
        }
    };
}

promises! {
    processes: Processes;
    docker: Docker;
    => [
        a_deployed_program_serves_until_it_is_stopped,
        a_started_program_keeps_its_data,
        a_paused_program_does_not_serve_until_it_is_resumed,
        a_repeated_task_has_the_same_result,
        a_failed_deployment_leaves_the_running_version,
        a_slow_health_page_has_the_whole_time,
        a_slow_running_program_is_healthy,
        a_silent_program_is_unhealthy,
        a_program_that_is_not_healthy_in_time_fails,
        a_failing_health_check_adds_no_error_to_the_output,
        a_late_response_to_a_check_is_no_error_of_the_program,
        a_build_has_more_memory_than_its_program,
        a_build_fails_at_its_memory_limit,
        a_program_fails_with_the_memory_limit_that_it_exceeded,
        a_program_does_not_see_the_repository,
        a_linked_manifest_is_read,
        processes_of_a_procfile_that_are_not_run_are_logged,
        local_names_resolve,
        temporary_files_are_on_disk,
        a_build_ends_with_its_command,
        no_process_outlives_a_failed_start,
        no_process_outlives_a_failed_build,
        no_process_outlives_a_cancelled_deployment,
        no_process_outlives_a_replaced_version,
        no_process_outlives_a_program_that_ended,
        no_process_outlives_a_destroyed_environment,
        a_program_that_ends_again_and_again_fails,
        a_rollback_uses_the_variables_of_its_deployment,
        output_is_kept_without_secrets,
        output_is_followed_over_versions,
        commands_run_beside_the_program,
        a_copy_has_the_data_of_its_source,
        a_failed_copy_leaves_its_target,
    ]
}

// Not promised by containers: an image has its own `/etc/passwd`, and the account of the environment is a
// number.
promises! {
    sandboxes: Processes;
    => [
        accounts_of_the_sandbox_have_names,
    ]
}
