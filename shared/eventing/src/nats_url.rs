//! The setting `--nats-url`: one or several servers, and the credentials in their URLs.

use anyhow::{Context, ensure};
use async_nats::{ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;

/// Servers of a NATS cluster.
pub(super) struct NatsUrl {
    pub(super) servers: Vec<ServerAddr>,
    credentials: Credentials,
}

/// Credentials of a connection.
#[derive(PartialEq, Eq)]
enum Credentials {
    None,
    Token(String),
    Password { user: String, password: String },
}

impl NatsUrl {
    /// Parses URLs with commas between them. Credentials are taken from the first URL that has any; they are
    /// percent-encoded (RFC 3986): `nats://user:pass%40word@host` or `nats://token@host`.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut servers = vec![];
        for url in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
            // Without the URL in the message, because it can have a password.
            servers.push(url.parse::<ServerAddr>().context(
                "--nats-url has an invalid URL; use for example nats://127.0.0.1:4222, and commas between \
                 several servers",
            )?);
        }
        ensure!(!servers.is_empty(), "--nats-url is empty; use for example nats://127.0.0.1:4222");
        let mut credentials = Credentials::None;
        for server in servers.iter().rev() {
            credentials = match (server.username(), server.password()) {
                (Some(user), Some(password)) => {
                    Credentials::Password { user: decode(user)?, password: decode(password)? }
                }
                (Some(token), None) => Credentials::Token(decode(token)?),
                (None, _) => continue,
            };
        }
        Ok(Self { servers, credentials })
    }

    /// Adds the credentials to options.
    pub(super) fn authenticate(&self, options: ConnectOptions) -> ConnectOptions {
        match &self.credentials {
            Credentials::None => options,
            Credentials::Token(token) => options.token(token.clone()),
            Credentials::Password { user, password } => {
                options.user_and_password(user.clone(), password.clone())
            }
        }
    }

    /// Hosts and ports, without credentials.
    pub(super) fn addresses(&self) -> String {
        let addresses = self.servers.iter().map(|it| format!("{}:{}", it.host(), it.port()));
        addresses.collect::<Vec<_>>().join(", ")
    }
}

fn decode(text: &str) -> anyhow::Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded.context("the credentials in --nats-url are not UTF-8")?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_credentials_are_parsed() {
        let parse = |text: &str| NatsUrl::parse(text).unwrap();
        let cluster = parse("nats://ann:p%40ss@a:4222, nats://b");
        assert_eq!(cluster.addresses(), "a:4222, b:4222");
        let password =
            Credentials::Password { user: "ann".to_owned(), password: "p@ss".to_owned() };
        assert!(cluster.credentials == password);
        assert!(parse("nats://s3cret@a").credentials == Credentials::Token("s3cret".to_owned()));
        assert!(parse("a:1").credentials == Credentials::None);
        assert!(NatsUrl::parse(" , ").is_err());
    }

    #[test]
    fn an_error_does_not_have_the_password() {
        let error = NatsUrl::parse("nats://ann:hunter2@a:999999").err().unwrap();
        assert!(!format!("{error:#}").contains("hunter2"), "{error:#}");
    }
}
