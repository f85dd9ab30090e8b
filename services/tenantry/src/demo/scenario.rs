//! Steps of the scenario. Each one checks the responses, so the scenario is also an end-to-end test.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use api::{identity as id, invitation as inv, project as prj};

use super::{Console, Mailbox, Outcome, Services, sample, self_check};
use crate::client::Client;

const IDENTITY: &str = "tenantry.identity.v1";
const PROJECT: &str = "tenantry.project.v1";
const INVITATION: &str = "tenantry.invitation.v1";

/// Maximum time to wait for background work.
const POLL_TIMEOUT: Duration = Duration::from_secs(60);

/// Interval at which background work is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The scenario and its connections.
pub(super) struct Scenario<'a> {
    pub(super) services: &'a Services,
    mailbox: &'a Mailbox,
    pub(super) console: Console,
    /// Random suffix of e-mail addresses and slugs, so that the scenario can be repeated on one suite.
    suffix: String,
}

/// A user with a session.
pub(super) struct Person {
    pub(super) token: String,
    pub(super) user_id: String,
    email: String,
}

/// The organization, project and environment created by steps 2 and 3.
pub(super) struct SampleProject {
    pub(super) org_id: String,
    pub(super) project_id: String,
    environment_id: String,
}

/// Code that the scenario deploys.
#[derive(Default)]
pub struct Source {
    /// Repository. `None`: a sample, created in the working directory.
    pub repository: Option<String>,
    /// Directory for the sample and the proof. `None`: that for temporary files.
    pub work_dir: Option<PathBuf>,
}

/// Runs all steps with the sample repository. Fails at the first unexpected response.
pub async fn run_scenario(
    services: &Services,
    mailbox: &Mailbox,
    console: Console,
) -> Result<Outcome> {
    run_scenario_with(services, mailbox, console, Source::default()).await
}

/// Runs all steps. Fails at the first unexpected response.
pub async fn run_scenario_with(
    services: &Services,
    mailbox: &Mailbox,
    console: Console,
    source: Source,
) -> Result<Outcome> {
    let suffix = chassis::id::new().simple().to_string()[20..].to_owned();
    let work_dir = source.work_dir.unwrap_or_else(std::env::temp_dir);
    let directory = work_dir.join(format!("tenantry-demo-{suffix}"));
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let scenario = Scenario { services, mailbox, console, suffix };

    scenario.console.print_step(1, "Ann registers, verifies her e-mail address, and signs in");
    let ann = scenario.register("Ann").await?;
    scenario.console.print_step(2, "Ann creates the organization Acme and changes its plan to Pro");
    let org_id = scenario.create_organization(&ann).await?;
    scenario.console.print_step(3, "Ann creates the project Shop and its environment main");
    let repository = match source.repository {
        Some(url) => url,
        None => sample::create_repository(&directory)?.to_string_lossy().into_owned(),
    };
    let sample = scenario.create_project(&ann, org_id, repository).await?;
    scenario.console.print_step(4, "Ann invites Bob as a Developer with access to Shop");
    let bob_email = scenario.email("Bob");
    let token = scenario.invite(&ann, &sample, &bob_email).await?;
    scenario.console.print_step(5, "Bob previews the invitation, registers, and accepts it");
    let bob = scenario.accept_invitation(&sample, &token).await?;
    scenario.console.print_step(6, "Bob deploys the environment main");
    let url = scenario.deploy(&bob, &sample).await?;
    scenario
        .console
        .print_step(7, "Ann changes Bob's role to Viewer; his next deployment is denied");
    scenario.demote(&ann, &bob, &sample).await?;
    scenario.console.print_step(8, "Ann removes Bob; he can no longer see Acme");
    scenario.remove_member(&ann, &bob, &sample).await?;
    scenario
        .console
        .print_step(9, "Ann reads the audit log, gets an inclusion proof, and verifies it offline");
    let entries = scenario.read_log(&ann, &sample).await?;
    let proof = scenario.verify_proof(&ann, &sample, &entries, &directory).await?;
    scenario.console.print_step(10, "Reflection lists all services, and health checks pass");
    self_check::run(services, &scenario.console).await?;
    Ok(Outcome {
        org_id: sample.org_id,
        owner_token: ann.token,
        entries,
        verifier_key: proof.verifier_key,
        proof: proof.file,
        url,
    })
}

