//! Notification types of invitations.

use api::{
    invitation::{
        InvitationAccepted, InvitationBounced, InvitationCreated, InvitationDeclined,
        InvitationMailFailed, InvitationRevoked, RevokeCause,
    },
    notification::{
        NotificationCategory::Membership,
        Severity::{Info, Warning},
    },
};

use super::{Audience, Content, NotificationType};
use crate::role::role_name;

#[expect(clippy::too_many_lines, reason = "a table of notification types")]
pub(super) fn all() -> [NotificationType; 6] {
    [
        NotificationType::of(
            "invitation.accepted",
            Membership,
            Info,
            "An invitation was accepted. To the inviter.",
            |event: InvitationAccepted, _| {
                let invitation = event.after?;
                let title = format!("Your invitation to {} was accepted", invitation.email);
                let body = format!(
                    "The invitation was used {} of {} times.",
                    invitation.use_count, invitation.max_uses
                );
                Some(Content::new(title, body, Audience::user(invitation.inviter_id)))
            },
        ),
        NotificationType::of(
            "invitation.bounced",
            Membership,
            Warning,
            "The mail of an invitation was permanently rejected. To the inviter.",
            |event: InvitationBounced, _| {
                let invitation = event.after?;
                let title =
                    format!("The invitation to {} could not be delivered", invitation.email);
                let body = "The recipient's mail server rejected the mail. Check the address, or copy \
                            the link and send it yourself.";
                Some(Content::new(title, body, Audience::user(invitation.inviter_id)))
            },
        ),
        NotificationType::of(
            "invitation.declined",
            Membership,
            Info,
            "An invitation was declined. To the inviter.",
            |event: InvitationDeclined, _| {
                let invitation = event.after?;
                let title = format!("{} declined your invitation", invitation.email);
                let body = "The invitation can no longer be used.";
                Some(Content::new(title, body, Audience::user(invitation.inviter_id)))
            },
        ),
        NotificationType::of(
            "invitation.mail_failed",
            Membership,
            Warning,
            "The mail of an invitation was not accepted within five days. To the inviter.",
            |event: InvitationMailFailed, _| {
                let invitation = event.after?;
                let title = format!("The invitation to {} was not mailed", invitation.email);
                let body = "The mail server did not accept the mail for five days. Resend the invitation, \
                            or copy the link and send it yourself.";
                Some(Content::new(title, body, Audience::user(invitation.inviter_id)))
            },
        ),
        NotificationType::of(
            "invitation.revoked",
            Membership,
            Info,
            "An invited person joined by another invitation, which may offer another role. To the inviter.",
            |event: InvitationRevoked, _| {
                let invitation = event.after?;
                if invitation.revoke_cause() != RevokeCause::RecipientJoined {
                    return None;
                }
                let role = role_name(invitation.role());
                let title = format!("{} joined by another invitation", invitation.email);
                let body = format!(
                    "Your invitation offered the role {role} and has ended. If they shall have this role, \
                     change it in the list of members."
                );
                Some(Content::new(title, body, Audience::user(invitation.inviter_id)))
            },
        ),
        NotificationType::of(
            "user.invited",
            Membership,
            Info,
            "An organization invited a person. To the invited person, if they have an account.",
            |event: InvitationCreated, _| {
                let invitation = event.after?;
                let role = role_name(invitation.role());
                let body = format!(
                    "The role is {role}. Accept or decline in the list of your invitations."
                );
                let audience = Audience { email: Some(invitation.email), ..Audience::default() };
                Some(Content::new("You are invited to an organization", body, audience))
            },
        )
        .personal(),
    ]
}
