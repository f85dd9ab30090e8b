//! Settings of the time for which rows are kept.

use clap::{Args, value_parser};

/// Days for which rows are kept. They are deleted together with those of the same week or four weeks, so
/// some are kept up to 28 days longer.
#[derive(Args, Clone, Copy, Debug)]
pub struct Retention {
    /// Days for which notifications in the application are kept.
    #[arg(long, env = "TENANTRY_NOTIFICATION_RETENTION_DAYS", default_value_t = 90,
          value_parser = value_parser!(u16).range(7..=3650))]
    pub notification_retention_days: u16,
    /// Days for which deliveries of webhooks are kept, and can be replayed.
    #[arg(long, env = "TENANTRY_WEBHOOK_DELIVERY_RETENTION_DAYS", default_value_t = 30,
          value_parser = value_parser!(u16).range(7..=3650))]
    pub webhook_delivery_retention_days: u16,
    /// Days for which the output of deployment tasks is kept. The tasks themselves stay with their project.
    #[arg(long, env = "TENANTRY_TASK_LOG_RETENTION_DAYS", default_value_t = 90,
          value_parser = value_parser!(u16).range(7..=3650))]
    pub task_log_retention_days: u16,
}
