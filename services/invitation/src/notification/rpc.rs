//! The gRPC surface of notifications and preferences.

use std::collections::HashSet;

use api::invitation::{self as pb, notification_service_server::NotificationService};
use chassis::{
    Call, Db, Reply, Tx,
    follow::{Messages, follow},
    page::Pager,
    reply,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};

use super::{
    store::{self, Filter},
    watch::NewNotifications,
    wire,
};
use crate::preference::{self, QuietHours};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) pager: Pager,
    /// When streams end, so that the process can.
    pub(crate) draining: CancellationToken,
}

#[tonic::async_trait]
impl NotificationService for Rpc {
    async fn list_event_types(
        &self,
        request: Request<pb::ListEventTypesRequest>,
    ) -> Reply<pb::ListEventTypesResponse> {
        Call::of(request)?;
        reply(pb::ListEventTypesResponse { event_types: wire::catalogue() })
    }

    async fn list_notifications(
        &self,
        request: Request<pb::ListNotificationsRequest>,
    ) -> Reply<pb::ListNotificationsResponse> {
        let call = Call::of(request)?;
        let (it, user_id) = (&call.message, call.account()?.user_id);
        let category = it.category();
        let filter = Filter {
            org_id: wire::id("org_id", &it.org_id)?,
            unread_only: it.unread_only,
            category: (category != pb::NotificationCategory::Unspecified).then_some(it.category),
        };
        let unread = if it.unread_only { "unread" } else { "" };
        let binding = [it.org_id.as_str(), unread, category.as_str_name()];
        let page = self.pager.page(&call, it.page_size, &it.page_token, &binding)?;
        let rows = store::list(&self.db, user_id, &filter, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.to_string());
        let notifications = rows.iter().map(Into::into).collect();
        let (unread_count, _) = store::unread(&self.db, user_id, None).await?;
        reply(pb::ListNotificationsResponse { notifications, next_page_token, unread_count })
    }

    async fn get_unread_count(
        &self,
        request: Request<pb::GetUnreadCountRequest>,
    ) -> Reply<pb::GetUnreadCountResponse> {
        let call = Call::of(request)?;
        let org_id = wire::id("org_id", &call.message.org_id)?;
        let count = store::unread(&self.db, call.account()?.user_id, org_id).await?;
        reply(pb::GetUnreadCountResponse { unread_count: count.0, critical_count: count.1 })
    }

    async fn mark_notifications_read(
        &self,
        request: Request<pb::MarkNotificationsReadRequest>,
    ) -> Reply<pb::MarkNotificationsReadResponse> {
        let call = Call::of(request)?;
        let (ids, user_id) = (wire::ids(&call.message.notification_ids)?, call.account()?.user_id);
        let read = async |tx: &mut Tx| {
            let count = store::read(tx, user_id, &ids).await?;
            tx.emit(wire::read(user_id, count));
            Ok(pb::MarkNotificationsReadResponse { count })
        };
        reply(self.db.write(&call, read).await?)
    }

    async fn dismiss_notifications(
        &self,
        request: Request<pb::DismissNotificationsRequest>,
    ) -> Reply<pb::DismissNotificationsResponse> {
        let call = Call::of(request)?;
        let (ids, user_id) = (wire::ids(&call.message.notification_ids)?, call.account()?.user_id);
        let dismiss = async |tx: &mut Tx| {
            let count = store::dismiss(tx, user_id, &ids).await?;
            tx.emit(wire::dismissed(user_id, count));
            Ok(pb::DismissNotificationsResponse { count })
        };
        reply(self.db.write(&call, dismiss).await?)
    }

    type WatchNotificationsStream = Messages<pb::WatchNotificationsResponse>;

    async fn watch_notifications(
        &self,
        request: Request<pb::WatchNotificationsRequest>,
    ) -> Reply<Self::WatchNotificationsStream> {
        let call = Call::of(request)?;
        let user_id = call.account()?.user_id;
        let after = wire::id("after_notification_id", &call.message.after_notification_id)?;
        let (db, from) = (self.db.clone(), self.db.now());
        let new = NewNotifications { db, user_id, from, after, seen: HashSet::new() };
        Ok(Response::new(follow(&self.db, user_id.0, self.draining.clone(), new)))
    }

    async fn get_notification_preferences(
        &self,
        request: Request<pb::GetNotificationPreferencesRequest>,
    ) -> Reply<pb::GetNotificationPreferencesResponse> {
        let call = Call::of(request)?;
        let (said, quiet) = preference::store::get(&self.db, call.account()?.user_id).await?;
        reply(pb::GetNotificationPreferencesResponse {
            preferences: said.iter().map(Into::into).collect(),
            quiet_hours: quiet.as_ref().map(Into::into),
        })
    }

    async fn set_notification_preference(
        &self,
        request: Request<pb::SetNotificationPreferenceRequest>,
    ) -> Reply<pb::SetNotificationPreferenceResponse> {
        let call = Call::of(request)?;
        let user_id = call.account()?.user_id;
        let new = wire::preference(call.message.preference.as_ref())?;
        new.check().map_err(chassis::Error::from)?;
        let set = async |tx: &mut Tx| {
            preference::store::set(tx, user_id, &new).await?;
            let said = preference::store::list(tx, user_id).await?;
            let quiet = preference::store::quiet_hours(tx, user_id).await?;
            tx.emit(wire::changed(user_id, Some(&new), quiet.as_ref()));
            let preferences = said.iter().map(Into::into).collect();
            Ok(pb::SetNotificationPreferenceResponse { preferences })
        };
        reply(self.db.write(&call, set).await?)
    }

    async fn set_quiet_hours(
        &self,
        request: Request<pb::SetQuietHoursRequest>,
    ) -> Reply<pb::SetQuietHoursResponse> {
        let call = Call::of(request)?;
        let user_id = call.account()?.user_id;
        let quiet: Option<QuietHours> = call.message.quiet_hours.as_ref().map(Into::into);
        let set = async |tx: &mut Tx| {
            preference::store::set_quiet(tx, user_id, quiet.as_ref()).await?;
            tx.emit(wire::changed(user_id, None, quiet.as_ref()));
            Ok(pb::SetQuietHoursResponse { quiet_hours: quiet.as_ref().map(Into::into) })
        };
        reply(self.db.write(&call, set).await?)
    }
}
