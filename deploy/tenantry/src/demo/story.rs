//! The ten steps. Each checks what it gets, so a story that ends well is a proof.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use api::{audit, identity as id, invitation as inv, project as prj};
use tonic::Code;

use super::{Mailbox, Services, Voice, manual, sample};
use crate::{client::Client, serve::program, tools::print};

const IDENTITY: &str = "tenantry.identity.v1";
const PROJECT: &str = "tenantry.project.v1";
const INVITATION: &str = "tenantry.invitation.v1";

/// What is done in the background is waited for, this long at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the story left behind.
pub struct Played {
    /// The organization.
    pub org_id: String,
    /// Its owner's session token.
    pub owner_token: String,
    /// Its log, oldest first.
    pub entries: Vec<audit::Entry>,
    /// The log's verifier key.
    pub verifier_key: String,
    /// A proof of one entry, as JSON.
    pub proof: PathBuf,
    /// Where the deployed environment serves.
    pub url: String,
}

impl Played {
    /// What a newcomer tries next.
    pub(super) fn farewell(&self, endpoint: &str) -> Result<()> {
        let (program, at) = (program(), endpoint.rsplit('/').next().unwrap_or_default());
        let plain = if endpoint.starts_with("http:") { "-plaintext " } else { "" };
        print(&format!(
            "\nAll ten steps went well. Try yourself, as Ann:\n\
             \x20 export TOKEN={}\n\
             \x20 grpcurl {plain}-expand-headers -H 'authorization: Bearer ${{TOKEN}}' \\\n\
             \x20   -d '{{\"org_id\": \"{}\"}}' {at} tenantry.audit.v1.AuditService/ListEntries\n\
             \x20 {program} verify {} --key '{}'\n\
             \x20 curl {}\n",
            self.owner_token,
            self.org_id,
            self.proof.display(),
            self.verifier_key,
            self.url,
        ))
    }
}

pub(super) struct Story<'a> {
    pub(super) services: &'a Services,
    mailbox: &'a Mailbox,
    pub(super) voice: Voice,
    /// Keeps the people of one telling apart from those of another.
    mark: String,
}

/// A person who signed in.
pub(super) struct Person {
    pub(super) token: String,
    user_id: String,
    email: String,
}

/// What steps 2 and 3 made.
pub(super) struct Place {
    pub(super) org_id: String,
    project_id: String,
    environment_id: String,
}

/// Plays the whole story.
pub async fn play(services: &Services, mailbox: &Mailbox, voice: Voice) -> Result<Played> {
    let mark = chassis::id::new().simple().to_string()[20..].to_owned();
    let folder = std::env::temp_dir().join(format!("tenantry-demo-{mark}"));
    std::fs::create_dir_all(&folder)?;
    let story = Story { services, mailbox, voice, mark };

    story.voice.step(1, "Ann registers, confirms her address, and signs in");
    let ann = story.person("Ann").await?;
    story.voice.step(2, "She creates the organization Acme and moves it to the plan Pro");
    let org_id = story.organization(&ann).await?;
    story.voice.step(3, "She creates the project Shop and its environment main");
    let repository = sample::repository(&folder)?;
    let place = story.project(&ann, org_id, repository.to_string_lossy().into_owned()).await?;
    story.voice.step(4, "She invites Bob as a Developer, with access to Shop");
    let bob_email = story.email("Bob");
    let link = story.invite(&ann, &place, &bob_email).await?;
    story.voice.step(5, "Bob looks at the invitation, registers, and accepts");
    let bob = story.join(&place, &link).await?;
    story.voice.step(6, "Bob deploys main");
    let url = story.deploy(&bob, &place).await?;
    story.voice.step(7, "Ann makes Bob a Viewer; his next deployment is refused");
    story.demote(&ann, &bob, &place).await?;
    story.voice.step(8, "Ann removes Bob; Acme is gone for him");
    story.remove(&ann, &bob, &place).await?;
    story.voice.step(9, "Ann reads the log, asks for a proof, and verifies it offline");
    let entries = story.log(&ann, &place).await?;
    let (verifier_key, proof) = story.prove(&ann, &place, &entries, &folder).await?;
    story.voice.step(10, "The services describe themselves, and are healthy");
    manual::read(services, &story.voice).await?;
    Ok(Played { org_id: place.org_id, owner_token: ann.token, entries, verifier_key, proof, url })
}

