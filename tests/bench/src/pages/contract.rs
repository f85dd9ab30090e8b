//! The lists of the contract, from its descriptors, and requests for their pages.

use anyhow::{Context, Result, ensure};
use chassis::page::is_paged;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MethodDescriptor,
};
use serde_json::{Map, Value};

use crate::tenant::Tenant;

/// Lists whose rows are in another system: the billing provider, and git servers.
const REMOTE: [&str; 3] = [
    "tenantry.identity.v1.BillingService/ListInvoices",
    "tenantry.project.v1.GitConnectionService/ListBranches",
    "tenantry.project.v1.GitConnectionService/ListRepositories",
];

/// A list of the contract in one of its orders.
#[derive(Clone)]
pub(crate) struct List {
    method: MethodDescriptor,
    /// Name of the value of `order_by`; empty for lists without this field.
    order: String,
    /// JSON name of the rows in the response.
    rows: String,
    /// The option `buf.validate.field`.
    validation: ExtensionDescriptor,
}

/// Returns every list of the contract, in every order, but for those of other systems.
pub(crate) fn lists() -> Result<Vec<List>> {
    let pool = DescriptorPool::decode(api::DESCRIPTORS)?;
    let validation = pool.get_extension_by_name("buf.validate.field");
    let validation = validation.context("the contract has no rules of validation")?;
    let mut lists = vec![];
    for service in pool.services() {
        for method in service.methods().filter(is_paged) {
            let name = format!("{}/{}", service.full_name(), method.name());
            if REMOTE.contains(&name.as_str()) {
                continue;
            }
            let rows = method.output().fields().find(FieldDescriptor::is_list);
            let rows = rows.with_context(|| format!("a response of {name} has no rows"))?;
            let rows = rows.json_name().to_owned();
            for order in orders(&method) {
                let method = method.clone();
                lists.push(List {
                    method,
                    order,
                    rows: rows.clone(),
                    validation: validation.clone(),
                });
            }
        }
    }
    lists.sort_by_key(List::name);
    Ok(lists)
}

/// Returns the names of the orders of a list; one empty name if it has only one.
fn orders(method: &MethodDescriptor) -> Vec<String> {
    let field = method.input().get_field_by_name("order_by");
    match field.map(|it| it.kind()) {
        // Value 0 is the default order.
        Some(Kind::Enum(order)) => {
            let named = order.values().filter(|it| it.number() > 0);
            named.map(|it| it.name().to_owned()).collect()
        }
        _ => vec![String::new()],
    }
}

impl List {
    /// Name in tables.
    pub(crate) fn name(&self) -> String {
        let order = if self.order.is_empty() { String::new() } else { format!(", {}", self.order) };
        format!("{}{order}", self.method.name())
    }

    /// Full name of the method, for [`tenantry::client::Client::call`].
    pub(crate) fn method(&self) -> String {
        format!("{}/{}", self.method.parent_service().full_name(), self.method.name())
    }

    /// Returns a request as JSON, with the ids of a tenant in every required field that names its parent.
    pub(crate) fn json(&self, tenant: &Tenant, page_size: usize, page_token: &str) -> Value {
        let mut request = Map::new();
        for field in self.method.input().fields() {
            let value = match field.name() {
                "page_size" => Some(page_size.into()),
                "page_token" => Some(page_token.into()),
                "order_by" => Some(self.order.as_str().into()),
                name if !self.is_optional(&field) => tenant.field(name).cloned(),
                _ => None,
            };
            if let Some(value) = value {
                request.insert(field.json_name().to_owned(), value);
            }
        }
        request.into()
    }

    /// Returns true for a field whose rules hold only if it is set.
    fn is_optional(&self, field: &FieldDescriptor) -> bool {
        let options = field.options();
        let rules = options.get_extension(&self.validation);
        let rules = rules.as_message();
        let ignore = rules.and_then(|it| Some(it.get_field_by_name("ignore")?.into_owned()));
        ignore.and_then(|it| it.as_enum_number()).is_some_and(|it| it != 0)
    }

    /// Returns a request as a message.
    pub(crate) fn request(
        &self,
        tenant: &Tenant,
        page_size: usize,
        page_token: &str,
    ) -> Result<DynamicMessage> {
        let json = self.json(tenant, page_size, page_token);
        Ok(DynamicMessage::deserialize(self.method.input(), json)?)
    }

    /// Reads a page; returns its number of rows and the token of the next page.
    pub(crate) async fn read(
        &self,
        client: &tenantry::client::Client,
        tenant: &Tenant,
        page_size: usize,
        page_token: &str,
    ) -> Result<(usize, String)> {
        let method = self.method();
        let name = method.strip_prefix("tenantry.").unwrap_or(&method);
        let request = self.json(tenant, page_size, page_token);
        let response = client.call_json(name, request).await;
        let response = response.with_context(|| self.name())?;
        let rows = response[&self.rows].as_array().map_or(0, Vec::len);
        let next = response["nextPageToken"].as_str().unwrap_or_default().to_owned();
        Ok((rows, next))
    }

    /// Returns the token of a page, the first of which has the number 1.
    pub(crate) async fn page_token(
        &self,
        client: &tenantry::client::Client,
        tenant: &Tenant,
        page: usize,
        page_size: usize,
    ) -> Result<String> {
        /// Largest size of a page.
        const SIZE_MAX: usize = 100;
        let mut left = (page - 1) * page_size;
        let mut page_token = String::new();
        while left > 0 {
            let size = left.min(SIZE_MAX);
            let (rows, next) = self.read(client, tenant, size, &page_token).await?;
            ensure!(
                rows == size && !next.is_empty(),
                "{} has a page of {rows} rows before page {page}; the benchmark has no rows for it",
                self.method()
            );
            page_token = next;
            left -= size;
        }
        Ok(page_token)
    }
}
