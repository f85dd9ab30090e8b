//! Registry of the services of the suite. Settings, certificates, deployment checks, tools and tests read
//! this list; a new service is a new entry.

use std::collections::BTreeMap;

/// A service of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name of its program, its database schema, its PostgreSQL role (`tenantry_<name>`), its NATS user and
    /// its certificate (`spiffe://tenantry/svc/<name>`).
    pub name: &'static str,
    /// URL at which other services call it, unless `--<name>-url` is set.
    pub default_url: &'static str,
    /// Protobuf packages that it serves.
    pub packages: &'static [&'static str],
}

/// Every service.
pub const SERVICES: &[Service] = &[
    Service {
        name: "identity",
        default_url: "https://identity:50051",
        packages: &["tenantry.identity.v1"],
    },
    Service {
        name: "project",
        default_url: "https://project:50051",
        packages: &["tenantry.project.v1"],
    },
    Service {
        name: "invitation",
        default_url: "https://invitation:50051",
        packages: &["tenantry.invitation.v1", "tenantry.notification.v1"],
    },
    Service { name: "audit", default_url: "https://audit:50051", packages: &["tenantry.audit.v1"] },
];

impl Service {
    /// True if it serves one of these gRPC services, given by full name (`tenantry.identity.v1.UserService`).
    pub fn serves_any(&self, grpc_services: &[&str]) -> bool {
        let package =
            |name: &str| name.rsplit_once('.').map(|it| it.0.to_owned()).unwrap_or_default();
        grpc_services.iter().any(|it| self.packages.contains(&package(it).as_str()))
    }
}

/// Returns the service with a name; fails with a list of the valid names.
pub fn find(name: &str) -> anyhow::Result<&'static Service> {
    SERVICES.iter().find(|it| it.name == name).ok_or_else(|| {
        let names: Vec<_> = SERVICES.iter().map(|it| it.name).collect();
        anyhow::anyhow!("unknown service {name:?}; the services are {}", names.join(", "))
    })
}

/// URLs of the services that run in other processes: one setting (`--<name>-url`) for each service.
#[derive(Clone, Debug)]
pub struct ServiceUrls(BTreeMap<&'static str, String>);

impl ServiceUrls {
    /// Returns the URL of a service.
    pub fn get(&self, service: &Service) -> &str {
        self.0.get(service.name).map_or(service.default_url, String::as_str)
    }
}

impl Default for ServiceUrls {
    fn default() -> Self {
        Self(SERVICES.iter().map(|it| (it.name, it.default_url.to_owned())).collect())
    }
}

impl clap::Args for ServiceUrls {
    fn augment_args(command: clap::Command) -> clap::Command {
        SERVICES.iter().fold(command, |command, service| {
            let help = format!(
                "URL of the {} service, if it runs in another process; several with commas between them. \
                 Calls are balanced over all addresses of their host names.",
                service.name
            );
            command.arg(
                clap::Arg::new(format!("{}_url", service.name))
                    .long(format!("{}-url", service.name))
                    .env(format!("TENANTRY_{}_URL", service.name.to_uppercase()))
                    .default_value(service.default_url)
                    .help(help)
                    .value_name(format!("{}_URL", service.name.to_uppercase())),
            )
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for ServiceUrls {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        let mut urls = Self::default();
        urls.update_from_arg_matches(matches)?;
        Ok(urls)
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        for service in SERVICES {
            if let Some(url) = matches.get_one::<String>(&format!("{}_url", service.name)) {
                self.0.insert(service.name, url.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_for_an_unknown_service_lists_the_valid_names() {
        assert_eq!(find("audit").unwrap().name, "audit");
        let error = find("billing").unwrap_err().to_string();
        assert!(error.contains("identity, project, invitation, audit"), "{error}");
    }

    #[test]
    fn a_package_belongs_to_one_service() {
        let services_of = |name: &str| {
            SERVICES
                .iter()
                .filter(|it| it.serves_any(&[name]))
                .map(|it| it.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(services_of("tenantry.notification.v1.WebhookService"), ["invitation"]);
        assert_eq!(services_of("tenantry.project.v1.TaskService"), ["project"]);
        assert_eq!(services_of("grpc.health.v1.Health"), Vec::<&str>::new());
    }
}
