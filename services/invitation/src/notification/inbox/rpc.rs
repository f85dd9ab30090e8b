//! gRPC service of notifications and notification preferences.

mod watch;

use api::notification::{self as pb, notification_service_server::NotificationService};
use chassis::{Call, Db, Error, Reply, Tx, page::Pager, reply};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};
use worker::watch::{Messages, follow};

use self::watch::NewNotifications;
use super::{
    store::{self, Filter},
    wire::{self, preferences_updated, user_event},
};
use crate::notification::preference;

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) pager: Pager,
    /// Cancelled when the process begins to shut down, which ends the streams.
    pub(crate) draining: CancellationToken,
}

#[tonic::async_trait]
impl NotificationService for Rpc {
    async fn list_event_types(
        &self,
        request: Request<pb::ListEventTypesRequest>,
    ) -> Reply<pb::ListEventTypesResponse> {
        Call::of(request)?;
        reply(pb::ListEventTypesResponse { event_types: wire::event_types() })
    }

    async fn list_notifications(
        &self,
        request: Request<pb::ListNotificationsRequest>,
    ) -> Reply<pb::ListNotificationsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let user_id = call.account()?.user_id;
        let category = message.category();
        let filter = Filter {
            org_id: wire::optional_id("org_id", &message.org_id)?,
            unread_only: message.unread_only,
            category: Some(category).filter(|it| *it != pb::NotificationCategory::Unspecified),
        };
        let unread = if message.unread_only { "unread" } else { "" };
        let filter_key = [message.org_id.as_str(), unread, category.as_str_name()];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter_key)?;
        let rows = store::list(&self.db, user_id, &filter, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.to_string());
        let notifications = rows.iter().map(Into::into).collect();
        let unread_count = store::count_unread(&self.db, user_id, None).await?.all;
        reply(pb::ListNotificationsResponse { notifications, next_page_token, unread_count })
    }

    async fn get_unread_count(
        &self,
        request: Request<pb::GetUnreadCountRequest>,
    ) -> Reply<pb::GetUnreadCountResponse> {
        let call = Call::of(request)?;
        let org_id = wire::optional_id("org_id", &call.message.org_id)?;
        let unread = store::count_unread(&self.db, call.account()?.user_id, org_id).await?;
        reply(pb::GetUnreadCountResponse {
            unread_count: unread.all,
            critical_count: unread.critical,
        })
    }

    async fn mark_notifications_read(
        &self,
        request: Request<pb::MarkNotificationsReadRequest>,
    ) -> Reply<pb::MarkNotificationsReadResponse> {
        let call = Call::of(request)?;
        let ids = wire::notification_ids(&call.message.notification_ids)?;
        let user_id = call.account()?.user_id;
        let mark = async |tx: &mut Tx| {
            let count = store::mark_read(tx, user_id, &ids).await?;
            tx.emit(user_event(user_id, &pb::NotificationsRead { count }));
            Ok(pb::MarkNotificationsReadResponse { count })
        };
        reply(self.db.write(&call, mark).await?)
    }

    async fn dismiss_notifications(
        &self,
        request: Request<pb::DismissNotificationsRequest>,
    ) -> Reply<pb::DismissNotificationsResponse> {
        let call = Call::of(request)?;
        let ids = wire::notification_ids(&call.message.notification_ids)?;
        let user_id = call.account()?.user_id;
        let dismiss = async |tx: &mut Tx| {
            let count = store::dismiss(tx, user_id, &ids).await?;
            tx.emit(user_event(user_id, &pb::NotificationsDismissed { count }));
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
        let after =
            wire::optional_id("after_notification_id", &call.message.after_notification_id)?;
        let source = NewNotifications::new(self.db.clone(), user_id, after);
        Ok(Response::new(follow(&self.db, user_id.0, self.draining.clone(), source)))
    }

    async fn get_notification_preferences(
        &self,
        request: Request<pb::GetNotificationPreferencesRequest>,
    ) -> Reply<pb::GetNotificationPreferencesResponse> {
        let call = Call::of(request)?;
        let user_id = call.account()?.user_id;
        let (preferences, quiet_hours) = preference::store::get(&self.db, user_id).await?;
        reply(pb::GetNotificationPreferencesResponse {
            preferences: preferences.iter().map(Into::into).collect(),
            quiet_hours,
        })
    }

    async fn set_notification_preference(
        &self,
        request: Request<pb::SetNotificationPreferenceRequest>,
    ) -> Reply<pb::SetNotificationPreferenceResponse> {
        let call = Call::of(request)?;
        let user_id = call.account()?.user_id;
        let preference = wire::preference(call.message.preference.as_ref())?;
        preference.check().map_err(Error::from)?;
        let set = async |tx: &mut Tx| {
            preference::store::set(tx, user_id, &preference).await?;
            let preferences = preference::store::list(tx, user_id).await?;
            let quiet_hours = preference::store::quiet_hours(tx, user_id).await?;
            tx.emit(user_event(user_id, &preferences_updated(Some(&preference), quiet_hours)));
            let preferences = preferences.iter().map(Into::into).collect();
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
        let quiet_hours = &call.message.quiet_hours;
        let set = async |tx: &mut Tx| {
            preference::store::set_quiet_hours(tx, user_id, quiet_hours.as_ref()).await?;
            let event = preferences_updated(None, quiet_hours.clone());
            tx.emit(user_event(user_id, &event));
            Ok(pb::SetQuietHoursResponse { quiet_hours: quiet_hours.clone() })
        };
        reply(self.db.write(&call, set).await?)
    }
}
