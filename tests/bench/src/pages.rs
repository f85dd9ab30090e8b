//! Every list of the contract: its first page and page 1,000, in a small and in a large tenant. References:
//! the first page of the same tenant, and the first page of the small tenant.

pub(crate) mod contract;

use std::time::Instant;

use anyhow::{Result, ensure};
use prost_reflect::DynamicMessage;
use tonic::{Request, metadata::MetadataValue, transport::Channel};
use tonic_prost::ProstCodec;

use self::contract::List;
use crate::{load, median, print, suite::Suite, tenant::Tenant};

/// Rows of a page.
pub(crate) const PAGE_SIZE: u32 = 20;

/// Rows of each list of the small tenant.
pub(crate) const SMALL_ROWS: u32 = 100;

/// Default number of rows of each list of the large tenant; `cargo xtask bench pages 2000` measures fewer.
const LARGE_ROWS: u32 = 20_000;

/// Calls of each measured page.
const CALLS: usize = 60;

/// Largest ratio of two pages of a list.
const GOAL: f64 = 1.3;

/// Runs the measurements.
pub(crate) async fn run() -> Result<()> {
    let large_rows = std::env::args().nth(2).and_then(|it| it.parse().ok()).unwrap_or(LARGE_ROWS);
    // All services, without a runner.
    let suite = Suite::start(&tenantry::INSTALLS[..4]).await?;
    suite.hold_mails().await?;
    let small = Tenant::create(&suite, 1, SMALL_ROWS).await?;
    let large = Tenant::create(&suite, 2, large_rows).await?;
    small.wait_for_log(&suite).await?;
    large.wait_for_log(&suite).await?;
    suite.analyze().await?;
    let last_page = large_rows / PAGE_SIZE;
    print(&format!(
        "| list, pages of {PAGE_SIZE}, p50 in µs | {SMALL_ROWS} rows: page 1, {} \
         | {large_rows} rows: page 1, {last_page} | {last_page} / 1 | large / small | goal |\n\
         |---|---|---|---|---|---|\n",
        SMALL_ROWS / PAGE_SIZE
    ));
    for list in contract::lists()? {
        let mut pages = vec![];
        for tenant in [&small, &large] {
            pages.push(Page::open(&suite, &list, tenant, 1).await?);
            let last_page = usize::try_from(tenant.row_count / PAGE_SIZE)?;
            pages.push(Page::open(&suite, &list, tenant, last_page).await?);
        }
        print_pages(&list, &p50_us(&pages).await?);
    }
    suite.stop().await
}

/// Prints the row of a list from the times of its pages: first and last of the small tenant, first and last
/// of the large one.
fn print_pages(list: &List, times_us: &[f64]) {
    let [small_first, small_last, large_first, large_last] = times_us else { return };
    let by_page = large_last / large_first;
    let by_size = large_first / small_first;
    let is_met = by_page.max(by_size) <= GOAL;
    print(&format!(
        "| `{}` | {small_first:.0}, {small_last:.0} | {large_first:.0}, {large_last:.0} | {by_page:.2} \
         | {by_size:.2} | ≤ {GOAL}, {} |\n",
        list.name(),
        if is_met { "met" } else { "missed" }
    ));
}

/// A page of a list, ready to be read.
pub(crate) struct Page {
    channel: Channel,
    path: http::uri::PathAndQuery,
    request: DynamicMessage,
    bearer: MetadataValue<tonic::metadata::Ascii>,
}

impl Page {
    /// Finds a page of a list, the first of which has the number 1, and checks that it is full.
    pub(crate) async fn open(
        suite: &Suite,
        list: &List,
        tenant: &Tenant,
        page: usize,
    ) -> Result<Self> {
        let page_size = usize::try_from(PAGE_SIZE)?;
        let client = suite.client.with_token(&tenant.token);
        let page_token = list.page_token(&client, tenant, page, page_size).await?;
        let (rows, _) = list.read(&client, tenant, page_size, &page_token).await?;
        ensure!(
            rows == page_size,
            "page {page} of {} has {rows} rows; the benchmark has no rows for it",
            list.method()
        );
        Ok(Self {
            channel: load::channels(suite.address).await?.remove(0),
            path: format!("/{}", list.method()).parse()?,
            request: list.request(tenant, page_size, &page_token)?,
            bearer: format!("Bearer {}", tenant.token).parse()?,
        })
    }

    /// Reads the page without decoding its rows; returns the time in microseconds.
    async fn read_us(&self) -> Result<f64> {
        let mut request = Request::new(self.request.clone());
        request.metadata_mut().insert("authorization", self.bearer.clone());
        let start = Instant::now();
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await?;
        // `()` is a message without fields, which skips those of the response.
        let codec = ProstCodec::<DynamicMessage, ()>::default();
        grpc.unary(request, self.path.clone(), codec).await?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }
}

/// Returns the median time of each page in microseconds. The pages are read in turn, so that other load on
/// the machine affects all of them.
pub(crate) async fn p50_us(pages: &[Page]) -> Result<Vec<f64>> {
    let mut times_us = vec![vec![]; pages.len()];
    for call in 0..=CALLS {
        for (page, times_us) in pages.iter().zip(&mut times_us) {
            let time_us = page.read_us().await?;
            // The first call fills caches.
            if call > 0 {
                times_us.push(time_us);
            }
        }
    }
    Ok(times_us.into_iter().map(median).collect())
}
