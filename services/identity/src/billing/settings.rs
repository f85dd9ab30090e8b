//! Settings of the billing provider, checked at the start.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, ensure};
use chassis::{BillingProvider, Config};
use identity_rules::{
    billing::{ProviderKind, Terms},
    organization::Plan,
    types::StoredText,
};
use secrecy::SecretString;
use time::Duration;

/// Settings of billing.
pub(crate) struct Settings {
    pub(crate) terms: Terms,
    /// Length of the trial of a first checkout; 0 for none.
    pub(crate) trial_days: u32,
    /// `None` if there is no provider.
    pub(crate) stripe: Option<StripeSettings>,
}

/// The account of this deployment at Stripe.
pub(crate) struct StripeSettings {
    pub(crate) url: String,
    pub(crate) key: SecretString,
    /// True if the key is of the live mode, false for the test mode.
    pub(crate) livemode: bool,
    /// Secrets of the webhook endpoint; several while one is replaced.
    pub(crate) webhook_secrets: Vec<SecretString>,
    /// Ids of prices by plan.
    pub(crate) prices: BTreeMap<&'static str, String>,
    /// URL to which the pages of Stripe return.
    pub(crate) return_url: String,
}

impl Settings {
    /// Reads the settings, with the files of secrets.
    pub(crate) fn read(config: &Config) -> anyhow::Result<Self> {
        let seat_plans = config.stripe_seat_plans.iter().map(|it| plan("--stripe-seat-plans", it));
        let stripe = match config.billing_provider {
            BillingProvider::None => None,
            BillingProvider::Stripe => Some(StripeSettings::read(config)?),
        };
        let provider = if stripe.is_some() { ProviderKind::Stripe } else { ProviderKind::None };
        let terms = Terms {
            provider,
            grace: Duration::days(config.billing_grace_days.into()),
            seat_plans: seat_plans.collect::<anyhow::Result<_>>()?,
        };
        Ok(Self { terms, trial_days: config.billing_trial_days, stripe })
    }
}

impl StripeSettings {
    fn read(config: &Config) -> anyhow::Result<Self> {
        let key = config.stripe_key_file.as_deref();
        let key = key.context("--billing-provider stripe needs --stripe-key-file")?;
        let key = read_secrets(key)?.swap_remove(0);
        let livemode = ["sk_live_", "rk_live_"].iter().any(|it| key.starts_with(it));
        let is_test = ["sk_test_", "rk_test_"].iter().any(|it| key.starts_with(it));
        ensure!(
            livemode || is_test,
            "--stripe-key-file must have a secret key (sk_…) or a restricted key (rk_…)"
        );
        let secrets = config.stripe_webhook_secret_file.as_deref();
        let secrets =
            secrets.context("--billing-provider stripe needs --stripe-webhook-secret-file")?;
        let mut prices = BTreeMap::new();
        for entry in &config.stripe_prices {
            let pair = entry.split_once('=');
            let (name, price) = pair.with_context(|| {
                format!(
                    "--stripe-prices has {entry:?}; use for example starter=price_1,pro=price_2"
                )
            })?;
            prices.insert(plan("--stripe-prices", name)?.as_text(), price.trim().to_owned());
        }
        ensure!(!prices.is_empty(), "--billing-provider stripe needs --stripe-prices");
        ensure!(
            !prices.contains_key(Plan::Free.as_text()),
            "--stripe-prices must have no price for the plan free"
        );
        let url = reqwest::Url::parse(&config.stripe_url).context("--stripe-url is not a URL")?;
        let is_loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        ensure!(url.scheme() == "https" || is_loopback, "--stripe-url must use https");
        Ok(Self {
            url: config.stripe_url.trim_end_matches('/').to_owned(),
            key: key.into(),
            livemode,
            webhook_secrets: read_secrets(secrets)?.into_iter().map(Into::into).collect(),
            prices,
            return_url: config.billing_return_url.clone().unwrap_or_else(|| config.base_url()),
        })
    }
}

/// Reads the lines of a file of secrets; at least one.
fn read_secrets(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|it| !it.is_empty());
    let secrets: Vec<_> = lines.map(str::to_owned).collect();
    ensure!(!secrets.is_empty(), "{} is empty", path.display());
    Ok(secrets)
}

/// Parses the name of a plan in a setting.
fn plan(setting: &str, name: &str) -> anyhow::Result<Plan> {
    Plan::parse_text(name.trim()).with_context(|| {
        format!("{setting} has the unknown plan {name:?}; use starter, pro or agency")
    })
}