impl Scenario<'_> {
    fn email(&self, name: &str) -> String {
        format!("{}+{}@example.com", name.to_lowercase(), self.suffix)
    }

    /// Registers a user, verifies the address with the mailed token, and signs in.
    async fn register(&self, name: &str) -> Result<Person> {
        let identity = &self.services.identity;
        let email = self.email(name);
        let password = "correct horse battery staple";
        let register = id::RegisterRequest {
            email: email.clone(),
            password: password.to_owned(),
            display_name: name.to_owned(),
            request_id: request_id(),
        };
        let method = format!("{IDENTITY}.UserService/Register");
        let _: id::RegisterResponse = self.console.call(identity, &method, register).await?;
        let token = self.mailbox.token(&email, "tny_ver_").await?;
        let method = format!("{IDENTITY}.UserService/VerifyEmail");
        let verify =
            id::VerifyEmailRequest { token, password: password.to_owned(), ..Default::default() };
        let verified: id::VerifyEmailResponse =
            self.console.call(identity, &method, verify).await?;
        let user = verified.user.context("the response has no user")?;
        ensure!(user.email_verified, "the address is not verified");
        let login = id::LoginRequest { email: email.to_uppercase(), password: password.to_owned() };
        let method = format!("{IDENTITY}.SessionService/Login");
        let session: id::LoginResponse = self.console.call(identity, &method, login).await?;
        Ok(Person { token: session.token, user_id: user.id, email })
    }

    /// Creates an organization, checks that creation is idempotent, and changes the plan. Returns its id.
    async fn create_organization(&self, ann: &Person) -> Result<String> {
        let identity = self.services.identity.with_token(&ann.token);
        let create = id::CreateOrganizationRequest {
            name: "Acme".to_owned(),
            slug: format!("acme-{}", self.suffix),
            request_id: request_id(),
        };
        let method = format!("{IDENTITY}.OrganizationService/CreateOrganization");
        let created: id::CreateOrganizationResponse =
            self.console.call(&identity, &method, create.clone()).await?;
        let organization = created.organization.context("the response has no organization")?;
        ensure!(organization.owner_id == ann.user_id, "the creator is not the owner");
        let repeated: id::CreateOrganizationResponse = identity.call(&method, create).await?;
        let repeated = repeated.organization.context("the response has no organization")?;
        ensure!(repeated.id == organization.id, "the same request_id created another organization");
        let change = id::ChangePlanRequest {
            org_id: organization.id.clone(),
            plan: id::Plan::Pro.into(),
            etag: organization.etag,
            request_id: request_id(),
        };
        let method = format!("{IDENTITY}.BillingService/ChangePlan");
        let changed: id::ChangePlanResponse = self.console.call(&identity, &method, change).await?;
        let limit = changed.organization.context("the response has no organization")?.member_limit;
        ensure!(limit.is_none(), "the plan Pro has a member limit");
        Ok(organization.id)
    }

    /// Creates a project with an environment.
    async fn create_project(
        &self,
        ann: &Person,
        org_id: String,
        repository_url: String,
    ) -> Result<SampleProject> {
        let project = self.services.project.with_token(&ann.token);
        let create = prj::CreateProjectRequest {
            org_id: org_id.clone(),
            name: "Shop".to_owned(),
            repository_url,
            request_id: request_id(),
            ..Default::default()
        };
        let method = format!("{PROJECT}.ProjectService/CreateProject");
        let created: prj::CreateProjectResponse =
            self.console.call(&project, &method, create).await?;
        let shop = created.project.context("the response has no project")?;
        let create = prj::CreateEnvironmentRequest {
            org_id: org_id.clone(),
            project_id: shop.id.clone(),
            name: "main".to_owned(),
            kind: prj::EnvironmentKind::Development.into(),
            request_id: request_id(),
            ..Default::default()
        };
        let method = format!("{PROJECT}.EnvironmentService/CreateEnvironment");
        let created: prj::CreateEnvironmentResponse =
            self.console.call(&project, &method, create).await?;
        let environment = created.environment.context("the response has no environment")?;
        ensure!(
            environment.state() == prj::EnvironmentState::Pending,
            "a new environment is not pending"
        );
        Ok(SampleProject { org_id, project_id: shop.id, environment_id: environment.id })
    }

    /// Invites a person to the organization and the project. Returns the token in the mailed link.
    async fn invite(&self, ann: &Person, sample: &SampleProject, email: &str) -> Result<String> {
        let invitation = self.services.invitation.with_token(&ann.token);
        let access = id::ProjectAccess {
            project_id: sample.project_id.clone(),
            role: id::ProjectRole::Developer.into(),
        };
        let create = inv::CreateInvitationRequest {
            org_id: sample.org_id.clone(),
            email: email.to_owned(),
            role: id::OrgRole::Developer.into(),
            expires_in_days: 7,
            max_uses: Some(1),
            message: "Welcome to Acme!".to_owned(),
            project_access: vec![access],
            request_id: request_id(),
            ..Default::default()
        };
        let method = format!("{INVITATION}.InvitationService/CreateInvitation");
        let _: inv::CreateInvitationResponse =
            self.console.call(&invitation, &method, create).await?;
        self.mailbox.token(email, "tny_inv_").await
    }

    /// Previews and accepts the invitation as a new user; checks that the user sees only the project.
    async fn accept_invitation(&self, sample: &SampleProject, token: &str) -> Result<Person> {
        let preview = inv::PreviewInvitationRequest { token: token.to_owned() };
        let method = format!("{INVITATION}.InvitationService/PreviewInvitation");
        let previewed: inv::PreviewInvitationResponse =
            self.console.call(&self.services.invitation, &method, preview).await?;
        ensure!(
            previewed.state() == inv::InvitationState::Pending,
            "the invitation is not pending"
        );
        let bob = self.register("Bob").await?;
        let accept = inv::AcceptInvitationRequest {
            invitation: Some(inv::accept_invitation_request::Invitation::Token(token.to_owned())),
            ..Default::default()
        };
        let method = format!("{INVITATION}.InvitationService/AcceptInvitation");
        let invitation = self.services.invitation.with_token(&bob.token);
        let accepted: inv::AcceptInvitationResponse =
            self.console.call(&invitation, &method, accept).await?;
        let member = accepted.member.context("the response has no member")?;
        ensure!(member.role() == id::OrgRole::Developer, "the role differs from the invitation");
        ensure!(member.email == bob.email, "the member has another address");
        let list = prj::ListProjectsRequest { org_id: sample.org_id.clone(), ..Default::default() };
        let method = format!("{PROJECT}.ProjectService/ListProjects");
        let project = self.services.project.with_token(&bob.token);
        let listed: prj::ListProjectsResponse = self.console.call(&project, &method, list).await?;
        let ids: Vec<_> = listed.projects.iter().map(|it| it.id.as_str()).collect();
        ensure!(ids == [sample.project_id.as_str()], "Bob does not see exactly the project Shop");
        Ok(bob)
    }

    /// Deploys the environment and waits for the result. Returns its URL.
    async fn deploy(&self, bob: &Person, sample: &SampleProject) -> Result<String> {
        let project = self.services.project.with_token(&bob.token);
        let method = format!("{PROJECT}.EnvironmentService/DeployEnvironment");
        let started: prj::DeployEnvironmentResponse =
            self.console.call(&project, &method, sample.deploy_request()).await?;
        let task = started.task.context("the response has no task")?;
        ensure!(task.state() == prj::TaskState::Queued, "a new task is not queued");
        let task = poll("the deployment did not finish", async || {
            self.finished_task(&project, sample, &task.id).await
        });
        let task = task.await?;
        for line in &task.log_lines {
            self.console.print_line(&format!("      | {line}"));
        }
        ensure!(
            task.state() == prj::TaskState::Completed,
            "the deployment failed: {}",
            task.error_message
        );
        ensure!(
            task.progress_percent == 100,
            "a completed task has {} % progress",
            task.progress_percent
        );
        let get = prj::GetEnvironmentRequest {
            org_id: sample.org_id.clone(),
            project_id: sample.project_id.clone(),
            environment_id: sample.environment_id.clone(),
        };
        let method = format!("{PROJECT}.EnvironmentService/GetEnvironment");
        let got: prj::GetEnvironmentResponse = self.console.call(&project, &method, get).await?;
        let environment = got.environment.context("the response has no environment")?;
        ensure!(
            environment.state() == prj::EnvironmentState::Running,
            "the environment is not running"
        );
        ensure!(!environment.commit.is_empty(), "the environment has no commit");
        ensure!(!environment.url.is_empty(), "the environment has no URL");
        Ok(environment.url)
    }

    /// Returns a task if it is finished.
    async fn finished_task(
        &self,
        project: &Client,
        sample: &SampleProject,
        task_id: &str,
    ) -> Result<Option<prj::Task>> {
        let get = prj::GetTaskRequest {
            org_id: sample.org_id.clone(),
            project_id: sample.project_id.clone(),
            task_id: task_id.to_owned(),
        };
        let method = format!("{PROJECT}.TaskService/GetTask");
        let got: prj::GetTaskResponse = project.call(&method, get).await?;
        let task = got.task.context("the response has no task")?;
        let is_finished =
            matches!(task.state(), prj::TaskState::Completed | prj::TaskState::Failed);
        Ok(is_finished.then_some(task))
    }
}

impl SampleProject {
    /// Returns a request that deploys the environment.
    pub(super) fn deploy_request(&self) -> prj::DeployEnvironmentRequest {
        prj::DeployEnvironmentRequest {
            org_id: self.org_id.clone(),
            project_id: self.project_id.clone(),
            environment_id: self.environment_id.clone(),
            modules: vec![],
            request_id: request_id(),
        }
    }
}

/// Returns a new idempotency key.
pub(super) fn request_id() -> String {
    chassis::id::new().to_string()
}

/// Repeats a check until it returns a value; fails with `timeout_message` after [`POLL_TIMEOUT`].
pub(super) async fn poll<T>(
    timeout_message: &'static str,
    check: impl AsyncFn() -> Result<Option<T>>,
) -> Result<T> {
    let polling = async {
        loop {
            if let Some(value) = check().await? {
                return Ok(value);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    tokio::time::timeout(POLL_TIMEOUT, polling).await.context(timeout_message)?
}
