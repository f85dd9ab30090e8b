//! People and organizations of a run, and connections to the gateway.

use std::time::Duration;

use anyhow::{Context, Result};
use api::{identity as pb, invitation as inv};
use tenantry::{client::Client, demo::Mailbox};
use testkit::{Person, load::Tenant};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::cluster::Cluster;

/// URL of the gateway.
pub(crate) const GATEWAY: &str = "https://gateway:50051";

/// Number of members of an organization whose roles the load changes, one for each worker.
pub(crate) const MEMBERS: usize = 2;

/// Connection that is opened with the first call, and again after it has ended.
pub(crate) fn channel(url: &str, authority: &str) -> Result<Channel> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
    let endpoint = Endpoint::from_shared(url.to_owned())?.tls_config(tls)?;
    // A connection to an address that takes all packets and answers none is left after two seconds.
    let endpoint = endpoint.connect_timeout(Duration::from_secs(2)).tcp_nodelay(true);
    Ok(endpoint.connect_lazy())
}

/// Creates an organization with its Owner and members who have accepted invitations.
pub(crate) async fn create(cluster: &Cluster, slug: &str) -> Result<Tenant> {
    let client = Client::connect(GATEWAY, Some(&cluster.authority)).await?;
    let mailbox = Mailbox::Folders(cluster.mail_folders());
    let owner = Person::join(&client, &mailbox, &format!("owner@{slug}.example.com")).await;
    let owner = owner.context("the Owner joins")?;
    let org_id = owner.create_organization(slug).await?;
    let mut members = vec![];
    for number in 0..MEMBERS {
        let email = format!("member{number}@{slug}.example.com");
        let member = Person::join(&client, &mailbox, &email).await?;
        let invite = inv::CreateInvitationRequest {
            org_id: org_id.clone(),
            email: email.clone(),
            role: pb::OrgRole::Viewer.into(),
            ..Default::default()
        };
        let method = "tenantry.invitation.v1.InvitationService/CreateInvitation";
        let _: inv::CreateInvitationResponse = owner.client.call(method, invite).await?;
        let token = mailbox.token(&email, "tny_inv_").await?;
        let invitation = Some(inv::accept_invitation_request::Invitation::Token(token));
        let accept = inv::AcceptInvitationRequest { invitation, ..Default::default() };
        let method = "tenantry.invitation.v1.InvitationService/AcceptInvitation";
        let _: inv::AcceptInvitationResponse = member.client.call(method, accept).await?;
        members.push(member);
    }
    Ok(Tenant { org_id, owner, members })
}
