//! Versions of recipes: their image, their variables, and the commands of tasks: preparation of a version,
//! update of modules, neutralization of a copy.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use api::project::Lease;

use super::{
    Processes,
    build::BuiltVersion,
    container_command::ContainerCommand,
    database::copy_url,
    directory::EnvironmentDir,
    launch::{Launch, ProgramImage},
    manifest::{Manifest, ManifestContext, Technology},
    record::EnvironmentRecord,
};
use crate::{
    driver::{Driver, ProgressReporter, TaskOutcome},
    recipe::{ODOO, PathRoute, ProgramResources, Recipe, RecipeRef},
};

/// Variable with the URL of the database.
const DATABASE_URL: &str = "DATABASE_URL";

impl Processes {
    /// Context of the manifest of a version that is built.
    pub(super) fn context_of_new(&self, lease: &Lease) -> ManifestContext<'_> {
        let version = variable(lease, "ODOO_VERSION");
        let default_recipe = version
            .map(|version| RecipeRef { name: ODOO.to_owned(), version: Some(version.to_owned()) });
        ManifestContext { technology: self.technology(), recipes: &self.recipes, default_recipe }
    }

    /// Context of the manifest of a version that was built in an image, and keeps its recipe.
    pub(super) fn context_of_built(
        &self,
        image: Option<&ProgramImage>,
    ) -> Result<ManifestContext<'_>> {
        let technology = if image.is_some() { Technology::Containers } else { Technology::Sandbox };
        let default_recipe = image.map(recipe_of).transpose()?.flatten();
        Ok(ManifestContext { technology, recipes: &self.recipes, default_recipe })
    }

    /// Returns the base image of a recipe.
    pub(super) async fn image_of_recipe(&self, reference: &RecipeRef) -> Result<ProgramImage> {
        let name = self.recipes.get(reference)?.image(reference)?;
        let image = self.docker()?.image(&name).await;
        let image = image.with_context(|| format!("the recipe {reference} cannot be used"))?;
        let recipe = Some(reference.to_string());
        Ok(ProgramImage { id: image.id, port: None, has_program: false, recipe })
    }

    /// Variables of the commands of a recipe; none for other versions.
    pub(super) fn recipe_variables(
        &self,
        launch: &Launch,
        image: &ProgramImage,
    ) -> Result<BTreeMap<String, String>> {
        let Some(reference) = recipe_of(image)? else { return Ok(BTreeMap::new()) };
        let limits = launch.limits;
        let resources =
            ProgramResources { cpu_cores: limits.cpu_cores, memory_mb: limits.memory_mb };
        let database_url = launch.variables.get(DATABASE_URL).map(String::as_str);
        self.recipes.get(&reference)?.variables(resources, database_url)
    }

    /// Paths of the deployed version that ports of their own serve.
    pub(super) async fn path_routes(&self, environment: &EnvironmentDir) -> Vec<PathRoute> {
        let launch = environment.launch().await;
        let image = launch.and_then(|it| it.image);
        let recipe = self.image_and_recipe(image.as_ref()).ok().flatten();
        recipe.map(|it| it.1.routes.clone()).unwrap_or_default()
    }

    /// Refuses the build of a version whose recipe needs a database that the environment does not have.
    pub(super) fn require_database(&self, lease: &Lease, recipe: &RecipeRef) -> Result<()> {
        ensure!(
            !self.recipes.get(recipe)?.needs_database || variable(lease, DATABASE_URL).is_some(),
            "the recipe {recipe} needs a PostgreSQL database; attach the add-on postgresql to the project, \
             then deploy again"
        );
        Ok(())
    }

    /// Prepares the data of an environment for a version that was just built.
    pub(super) async fn prepare_data(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        built: &BuiltVersion,
        report: &ProgressReporter,
    ) -> Result<()> {
        let Some((image, recipe)) = self.image_and_recipe(built.image.as_ref())? else {
            return Ok(());
        };
        let Some(command) = recipe.prepare_command() else { return Ok(()) };
        report.log(vec!["preparing the data".to_owned()]).await;
        let mut launch = Launch::new(lease, &lease.release, &built.manifest, Some(image.clone()));
        launch.limits = self.build_limits(lease);
        let command = ContainerCommand {
            name: "preparation",
            command: &command,
            data: environment.data(),
            git_dir: None,
        };
        self.run_in_container(environment, &launch, image, command, report).await
    }

    /// Updates modules of the version that serves, and starts it again if its recipe says so.
    pub(super) async fn update_modules_and_restart(
        &self,
        lease: &Lease,
        report: &ProgressReporter,
    ) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let lock = self.lock(&environment).await;
        let record = environment.record().await;
        let is_running = record.is_running();
        ensure!(is_running, "the environment is not running, so its modules cannot be updated");
        if self.update_deployed_modules(lease, &environment, &record, report).await? {
            drop(lock);
            return self.restart(lease, report).await;
        }
        let url = self.url(&environment, &record, &lease.server_address).await?;
        report.step("done", 2, 2, format!("running at {url}")).await;
        Ok(TaskOutcome { commit: record.commit, url, ..TaskOutcome::default() })
    }

    /// Updates modules of the version that serves. Returns true if it must be started again. The caller must
    /// have locked the environment.
    async fn update_deployed_modules(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        record: &EnvironmentRecord,
        report: &ProgressReporter,
    ) -> Result<bool> {
        let modules = variable(lease, "MODULES").unwrap_or_default();
        report.step("update", 1, 2, format!("updating: {modules}")).await;
        self.stop_leftovers(environment).await;
        let lease = &self.provision_addons(lease, report).await?;
        let mut launch = self.launch_of(lease, environment, &record.release).await?;
        let image = launch.image.clone();
        let (image, recipe) = self.image_and_recipe(image.as_ref())?.context(
            "the version has no modules to update, because it is none of a recipe; deploy it instead",
        )?;
        let command = recipe.update_command().context("its recipe has no command for updates")?;
        launch.limits = self.build_limits(lease);
        let command = ContainerCommand {
            name: "update",
            command: &command,
            data: environment.data(),
            git_dir: None,
        };
        self.run_in_container(environment, &launch, image, command, report).await?;
        Ok(recipe.restarts_after_update())
    }

    /// Neutralizes the copied data of an environment, before it replaces the data of the target.
    pub(super) async fn neutralize_copy(
        &self,
        lease: &Lease,
        target: &EnvironmentDir,
        image: Option<&ProgramImage>,
        report: &ProgressReporter,
    ) -> Result<()> {
        let command = self.image_and_recipe(image)?;
        let command = command.and_then(|(image, it)| Some((image, it.neutralize_command()?)));
        let Some((image, command)) = command else {
            let line =
                "the copy is not neutralized: its version has no recipe with a command for that";
            report.log(vec![line.to_owned()]).await;
            return Ok(());
        };
        // Of a runner that has crashed.
        self.stop_leftovers(target).await;
        report.log(vec!["neutralizing the copy".to_owned()]).await;
        let manifest =
            Manifest::read(target, &lease.release, &self.context_of_built(Some(image))?)?;
        let mut launch = Launch::new(lease, &lease.release, &manifest, Some(image.clone()));
        launch.limits = self.build_limits(lease);
        if let Some(url) = launch.variables.get_mut(DATABASE_URL) {
            *url = copy_url(url);
        }
        let command = ContainerCommand {
            name: "neutralization",
            command: &command,
            data: target.incoming_data(),
            git_dir: None,
        };
        self.run_in_container(target, &launch, image, command, report).await
    }

    /// Returns the image and the recipe of a version; `None` without a recipe.
    fn image_and_recipe<'a>(
        &'a self,
        image: Option<&'a ProgramImage>,
    ) -> Result<Option<(&'a ProgramImage, &'a Recipe)>> {
        let Some(image) = image else { return Ok(None) };
        let Some(reference) = recipe_of(image)? else { return Ok(None) };
        Ok(Some((image, self.recipes.get(&reference)?)))
    }
}

/// Recipe of a version that was built.
fn recipe_of(image: &ProgramImage) -> Result<Option<RecipeRef>> {
    image.recipe.as_deref().map(str::parse).transpose()
}

/// Value of a variable of a lease. The last one of a name is that of the suite.
fn variable<'a>(lease: &'a Lease, name: &str) -> Option<&'a str> {
    let found = lease.variables.iter().rev().find(|it| it.name == name);
    found.map(|it| it.value.as_str()).filter(|it| !it.is_empty())
}
