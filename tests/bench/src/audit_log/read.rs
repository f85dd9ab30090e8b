//! Times of list pages, of the text filter and of inclusion proofs.

use std::time::Instant;

use anyhow::Result;
use api::audit::{
    self as pb, audit_service_client::AuditServiceClient, log_service_client::LogServiceClient,
};
use sqlx::{Connection, Executor, PgConnection, Row};
use tonic::{Request, metadata::MetadataValue};
use uuid::Uuid;

use crate::{load, median, print, suite::Suite};

/// Names of actors and objects for the text filter.
const NAMES: u32 = 100_000;

/// Returns a request with a session token.
fn authenticated<M>(token: &str, message: M) -> Result<Request<M>> {
    let mut request = Request::new(message);
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    request.metadata_mut().insert("authorization", bearer);
    Ok(request)
}

/// Measures a list page of 50 entries, filtered by actor and action: the first page and a distant one.
/// Reference: the SQL query alone.
pub(super) async fn measure_pages(suite: &Suite, token: &str, org: Uuid) -> Result<()> {
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let channel = load::channels(suite.address).await?.remove(0);
    let mut client = AuditServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let actor_id = Uuid::from_u128(1).to_string();
    let filter = pb::EntryFilter {
        actor_id: actor_id.clone(),
        action: "environment.updated".to_owned(),
        ..Default::default()
    };
    let page = |page_token: String, page_size| pb::ListEntriesRequest {
        org_id: org.to_string(),
        filter: Some(filter.clone()),
        page_size,
        page_token,
        ..Default::default()
    };
    let mut distant_page = String::new();
    // The distant page follows 50 pages of 10 entries, or the last one if there are fewer.
    for _ in 0..50 {
        let next = client
            .list_entries(authenticated(token, page(distant_page.clone(), 10))?)
            .await?
            .into_inner();
        if next.next_page_token.is_empty() {
            break;
        }
        distant_page = next.next_page_token;
    }
    for (name, page_token) in [("first", String::new()), ("distant", distant_page)] {
        let mut measured = vec![];
        for _ in 0..200 {
            let started = Instant::now();
            client.list_entries(authenticated(token, page(page_token.clone(), 50))?).await?;
            measured.push(started.elapsed().as_secs_f64() * 1e6);
        }
        let mut reference = vec![];
        let query = "select index, event_id, received_at, flags, leaf from audit.entry
                     where actor = (select term.number from audit.term
                                    join audit.tree on tree.number = term.tree
                                    where org_id = $1 and kind = 1 and value = $2)
                       and index < $3 order by index desc limit 50";
        for _ in 0..200 {
            let started = Instant::now();
            let rows = sqlx::query(query)
                .bind(org)
                .bind(&actor_id)
                // An index in the middle of the log corresponds to a distant page.
                .bind(if name == "first" { i64::MAX } else { 50_000 })
                .fetch_all(&mut connection)
                .await?;
            anyhow::ensure!(!rows.is_empty(), "the query returned no entries");
            reference.push(started.elapsed().as_secs_f64() * 1e6);
        }
        let measured = median(measured);
        let reference = median(reference);
        let ratio = measured / reference;
        print(&format!(
            "| list page of 50 entries, {name} (query alone), µs | {measured:.0} | {reference:.0} \
             | {ratio:.2} | ≤ 2 |\n"
        ));
    }
    Ok(())
}

/// Measures the time of an inclusion proof.
pub(super) async fn measure_proofs(suite: &Suite, token: &str, org: Uuid) -> Result<()> {
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let ids = "select event_id from audit.entry join audit.tree on number = entry.tree
               where org_id = $1 and index % 211 = 3 order by random() limit 300";
    let ids = sqlx::query(ids).bind(org).fetch_all(&mut connection).await?;
    let channel = load::channels(suite.address).await?.remove(0);
    let mut client = LogServiceClient::new(channel);
    let mut times_us = vec![];
    for row in &ids {
        let event_id: Uuid = row.try_get(0)?;
        let get = pb::GetInclusionProofRequest {
            org_id: org.to_string(),
            event_id: event_id.to_string(),
        };
        let started = Instant::now();
        client.get_inclusion_proof(authenticated(token, get)?).await?;
        times_us.push(started.elapsed().as_secs_f64() * 1e6);
    }
    let p50 = median(times_us);
    print(&format!("| inclusion proof, µs | p50 {p50:.0} | | | ≤ 1,000 |\n"));
    Ok(())
}

/// Measures a list with a text that no name contains, with [`NAMES`] names. Reference: the same with the
/// names of the measured entries only.
pub(super) async fn measure_text_filter(suite: &Suite, token: &str, org: Uuid) -> Result<()> {
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let channel = load::channels(suite.address).await?.remove(0);
    let mut client = AuditServiceClient::new(channel);
    let list = pb::ListEntriesRequest {
        org_id: org.to_string(),
        filter: Some(pb::EntryFilter { text: "nobody at all".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let mut medians = vec![];
    for add in [0, NAMES] {
        let names = format!(
            "insert into audit.term_name (term, name)
             select min(term.number), 'Somebody ' || n from audit.term
             join audit.tree on tree.number = term.tree, generate_series(1, {add}) as n
             where org_id = '{org}' and kind = 1 group by n"
        );
        connection.execute(sqlx::AssertSqlSafe(names)).await?;
        suite.analyze().await?;
        let mut times_us = vec![];
        for _ in 0..200 {
            let started = Instant::now();
            let page = client.list_entries(authenticated(token, list.clone())?).await?;
            times_us.push(started.elapsed().as_secs_f64() * 1e6);
            anyhow::ensure!(page.into_inner().entries.is_empty(), "the text is in a name");
        }
        medians.push(median(times_us));
    }
    let [few, many] = medians[..] else { return Err(anyhow::anyhow!("two measurements")) };
    print(&format!(
        "| text filter that finds nothing, {NAMES} names (few names), µs | {many:.0} | {few:.0} \
         | {:.2} | ≤ 3,000 |\n",
        many / few
    ));
    Ok(())
}
