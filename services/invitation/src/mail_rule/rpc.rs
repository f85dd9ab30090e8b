//! The gRPC surface of e-mail rules.

use api::invitation::{self as pb, mail_rule_service_server::MailRuleService};
use chassis::{Access, Call, Db, Reply, Tx, mask, page::Pager, reply};
use tonic::Request;

use super::{MailRule, store};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
}

/// What the mask of a change may name.
const PATHS: [&str; 4] = ["recipients", "event_types", "description", "enabled"];

#[tonic::async_trait]
impl MailRuleService for Rpc {
    async fn create_mail_rule(
        &self,
        request: Request<pb::CreateMailRuleRequest>,
    ) -> Reply<pb::CreateMailRuleResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.scope(&call, &it.org_id, &it.project_id).await?;
        let create = async |tx: &mut Tx| {
            let others = store::count(tx, grant.org_id()).await?;
            let place = (grant.org_id(), grant.project_id());
            let rule = store::insert(tx, MailRule::create(place, it, others, tx.now)?).await?;
            Ok(pb::CreateMailRuleResponse { mail_rule: Some((&rule).into()) })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn list_mail_rules(
        &self,
        request: Request<pb::ListMailRulesRequest>,
    ) -> Reply<pb::ListMailRulesResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.scope(&call, &it.org_id, &it.project_id).await?;
        let filter = [it.org_id.as_str(), &it.project_id];
        let page = self.pager.page(&call, it.page_size, &it.page_token, &filter)?;
        let rows = store::list(&self.db, &grant, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.into());
        let mail_rules = rows.iter().map(Into::into).collect();
        reply(pb::ListMailRulesResponse { mail_rules, next_page_token })
    }

    async fn update_mail_rule(
        &self,
        request: Request<pb::UpdateMailRuleRequest>,
    ) -> Reply<pb::UpdateMailRuleResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.scope(&call, &it.org_id, &it.project_id).await?;
        let paths = mask::paths(it.update_mask.as_ref(), &PATHS)?;
        let update = async |tx: &mut Tx| {
            let rule = store::lock(tx, &grant, it.mail_rule_id.parse()?).await?;
            let rule = store::update(tx, rule.change(it, &paths)?).await?;
            Ok(pb::UpdateMailRuleResponse { mail_rule: Some((&rule).into()) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn delete_mail_rule(
        &self,
        request: Request<pb::DeleteMailRuleRequest>,
    ) -> Reply<pb::DeleteMailRuleResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.scope(&call, &it.org_id, &it.project_id).await?;
        let delete = async |tx: &mut Tx| {
            let rule = store::lock(tx, &grant, it.mail_rule_id.parse()?).await?;
            store::delete(tx, rule.delete()).await?;
            Ok(pb::DeleteMailRuleResponse {})
        };
        reply(self.db.write(&call, delete).await?)
    }
}
