//! People who compete for the last seats of an organization: more join at a time than its plan allows.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result};
use futures::future::join_all;
use serde_json::json;
use tenantry::{
    client::{CallError, Client},
    demo::Mailbox,
};
use testkit::Person;
use tokio::task::JoinSet;

use crate::{cluster::Cluster, tenants::GATEWAY};

/// Members that the plan Starter allows, without the Owner.
const SEATS: usize = 4;
/// People who compete for them.
const PEOPLE: usize = 7;
/// Pause between two rounds.
const PAUSE: Duration = Duration::from_secs(3);

const ACCEPT: &str = "invitation.v1.InvitationService/AcceptInvitation";
const LEAVE: &str = "identity.v1.MemberService/LeaveOrganization";

/// A running contest; it ends when it is dropped.
pub(crate) struct Contest {
    outcome: Arc<Mutex<Outcome>>,
    _rounds: JoinSet<()>,
}

/// Figures of a contest.
#[derive(Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) rounds: usize,
    /// Successful acceptances.
    pub(crate) joined: usize,
    /// Rounds in which more people joined than there are seats.
    pub(crate) exceeded: usize,
    /// Error of the last round that could not begin.
    pub(crate) last_error: String,
}

impl Contest {
    /// Creates the organization and the people, and begins.
    pub(crate) async fn start(cluster: &Cluster) -> Result<Self> {
        let client = Client::connect(GATEWAY, Some(&cluster.authority)).await?;
        let mailbox = Mailbox::Folders(cluster.mail_folders());
        let owner = Person::join(&client, &mailbox, "owner@seats.example.com").await?;
        let org_id = owner.create_organization("seats").await?;
        owner.change_plan(&org_id, api::identity::Plan::Starter).await?;
        let mut people = vec![];
        for number in 0..PEOPLE {
            let email = format!("person{number}@seats.example.com");
            people.push(Person::join(&client, &mailbox, &email).await.context("a person joins")?);
        }
        let outcome = Arc::<Mutex<Outcome>>::default();
        let mut rounds = JoinSet::new();
        let shared = outcome.clone();
        rounds.spawn(async move {
            loop {
                let round = run_round(&owner, &org_id, &people).await;
                {
                    let mut outcome = shared.lock().expect("no thread panics");
                    match round {
                        Ok(joined) => {
                            outcome.rounds += 1;
                            outcome.joined += joined;
                            outcome.exceeded += usize::from(joined > SEATS);
                        }
                        // A round that cannot begin is repeated.
                        Err(error) => outcome.last_error = error.to_string(),
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Ok(Self { outcome, _rounds: rounds })
    }

    /// Ends the contest.
    pub(crate) fn stop(self) -> Outcome {
        self.outcome.lock().expect("no thread panics").clone()
    }
}

/// Invites all people with one link, lets them join at once, and leave. Returns the number of those who
/// joined.
async fn run_round(owner: &Person, org_id: &str, people: &[Person]) -> Result<usize, CallError> {
    let leave = json!({ "orgId": org_id });
    // Those whose departure has failed in the round before.
    join_all(people.iter().map(|it| it.call(LEAVE, leave.clone()))).await;
    let email = format!("{}@seats.example.com", chassis::id::new());
    let role = "ORG_ROLE_VIEWER";
    let create = json!({ "orgId": org_id, "email": email, "role": role, "maxUses": PEOPLE });
    let created = owner.call("invitation.v1.InvitationService/CreateInvitation", create).await?;
    let invitation = created["invitation"]["id"].clone();
    let get = json!({ "orgId": org_id, "invitationId": invitation });
    let link = owner.call("invitation.v1.InvitationService/GetInvitationLink", get).await?;
    let link = link["link"].as_str().unwrap_or_default();
    let position = link.find("tny_inv_").unwrap_or_default();
    let is_part = |it: &char| it.is_ascii_alphanumeric() || *it == '_';
    let token: String = link[position..].chars().take_while(is_part).collect();
    let accept = json!({ "token": token });
    let accepted = join_all(people.iter().map(|it| it.call(ACCEPT, accept.clone()))).await;
    join_all(people.iter().map(|it| it.call(LEAVE, leave.clone()))).await;
    Ok(accepted.into_iter().flatten().count())
}
