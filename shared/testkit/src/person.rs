//! A person who signed in.

use anyhow::Context;
use api::identity as pb;
use serde_json::Value;
use tenantry::{
    client::{Client, Refusal},
    demo::Mailbox,
};

/// A person, and their way into the suite.
#[derive(Clone)]
pub struct Person {
    /// Calls as this person.
    pub client: Client,
    /// The account.
    pub user_id: String,
    /// The address.
    pub email: String,
    /// The session's token.
    pub token: String,
}

/// Long enough, and not among the ones that everybody tries first.
pub const PASSWORD: &str = "a long enough password";

impl Person {
    /// Registers, confirms the address, and signs in.
    pub async fn join(client: &Client, mailbox: &Mailbox, email: &str) -> anyhow::Result<Self> {
        let register = pb::RegisterRequest {
            email: email.to_owned(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        };
        let _: pb::RegisterResponse =
            client.call("tenantry.identity.v1.UserService/Register", register).await?;
        let token = mailbox.token(email, "tny_ver_").await?;
        let verify = pb::VerifyEmailRequest { token };
        let verified: pb::VerifyEmailResponse =
            client.call("tenantry.identity.v1.UserService/VerifyEmail", verify).await?;
        let user_id = verified.user.context("an account")?.id;
        let token = Self::login(client, email).await?;
        let client = client.with_token(&token);
        Ok(Self { client, user_id, email: email.to_owned(), token })
    }

    /// Signs in; answers the session's token.
    pub async fn login(client: &Client, email: &str) -> Result<String, Refusal> {
        let login = pb::LoginRequest { email: email.to_owned(), password: PASSWORD.to_owned() };
        let answer: pb::LoginResponse =
            client.call("tenantry.identity.v1.SessionService/Login", login).await?;
        Ok(answer.token)
    }

    /// Calls a method with JSON: `identity.v1.TeamService/CreateTeam`.
    pub async fn ask(&self, method: &str, question: Value) -> Result<Value, Refusal> {
        self.client.ask(method, question).await
    }

    /// Calls a method that works.
    pub async fn tell(&self, method: &str, question: Value) -> Value {
        let answer = self.ask(method, question.clone()).await;
        answer.unwrap_or_else(|refusal| panic!("{method} {question}: {refusal}"))
    }

    /// Calls a method that is refused; answers the reason.
    pub async fn refused(&self, method: &str, question: Value) -> String {
        match self.ask(method, question.clone()).await {
            Ok(answer) => panic!("{method} {question} answered {answer}"),
            Err(refusal) => refusal.reason,
        }
    }

    /// The same person, or their program, with another credential.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        let client = self.client.with_token(token);
        Self { client, token: token.to_owned(), ..self.clone() }
    }

    /// The same person in a new session, for when the clock has moved.
    pub async fn again(&self) -> Self {
        let token = Self::login(&self.client, &self.email).await.expect("a person signs in");
        Self { client: self.client.with_token(&token), token, ..self.clone() }
    }

    /// Creates an organization on the plan Pro; answers its id.
    pub async fn create_organization(&self, slug: &str) -> Result<String, Refusal> {
        let create = pb::CreateOrganizationRequest {
            name: slug.to_owned(),
            slug: slug.to_owned(),
            ..Default::default()
        };
        let created: pb::CreateOrganizationResponse = self
            .client
            .call("tenantry.identity.v1.OrganizationService/CreateOrganization", create)
            .await?;
        let org_id = created.organization.map(|it| it.id).unwrap_or_default();
        self.change_plan(&org_id, pb::Plan::Pro).await?;
        Ok(org_id)
    }

    /// Moves an organization to a plan.
    pub async fn change_plan(
        &self,
        org_id: &str,
        plan: pb::Plan,
    ) -> Result<pb::ChangePlanResponse, Refusal> {
        let change = pb::ChangePlanRequest {
            org_id: org_id.to_owned(),
            plan: plan.into(),
            ..Default::default()
        };
        self.client.call("tenantry.identity.v1.OrganizationService/ChangePlan", change).await
    }
}
