//! Decisions in words: what allows something, what is missing, and what the nearest change would be.

use std::collections::HashMap;

use api::identity as pb;
use chassis::{ProjectId, UserId, timestamp};
use uuid::Uuid;

use super::store::Origins;
use crate::{
    policy::{OrgRole, Permission, ProjectRole},
    snapshot::{Principal, Snapshot, Source, Standing, Subject, Verdict, Wish},
};

/// What sentences need besides the facts.
#[derive(Default)]
pub(crate) struct Words {
    /// Names of teams, addresses of members.
    pub(crate) names: HashMap<Uuid, String>,
    /// The events behind facts.
    pub(crate) origins: Origins,
}

impl Words {
    /// The name of a team, or the address of a member.
    pub(crate) fn name(&self, id: Uuid) -> String {
        self.names.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    /// A step, with the event that made it true.
    fn step(
        &self,
        kind: pb::StepKind,
        text: String,
        role: &str,
        fact: (&str, Uuid, Uuid),
    ) -> pb::Step {
        let origin = self.origins.get(&(fact.0.to_owned(), fact.1, fact.2));
        pb::Step {
            kind: kind.into(),
            text,
            principal_id: fact.1.to_string(),
            role: role.to_owned(),
            event_id: origin.map(|it| it.0.to_string()).unwrap_or_default(),
            time: origin.map(|it| timestamp(it.1)),
        }
    }
}

/// Every fact that says something about a wish: what allows it, or what is there but does not reach.
pub(crate) fn path(
    snapshot: &Snapshot,
    words: &Words,
    user_id: UserId,
    wish: &Wish,
) -> Vec<pb::Step> {
    let Some(org_role) = snapshot.org_role(user_id) else { return vec![] };
    let who = words.name(user_id.0);
    let membership =
        |kind, text| words.step(kind, text, org_role.word(), ("member", user_id.0, user_id.0));
    let (Permission::Project(_, _, admin_too, _), Some(project_id)) =
        (wish.permission, wish.project_id)
    else {
        let text = format!("{who} is {} of the organization", org_role.word());
        return vec![membership(pb::StepKind::OrgRole, text)];
    };
    let mut steps: Vec<_> = snapshot
        .sources(user_id, project_id)
        .into_iter()
        .map(|(source, role)| source_step(words, (user_id, project_id), source, role, &membership))
        .collect();
    if admin_too && org_role == OrgRole::Admin && snapshot.projects.contains_key(&project_id) {
        let text = format!(
            "{who} is ADMIN of the organization, who sees every project and manages who enters it"
        );
        steps.push(membership(pb::StepKind::Administration, text));
    }
    steps.sort_by_key(|it| std::cmp::Reverse(rank(&it.role)));
    steps
}

fn rank(role: &str) -> usize {
    ["VIEWER", "DEVELOPER", "ADMIN", "OWNER"].iter().position(|it| *it == role).unwrap_or_default()
}

fn source_step(
    words: &Words,
    (user_id, project_id): (UserId, ProjectId),
    source: Source,
    role: ProjectRole,
    membership: &impl Fn(pb::StepKind, String) -> pb::Step,
) -> pb::Step {
    let who = words.name(user_id.0);
    match source {
        Source::Ownership => membership(
            pb::StepKind::Ownership,
            format!("{who} is OWNER of the organization, who is ADMIN on every project"),
        ),
        Source::Grant(Principal::User(_)) => words.step(
            pb::StepKind::DirectGrant,
            format!("{who} has a grant of {} on the project", role.word()),
            role.word(),
            ("user_grant", user_id.0, project_id.0),
        ),
        Source::Grant(Principal::Team(team_id)) => {
            let team = words.name(team_id.0);
            let text =
                format!("{who} is in the team {team}, which has {} on the project", role.word());
            let fact = ("team_grant", team_id.0, project_id.0);
            words.step(pb::StepKind::TeamGrant, text, role.word(), fact)
        }
    }
}

/// A decision in words.
pub(crate) fn explain(
    snapshot: &Snapshot,
    words: &Words,
    user_id: UserId,
    wish: &Wish,
) -> pb::ExplainResponse {
    let verdict = snapshot.verdict(Subject { user_id, key: None }, wish);
    let (code, who) = (wish.permission.code(), words.name(user_id.0));
    let path = path(snapshot, words, user_id, wish);
    let allowed = verdict == Verdict::Allowed;
    let explanation = match path.first() {
        Some(step) if allowed => format!("{who} has {code}: {}.", step.text),
        None if snapshot.org_role(user_id).is_none() => {
            format!("{who} lacks {code}: they are no member of the organization.")
        }
        None => {
            let least = least(wish.permission);
            format!("{who} lacks {code}: they have no role on the project, and it takes {least}.")
        }
        Some(step) => {
            format!("{who} lacks {code}: {}, and it takes {}.", step.text, least(wish.permission))
        }
    };
    let blocked = snapshot.standing == Standing::Blocked;
    let note = if blocked { " The subscription is blocked: changes are refused." } else { "" };
    pb::ExplainResponse {
        allowed,
        explanation: explanation + note,
        path,
        remedies: if allowed { vec![] } else { remedies(snapshot, words, user_id, wish) },
        access_version: snapshot.version,
        consistency_token: String::new(),
    }
}

fn least(permission: Permission) -> String {
    match permission {
        Permission::Org(_, least, _) => format!("{} of the organization", least.word()),
        Permission::Project(_, least, ..) => format!("{} on the project", least.word()),
    }
}

/// The changes that would allow it, the smallest first.
fn remedies(snapshot: &Snapshot, words: &Words, user_id: UserId, wish: &Wish) -> Vec<pb::Remedy> {
    let who = words.name(user_id.0);
    let remedy = |text: String, method: &str, role: &str| pb::Remedy {
        text,
        method: format!("tenantry.{method}"),
        role: role.to_owned(),
    };
    if snapshot.org_role(user_id).is_none() {
        let text = format!("invite {who} to the organization");
        let method = "invitation.v1.InvitationService/CreateInvitation";
        return vec![remedy(text, method, "")];
    }
    match (wish.permission, wish.project_id) {
        (Permission::Org(_, OrgRole::Owner, _), _) => vec![remedy(
            "only the Owner may do this; ask them".to_owned(),
            "identity.v1.OrganizationService/TransferOwnership",
            OrgRole::Owner.word(),
        )],
        (Permission::Org(_, least, _), _) => vec![remedy(
            format!("give {who} the role {} in the organization", least.word()),
            "identity.v1.MemberService/ChangeMemberRole",
            least.word(),
        )],
        (Permission::Project(_, least, ..), Some(project_id)) => {
            let mut remedies = vec![remedy(
                format!("give {who} {} on the project", least.word()),
                "identity.v1.ProjectAccessService/SetProjectAccess",
                least.word(),
            )];
            let grants = snapshot.projects.get(&project_id).into_iter().flatten();
            for (principal, role) in grants.filter(|it| *it.1 >= least) {
                if let Principal::Team(team_id) = principal {
                    let team = words.name(team_id.0);
                    let text = format!(
                        "put {who} into the team {team}, which has {} on the project",
                        role.word()
                    );
                    let method = "identity.v1.TeamService/AddTeamMember";
                    remedies.push(remedy(text, method, role.word()));
                }
            }
            remedies
        }
        (Permission::Project(..), None) => vec![],
    }
}

/// A member who has a permission, with why.
pub(crate) fn holder(
    snapshot: &Snapshot,
    words: &Words,
    user_id: UserId,
    wish: &Wish,
) -> pb::Holder {
    let org_role = snapshot.org_role(user_id).map_or(pb::OrgRole::Unspecified, Into::into);
    let project_role = wish.project_id.and_then(|it| snapshot.project_role(user_id, it));
    let project_role = project_role.map_or(pb::ProjectRole::Unspecified, Into::into);
    pb::Holder {
        user_id: user_id.into(),
        org_role: org_role.into(),
        project_role: project_role.into(),
        path: path(snapshot, words, user_id, wish),
    }
}

/// The accounts and teams that sentences about some members name: themselves, and the teams with a grant on
/// the project.
pub(crate) fn named(snapshot: &Snapshot, users: &[UserId], wish: &Wish) -> Vec<Uuid> {
    let grants = wish.project_id.and_then(|it| snapshot.projects.get(&it));
    let teams = grants.into_iter().flatten().filter_map(|it| match it.0 {
        Principal::Team(id) => Some(id.0),
        Principal::User(_) => None,
    });
    users.iter().map(|it| it.0).chain(teams).collect()
}