impl Story<'_> {
    fn email(&self, name: &str) -> String {
        format!("{}+{}@example.com", name.to_lowercase(), self.mark)
    }

    async fn person(&self, name: &str) -> Result<Person> {
        let (identity, email) = (&self.services.identity, self.email(name));
        let password = "correct horse battery staple";
        let register = id::RegisterRequest {
            email: email.clone(),
            password: password.to_owned(),
            display_name: name.to_owned(),
            request_id: request_id(),
        };
        let method = format!("{IDENTITY}.UserService/Register");
        let _: id::RegisterResponse = self.voice.call(identity, &method, register).await?;
        let token = self.mailbox.token(&email, "tny_ver_").await?;
        let method = format!("{IDENTITY}.UserService/VerifyEmail");
        let verified: id::VerifyEmailResponse =
            self.voice.call(identity, &method, id::VerifyEmailRequest { token }).await?;
        let user = verified.user.context("an account")?;
        ensure!(user.email_verified, "the address is confirmed");
        let login = id::LoginRequest { email: email.to_uppercase(), password: password.to_owned() };
        let method = format!("{IDENTITY}.SessionService/Login");
        let session: id::LoginResponse = self.voice.call(identity, &method, login).await?;
        Ok(Person { token: session.token, user_id: user.id, email })
    }

    async fn organization(&self, ann: &Person) -> Result<String> {
        let identity = self.services.identity.with_token(&ann.token);
        let create = id::CreateOrganizationRequest {
            name: "Acme".to_owned(),
            slug: format!("acme-{}", self.mark),
            request_id: request_id(),
        };
        let method = format!("{IDENTITY}.OrganizationService/CreateOrganization");
        let created: id::CreateOrganizationResponse =
            self.voice.call(&identity, &method, create.clone()).await?;
        let organization = created.organization.context("an organization")?;
        ensure!(organization.owner_id == ann.user_id, "whoever creates it owns it");
        let again: id::CreateOrganizationResponse = identity.call(&method, create).await?;
        let again = again.organization.context("an organization")?.id;
        ensure!(again == organization.id, "the same request_id gives the same answer");
        let change = id::ChangePlanRequest {
            org_id: organization.id.clone(),
            plan: id::Plan::Pro.into(),
            etag: organization.etag,
            request_id: request_id(),
        };
        let method = format!("{IDENTITY}.OrganizationService/ChangePlan");
        let changed: id::ChangePlanResponse = self.voice.call(&identity, &method, change).await?;
        let limit = changed.organization.context("an organization")?.member_limit;
        ensure!(limit.is_none(), "Pro has unlimited members");
        Ok(organization.id)
    }

    async fn project(&self, ann: &Person, org_id: String, repository_url: String) -> Result<Place> {
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
            self.voice.call(&project, &method, create).await?;
        let shop = created.project.context("a project")?;
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
            self.voice.call(&project, &method, create).await?;
        let environment = created.environment.context("an environment")?;
        ensure!(environment.state() == prj::EnvironmentState::Pending, "nothing runs yet");
        Ok(Place { org_id, project_id: shop.id, environment_id: environment.id })
    }

    /// Answers the token of the mailed link.
    async fn invite(&self, ann: &Person, place: &Place, email: &str) -> Result<String> {
        let invitation = self.services.invitation.with_token(&ann.token);
        let access = id::ProjectAccess {
            project_id: place.project_id.clone(),
            role: id::ProjectRole::Developer.into(),
        };
        let create = inv::CreateInvitationRequest {
            org_id: place.org_id.clone(),
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
            self.voice.call(&invitation, &method, create).await?;
        self.mailbox.token(email, "tny_inv_").await
    }

    async fn join(&self, place: &Place, token: &str) -> Result<Person> {
        let preview = inv::PreviewInvitationRequest { token: token.to_owned() };
        let method = format!("{INVITATION}.InvitationService/PreviewInvitation");
        let seen: inv::PreviewInvitationResponse =
            self.voice.call(&self.services.invitation, &method, preview).await?;
        ensure!(seen.state() == inv::InvitationState::Pending, "looking consumes nothing");
        let bob = self.person("Bob").await?;
        let accept = inv::AcceptInvitationRequest {
            invitation: Some(inv::accept_invitation_request::Invitation::Token(token.to_owned())),
            ..Default::default()
        };
        let method = format!("{INVITATION}.InvitationService/AcceptInvitation");
        let invitation = self.services.invitation.with_token(&bob.token);
        let accepted: inv::AcceptInvitationResponse =
            self.voice.call(&invitation, &method, accept).await?;
        let member = accepted.member.context("a member")?;
        ensure!(member.role() == id::OrgRole::Developer && member.email == bob.email, "as invited");
        let list = prj::ListProjectsRequest { org_id: place.org_id.clone(), ..Default::default() };
        let method = format!("{PROJECT}.ProjectService/ListProjects");
        let project = self.services.project.with_token(&bob.token);
        let listed: prj::ListProjectsResponse = self.voice.call(&project, &method, list).await?;
        let ids: Vec<_> = listed.projects.iter().map(|it| it.id.as_str()).collect();
        ensure!(ids == [place.project_id.as_str()], "Bob sees Shop and nothing else");
        Ok(bob)
    }

    /// Answers where the environment serves.
    async fn deploy(&self, bob: &Person, place: &Place) -> Result<String> {
        let project = self.services.project.with_token(&bob.token);
        let method = format!("{PROJECT}.EnvironmentService/DeployEnvironment");
        let started: prj::DeployEnvironmentResponse =
            self.voice.call(&project, &method, place.deployment()).await?;
        let task = started.task.context("a task")?;
        ensure!(task.state() == prj::TaskState::Queued, "a task waits for a runner");
        let task = patiently("the deployment did not end", async || {
            self.ended(&project, place, &task.id).await
        });
        let task = task.await?;
        for line in &task.log_lines {
            self.voice.say(&format!("      | {line}"));
        }
        ensure!(task.state() == prj::TaskState::Completed, "it failed: {}", task.error_message);
        ensure!(task.progress_percent == 100, "and is complete");
        let get = prj::GetEnvironmentRequest {
            org_id: place.org_id.clone(),
            project_id: place.project_id.clone(),
            environment_id: place.environment_id.clone(),
        };
        let method = format!("{PROJECT}.EnvironmentService/GetEnvironment");
        let got: prj::GetEnvironmentResponse = self.voice.call(&project, &method, get).await?;
        let environment = got.environment.context("an environment")?;
        ensure!(environment.state() == prj::EnvironmentState::Running, "the environment runs");
        ensure!(
            !environment.commit.is_empty() && !environment.url.is_empty(),
            "and says what and where"
        );
        Ok(environment.url)
    }

    async fn ended(
        &self,
        project: &Client,
        place: &Place,
        task_id: &str,
    ) -> Result<Option<prj::Task>> {
        let get = prj::GetTaskRequest {
            org_id: place.org_id.clone(),
            project_id: place.project_id.clone(),
            task_id: task_id.to_owned(),
        };
        let method = format!("{PROJECT}.TaskService/GetTask");
        let got: prj::GetTaskResponse = project.call(&method, get).await?;
        let task = got.task.context("a task")?;
        let ended = matches!(task.state(), prj::TaskState::Completed | prj::TaskState::Failed);
        Ok(ended.then_some(task))
    }

    async fn demote(&self, ann: &Person, bob: &Person, place: &Place) -> Result<()> {
        let identity = self.services.identity.with_token(&ann.token);
        let change = id::ChangeMemberRoleRequest {
            org_id: place.org_id.clone(),
            user_id: bob.user_id.clone(),
            role: id::OrgRole::Viewer.into(),
            request_id: request_id(),
        };
        let method = format!("{IDENTITY}.MemberService/ChangeMemberRole");
        let _: id::ChangeMemberRoleResponse = self.voice.call(&identity, &method, change).await?;
        let set = id::SetProjectAccessRequest {
            org_id: place.org_id.clone(),
            project_id: place.project_id.clone(),
            principal: Some(id::Principal {
                principal: Some(id::principal::Principal::UserId(bob.user_id.clone())),
            }),
            role: id::ProjectRole::Viewer.into(),
            request_id: request_id(),
        };
        let method = format!("{IDENTITY}.ProjectAccessService/SetProjectAccess");
        let _: id::SetProjectAccessResponse = self.voice.call(&identity, &method, set).await?;
        self.refused(bob, place, Code::PermissionDenied, "MISSING_PERMISSION").await
    }

    async fn remove(&self, ann: &Person, bob: &Person, place: &Place) -> Result<()> {
        let identity = self.services.identity.with_token(&ann.token);
        let remove = id::RemoveMemberRequest {
            org_id: place.org_id.clone(),
            user_id: bob.user_id.clone(),
            request_id: request_id(),
        };
        let method = format!("{IDENTITY}.MemberService/RemoveMember");
        let removed: id::RemoveMemberResponse = self.voice.call(&identity, &method, remove).await?;
        ensure!(removed.removed_grant_count == 1, "the grant on Shop goes with the membership");
        self.refused(bob, place, Code::NotFound, "NOT_FOUND").await?;
        let get = id::GetOrganizationRequest { org_id: place.org_id.clone() };
        let method = format!("{IDENTITY}.OrganizationService/GetOrganization");
        let identity = self.services.identity.with_token(&bob.token);
        let got: Result<id::GetOrganizationResponse, _> =
            self.voice.call(&identity, &method, get).await;
        ensure!(got.is_err_and(|it| it.code == Code::NotFound), "Acme does not exist for Bob");
        Ok(())
    }

    async fn refused(&self, bob: &Person, place: &Place, code: Code, reason: &str) -> Result<()> {
        let project = self.services.project.with_token(&bob.token);
        let method = format!("{PROJECT}.EnvironmentService/DeployEnvironment");
        let answer: Result<prj::DeployEnvironmentResponse, _> =
            self.voice.call(&project, &method, place.deployment()).await;
        match answer {
            Err(refusal) if refusal.code == code && refusal.reason == reason => Ok(()),
            Err(other) => bail!("refused for another reason: {other}"),
            Ok(_) => bail!("Bob deployed although he may not"),
        }
    }
}

impl Place {
    fn deployment(&self) -> prj::DeployEnvironmentRequest {
        prj::DeployEnvironmentRequest {
            org_id: self.org_id.clone(),
            project_id: self.project_id.clone(),
            environment_id: self.environment_id.clone(),
            modules: vec![],
            request_id: request_id(),
        }
    }
}

fn request_id() -> String {
    chassis::id::new().to_string()
}

/// Asks again until there is an answer, for a while.
pub(super) async fn patiently<T>(
    failure: &'static str,
    ask: impl AsyncFn() -> Result<Option<T>>,
) -> Result<T> {
    let asking = async {
        loop {
            if let Some(answer) = ask().await? {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.context(failure)?
}
