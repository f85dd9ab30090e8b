//! Page of the command line, from the definitions of its arguments.

use std::fmt::Write;

use clap::CommandFactory;

use super::markdown::{cell, wrap};

/// Name of a setting, which every command that takes settings has, and no other command.
const SETTING: &str = "drain_s_max";

/// Returns the page.
pub(super) fn page() -> String {
    let mut page = String::from(
        "# Command line\n\nThe program `tenantry`. Its settings, which are also those of the \
         services, are in\n[configuration](../operations/configuration.md).\n",
    );
    let mut command = crate::Arguments::command();
    command.build();
    section(&mut page, &command, "tenantry");
    page
}

/// Appends a section for each subcommand with its own arguments.
fn section(page: &mut String, command: &clap::Command, path: &str) {
    for command in
        command.get_subcommands().filter(|it| !it.is_hide_set() && it.get_name() != "help")
    {
        let path = format!("{path} {}", command.get_name());
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = write!(page, "\n## {path}\n\n{}\n", wrap(&format!("{about}.")));
        let has_settings = command.get_arguments().any(|it| it.get_id() == SETTING);
        let is_own = |it: &&clap::Arg| {
            let is_setting = has_settings && it.get_env().is_some();
            !is_setting && !["help", "version"].contains(&it.get_id().as_str())
        };
        if has_settings {
            *page += "\nTakes all settings.\n";
        }
        let arguments: Vec<_> = command.get_arguments().filter(is_own).collect();
        if !arguments.is_empty() {
            *page += "\n| Argument | Default | Meaning |\n|---|---|---|\n";
        }
        for argument in arguments {
            let name = argument
                .get_long()
                .map_or_else(|| argument.get_id().as_str().to_uppercase(), |it| format!("--{it}"));
            let help = argument.get_long_help().or(argument.get_help());
            let help = help.map(ToString::to_string).unwrap_or_default();
            let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
            let defaults: Vec<_> =
                argument.get_default_values().iter().filter_map(|it| it.to_str()).collect();
            let default = defaults.join(",");
            let default = if default.is_empty() { default } else { format!("`{default}`") };
            let _ = writeln!(page, "| `{name}` | {default} | {} |", cell(&words));
        }
        section(page, command, &path);
    }
}
