//! Command line and environment variables of a program.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    io::Write,
    sync::OnceLock,
};

use clap::{ArgMatches, Command, Parser, error::ErrorKind};

/// Prefix of the environment variables of the suite.
const PREFIX: &str = "TENANTRY_";

/// Variables of `tenantry-runner`, of `tenantry demo` and of the tests. A machine can have the variables of
/// several programs.
const OTHER_PROGRAMS: &[&str] = &[
    "TENANTRY_AGENT_TOKEN",
    "TENANTRY_AGENT_TOKEN_FILE",
    "TENANTRY_DEMO_REPOSITORY",
    "TENANTRY_DEMO_WORK_DIR",
    "TENANTRY_ENDPOINT",
    "TENANTRY_MAIL_API",
    "TENANTRY_MAIL_DIR",
    "TENANTRY_RUNNER_DIR",
    "TENANTRY_RUNNER_REQUIRE_ISOLATION",
];

/// Smallest similarity (Jaro-Winkler, 0 to 1) of a name that is proposed for an unknown variable.
const SIMILARITY_MIN: f64 = 0.85;

/// Parses the command line and the environment variables of this process. Exits with an error message if they
/// are not valid.
///
/// A variable with an empty value counts as not set, because shells and compose files pass unset variables on
/// with an empty value. A flag with an empty value is refused. An unknown variable with the prefix of the
/// suite is reported on standard error.
pub fn parse<A: Parser>() -> A {
    let mut command = without_empty_variables(A::command());
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(flag) = flag_without_value(&arguments) {
        let message = format!("{flag} has an empty value; leave the flag out to use its default\n");
        command.error(ErrorKind::InvalidValue, message).exit();
    }
    let mut known: BTreeSet<_> = OTHER_PROGRAMS.iter().map(|it| (*it).to_owned()).collect();
    collect_variables(&command, &mut known);
    let names = std::env::vars_os().filter(|it| !it.1.is_empty()).map(|it| it.0);
    for warning in names.filter_map(|name| unknown_variable(&name, &known)) {
        let _ = writeln!(std::io::stderr(), "{}: warning: {warning}", command.get_name());
    }
    let matches = command.clone().get_matches_from(arguments);
    let _ = IN_EFFECT.set(settings(&command, &matches));
    A::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// A setting with its value, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name of the flag, without `--`.
    pub name: String,
    /// Value; [`SECRET`] for a secret.
    pub value: String,
}

/// Text in the place of a secret.
pub const SECRET: &str = "(secret)";

/// Settings of this process.
static IN_EFFECT: OnceLock<Vec<Setting>> = OnceLock::new();

/// Returns the settings of this process that have a value, from the command line, the environment or a
/// default.
pub fn in_effect() -> &'static [Setting] {
    IN_EFFECT.get().map(Vec::as_slice).unwrap_or_default()
}

/// Returns the settings of a command that have a value.
fn settings(command: &Command, matches: &ArgMatches) -> Vec<Setting> {
    let arguments = command.get_arguments().filter(|it| it.get_env().is_some());
    let setting = |it: &clap::Arg| {
        let values = matches.get_raw(it.get_id().as_str())?;
        let values: Vec<_> = values.map(|it| it.to_string_lossy()).collect();
        let value = if it.is_hide_env_values_set() { SECRET.to_owned() } else { values.join(",") };
        Some(Setting { name: it.get_long()?.to_owned(), value })
    };
    arguments.filter_map(setting).collect()
}

/// Detaches arguments from environment variables with an empty value.
#[expect(clippy::disallowed_methods, reason = "the values of the settings themselves")]
fn without_empty_variables(command: Command) -> Command {
    let command = command.mut_args(|argument| {
        let value = argument.get_env().and_then(std::env::var_os);
        if value.is_some_and(|it| it.is_empty()) { argument.env(None::<&str>) } else { argument }
    });
    command.mut_subcommands(without_empty_variables)
}

/// Returns the first flag whose value is empty.
fn flag_without_value(arguments: &[OsString]) -> Option<&str> {
    let inline = arguments.iter().filter_map(|it| it.to_str()).find_map(|it| it.strip_suffix('='));
    let flags = arguments.iter().zip(arguments.iter().skip(1));
    let separate = || flags.filter(|it| it.1.is_empty()).find_map(|it| it.0.to_str());
    inline.or_else(separate).filter(|it| it.starts_with("--"))
}

/// Adds the names of the environment variables of a command and its subcommands.
fn collect_variables(command: &Command, names: &mut BTreeSet<String>) {
    let variables = command.get_arguments().filter_map(|it| it.get_env()?.to_str());
    names.extend(variables.map(str::to_owned));
    for subcommand in command.get_subcommands() {
        collect_variables(subcommand, names);
    }
}

/// Returns a warning if a variable has the prefix of the suite and no program has such a setting.
fn unknown_variable(name: &OsStr, known: &BTreeSet<String>) -> Option<String> {
    let name = name.to_str().filter(|it| it.starts_with(PREFIX) && !known.contains(*it))?;
    // Without the prefix, which would make all names similar.
    let word = |it: &str| it.strip_prefix(PREFIX).unwrap_or(it).to_owned();
    let similarity = |it: &&String| strsim::jaro_winkler(&word(name), &word(it));
    let nearest = known.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let nearest = nearest.filter(|it| similarity(it) >= SIMILARITY_MIN);
    Some(match nearest {
        Some(nearest) => format!("{name} is not a setting; did you mean {nearest}?"),
        None => format!("{name} is not a setting"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_without_a_value_are_found() {
        let arguments = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(flag_without_value(&arguments("p --a=1 --b 2")), None);
        assert_eq!(flag_without_value(&arguments("p --a=")), Some("--a"));
        let mut separate = arguments("p --b");
        separate.push(OsString::new());
        assert_eq!(flag_without_value(&separate), Some("--b"));
    }

    #[test]
    fn unknown_variables_are_reported_with_the_nearest_name() {
        let known = BTreeSet::from(["TENANTRY_LISTEN".to_owned(), "TENANTRY_LOG_JSON".to_owned()]);
        let report = |name: &str| unknown_variable(OsStr::new(name), &known);
        assert_eq!(report("TENANTRY_LISTEN"), None);
        assert_eq!(report("PATH"), None);
        let misspelled = "TENANTRY_LISTN is not a setting; did you mean TENANTRY_LISTEN?";
        assert_eq!(report("TENANTRY_LISTN").unwrap(), misspelled);
        assert_eq!(report("TENANTRY_ZZZZ").unwrap(), "TENANTRY_ZZZZ is not a setting");
    }
}
