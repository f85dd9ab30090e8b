//! A person with an account and a session.

use anyhow::Context;
use api::identity as pb;
use serde_json::Value;
use tenantry::{
    client::{CallError, Client},
    demo::Mailbox,
};

/// A signed-in person.
#[derive(Clone)]
pub struct Person {
    /// Client with the token of the session.
    pub client: Client,
    /// Id of the account.
    pub user_id: String,
    /// E-mail address.
    pub email: String,
    /// Token of the session.
    pub token: String,
}

/// Password of every person. It passes the password rules: length, and not in the list of common passwords.
pub const PASSWORD: &str = "a long enough password";

impl Person {
    /// Registers an account, confirms its address and signs in.
    pub async fn join(client: &Client, mailbox: &Mailbox, email: &str) -> anyhow::Result<Self> {
        let register = pb::RegisterRequest {
            email: email.to_owned(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        };
        let _: pb::RegisterResponse =
            client.call("tenantry.identity.v1.UserService/Register", register).await?;
        let token = mailbox.token(email, "tny_ver_").await?;
        let password = PASSWORD.to_owned();
        let verify = pb::VerifyEmailRequest { token, password, ..Default::default() };
        let verified: pb::VerifyEmailResponse =
            client.call("tenantry.identity.v1.UserService/VerifyEmail", verify).await?;
        let user_id = verified.user.context("the response has no account")?.id;
        let token = Self::login(client, email).await?;
        let client = client.with_token(&token);
        Ok(Self { client, user_id, email: email.to_owned(), token })
    }

    /// Signs in; returns the token of the session.
    pub async fn login(client: &Client, email: &str) -> Result<String, CallError> {
        let login = pb::LoginRequest { email: email.to_owned(), password: PASSWORD.to_owned() };
        let answer: pb::LoginResponse =
            client.call("tenantry.identity.v1.SessionService/Login", login).await?;
        Ok(answer.token)
    }

    /// Calls a method (`identity.v1.TeamService/CreateTeam`) with a JSON request.
    pub async fn call(&self, method: &str, request: Value) -> Result<Value, CallError> {
        self.client.call_json(method, request).await
    }

    /// Calls a method that must succeed; returns the response.
    pub async fn call_ok(&self, method: &str, request: Value) -> Value {
        let answer = self.call(method, request.clone()).await;
        answer.unwrap_or_else(|refusal| panic!("{method} {request}: {refusal}"))
    }

    /// Calls a method that must fail; returns the reason of the error.
    pub async fn call_err(&self, method: &str, request: Value) -> String {
        match self.call(method, request.clone()).await {
            Ok(answer) => panic!("{method} {request} answered {answer}"),
            Err(refusal) => refusal.reason,
        }
    }

    /// The same person with another connection.
    #[must_use]
    pub fn with_client(&self, client: &Client) -> Self {
        Self { client: client.with_token(&self.token), ..self.clone() }
    }

    /// The same person with another credential, such as an API key.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        let client = self.client.with_token(token);
        Self { client, token: token.to_owned(), ..self.clone() }
    }

    /// The same person in a new session, for tests that move the clock past the end of sessions.
    pub async fn sign_in_again(&self) -> Self {
        let token = Self::login(&self.client, &self.email).await.expect("a person signs in");
        Self { client: self.client.with_token(&token), token, ..self.clone() }
    }

    /// Creates an organization on the plan Pro; returns its id.
    pub async fn create_organization(&self, slug: &str) -> Result<String, CallError> {
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

    /// Changes the plan of an organization.
    pub async fn change_plan(
        &self,
        org_id: &str,
        plan: pb::Plan,
    ) -> Result<pb::ChangePlanResponse, CallError> {
        let change = pb::ChangePlanRequest {
            org_id: org_id.to_owned(),
            plan: plan.into(),
            ..Default::default()
        };
        self.client.call("tenantry.identity.v1.BillingService/ChangePlan", change).await
    }
}
