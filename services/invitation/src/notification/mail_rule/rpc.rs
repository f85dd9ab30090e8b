//! gRPC service of mail rules.

use api::notification::{self as pb, mail_rule_service_server::MailRuleService};
use chassis::{Access, Call, Db, Error, Reply, Tx, email, mask, page::Pager, reply};
use tonic::Request;

use super::{Fields, MailRule, store};
use crate::{notification::scope::Scope, recipient};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
}

/// Fields that can be changed.
const PATHS: [&str; 4] = ["recipients", "event_types", "description", "enabled"];

#[tonic::async_trait]
impl MailRuleService for Rpc {
    async fn create_mail_rule(
        &self,
        request: Request<pb::CreateMailRuleRequest>,
    ) -> Reply<pb::CreateMailRuleResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.scope(&call, &message.org_id, &message.project_id).await?;
        let fields = Fields {
            recipients: &message.recipients,
            event_types: &message.event_types,
            description: &message.description,
            enabled: true,
        };
        let create = async |tx: &mut Tx| {
            let count = store::lock_count(tx, grant.org_id()).await?;
            let created = MailRule::create(Scope::of_grant(&grant), &fields, count, tx.now)?;
            let rule = store::insert(tx, created).await?;
            Ok(pb::CreateMailRuleResponse { mail_rule: Some((&rule).into()) })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn list_mail_rules(
        &self,
        request: Request<pb::ListMailRulesRequest>,
    ) -> Reply<pb::ListMailRulesResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.scope(&call, &message.org_id, &message.project_id).await?;
        let filter_key = [message.org_id.as_str(), &message.project_id];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter_key)?;
        let rows = store::list(&self.db, &grant, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.into());
        let mail_rules = rows.iter().map(Into::into).collect();
        reply(pb::ListMailRulesResponse { mail_rules, next_page_token })
    }

    async fn update_mail_rule(
        &self,
        request: Request<pb::UpdateMailRuleRequest>,
    ) -> Reply<pb::UpdateMailRuleResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.scope(&call, &message.org_id, &message.project_id).await?;
        let paths = mask::paths(message.update_mask.as_ref(), &PATHS)?;
        let fields = Fields {
            recipients: &message.recipients,
            event_types: &message.event_types,
            description: &message.description,
            enabled: message.enabled,
        };
        let update = async |tx: &mut Tx| {
            let rule = store::lock(tx, &grant, message.mail_rule_id.parse()?).await?;
            let rule = store::update(tx, rule.update(&fields, &paths)?).await?;
            Ok(pb::UpdateMailRuleResponse { mail_rule: Some((&rule).into()) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn delete_mail_rule(
        &self,
        request: Request<pb::DeleteMailRuleRequest>,
    ) -> Reply<pb::DeleteMailRuleResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.scope(&call, &message.org_id, &message.project_id).await?;
        let delete = async |tx: &mut Tx| {
            let rule = store::lock(tx, &grant, message.mail_rule_id.parse()?).await?;
            store::delete(tx, rule.delete()).await?;
            Ok(pb::DeleteMailRuleResponse {})
        };
        reply(self.db.write(&call, delete).await?)
    }

    async fn list_silenced_addresses(
        &self,
        request: Request<pb::ListSilencedAddressesRequest>,
    ) -> Reply<pb::ListSilencedAddressesResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let filter_key = [message.org_id.as_str()];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter_key)?;
        let rows = recipient::store::list_silenced(&self.db, &grant, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.address.clone());
        let silenced_addresses = rows.iter().map(Into::into).collect();
        reply(pb::ListSilencedAddressesResponse { silenced_addresses, next_page_token })
    }

    async fn clear_silenced_address(
        &self,
        request: Request<pb::ClearSilencedAddressRequest>,
    ) -> Reply<pb::ClearSilencedAddressResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let address = email::parse(&call.message.email);
        let address =
            address.ok_or_else(|| Error::invalid("email", "must be a valid e-mail address"))?;
        let clear = async |tx: &mut Tx| {
            let org_id = grant.org_id();
            let cleared = recipient::store::clear_silenced(tx, org_id, &address.canonical).await?;
            tx.emit(cleared.cleared(org_id));
            Ok(pb::ClearSilencedAddressResponse {})
        };
        reply(self.db.write(&call, clear).await?)
    }
}
