//! Times of calls in one organization while the others grow: the first page of every list of the contract, a
//! check of access, and changes. Usage: `cargo xtask bench growth [PERCENT [SVG]]`: the percentage of the
//! full data set, and the file of a plot.

mod data;
mod plot;

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use self::data::DataSet;
use crate::{
    median,
    pages::{self, Page, SMALL_ROWS, contract},
    print,
    suite::Suite,
    tenant::Tenant,
};

/// Parts of the data set at which calls are measured, in percent.
const STEPS: [u32; 3] = [10, 50, 100];

/// Calls of each method at each step.
const CALLS: u32 = 40;

/// Largest ratio of the times with all data and with a tenth of it.
const GOAL: f64 = 1.5;

/// A call beside the lists: its method without the package `tenantry`, and its request from the tenant and a
/// unique number.
struct OtherCall {
    method: &'static str,
    request: fn(&Tenant, u32) -> Value,
}

const OTHER_CALLS: [OtherCall; 5] = [
    OtherCall {
        method: "identity.v1.AccessService/Check",
        request: |tenant, _| project_request(tenant, json!({ "permission": "project.view" })),
    },
    OtherCall {
        method: "project.v1.ProjectService/CreateProject",
        request: |tenant, number| {
            let url = "https://git.example.com/a.git";
            org_request(tenant, json!({ "name": format!("New {number}"), "repositoryUrl": url }))
        },
    },
    OtherCall {
        method: "identity.v1.ProjectAccessService/SetProjectAccess",
        request: |tenant, number| {
            let is_even = number.is_multiple_of(2);
            let role = if is_even { "PROJECT_ROLE_VIEWER" } else { "PROJECT_ROLE_DEVELOPER" };
            let principal = json!({ "userId": tenant.sample.user_id });
            project_request(tenant, json!({ "principal": principal, "role": role }))
        },
    },
    OtherCall {
        method: "identity.v1.TeamService/CreateTeam",
        request: |tenant, number| org_request(tenant, json!({ "name": format!("New {number}") })),
    },
    OtherCall {
        method: "invitation.v1.InvitationService/CreateInvitation",
        request: |tenant, number| {
            let email = format!("new{number}@example.com");
            org_request(tenant, json!({ "email": email, "role": "ORG_ROLE_VIEWER" }))
        },
    },
];

fn org_request(tenant: &Tenant, mut request: Value) -> Value {
    request["orgId"] = tenant.sample.org_id.as_str().into();
    request
}

fn project_request(tenant: &Tenant, mut request: Value) -> Value {
    request["projectId"] = tenant.sample.project_id.as_str().into();
    org_request(tenant, request)
}

/// Median times of a method in microseconds, one for each step.
struct Growth {
    method: String,
    times_us: Vec<f64>,
}

impl Growth {
    /// Ratio of the times with all data and with a tenth of it.
    fn ratio(&self) -> f64 {
        let last = self.times_us.last().copied().unwrap_or_default();
        last / self.times_us.first().copied().unwrap_or(1.0)
    }
}

/// Runs the measurements.
pub(crate) async fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(2);
    let percent = arguments.next().and_then(|it| it.parse().ok()).unwrap_or(1);
    let data_set = DataSet::of_percent(percent);
    let suite = Suite::start(&tenantry::INSTALLS[..4]).await?;
    suite.hold_mails().await?;
    let tenant = Tenant::create(&suite, 1, SMALL_ROWS).await?;
    tenant.wait_for_log(&suite).await?;
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let mut growths: Vec<Growth> = vec![];
    let mut loaded = 0;
    for (step, part) in STEPS.into_iter().enumerate() {
        let orgs = data_set.orgs * part / 100;
        data::load(&mut connection, loaded..orgs).await?;
        loaded = orgs;
        suite.analyze().await?;
        for (number, (method, time_us)) in
            measure(&suite, &tenant, step).await?.into_iter().enumerate()
        {
            if step == 0 {
                growths.push(Growth { method, times_us: vec![] });
            }
            growths[number].times_us.push(time_us);
        }
    }
    print(&format!(
        "| p50 in µs with {data_set} | 10 % | 50 % | 100 % | 100 % / 10 % | goal |\n\
         |---|---|---|---|---|---|\n"
    ));
    for growth in &growths {
        let [tenth, half, all] = growth.times_us[..] else { continue };
        let ratio = growth.ratio();
        let result = if ratio <= GOAL { "met" } else { "missed" };
        print(&format!(
            "| `{}` | {tenth:.0} | {half:.0} | {all:.0} | {ratio:.2} | ≤ {GOAL}, {result} |\n",
            growth.method
        ));
    }
    if let Some(path) = arguments.next() {
        let plot = plot::svg(&growths, &data_set.to_string());
        std::fs::write(&path, plot).with_context(|| format!("cannot write {path}"))?;
    }
    suite.stop().await
}

/// Returns the median time of each method in microseconds.
async fn measure(suite: &Suite, tenant: &Tenant, step: usize) -> Result<Vec<(String, f64)>> {
    let client = suite.client.with_token(&tenant.token);
    let mut measured = vec![];
    for call in &OTHER_CALLS {
        let mut times_us = vec![];
        for number in 0..CALLS {
            let number = u32::try_from(step)? * CALLS + number;
            let request = (call.request)(tenant, number);
            let start = Instant::now();
            client.call_json(call.method, request).await.with_context(|| call.method)?;
            times_us.push(start.elapsed().as_secs_f64() * 1e6);
        }
        let name = call.method.rsplit('/').next().unwrap_or_default();
        measured.push((name.to_owned(), median(times_us)));
    }
    let lists = contract::lists()?;
    let mut first_pages = vec![];
    for list in &lists {
        first_pages.push(Page::open(suite, list, tenant, 1).await?);
    }
    let times_us = pages::p50_us(&first_pages).await?;
    measured.extend(lists.iter().map(contract::List::name).zip(times_us));
    Ok(measured)
}
