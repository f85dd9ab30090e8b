//! Console output of the scenario: steps, calls and responses.

use std::{
    io::{Stdout, Write},
    sync::{Arc, Mutex, PoisonError},
};

use prost::{Message, Name};

use crate::client::{CallError, Client};

/// Maximum number of characters printed of a request or response.
const MESSAGE_CHARS_MAX: usize = 480;

/// Fields that are masked in the output.
const SECRET_FIELDS: [&str; 3] = ["password", "token", "link"];

/// Prints the scenario, or nothing.
#[derive(Clone)]
pub struct Console(Option<Arc<Mutex<Stdout>>>);

impl Console {
    /// Returns a console that prints to standard output.
    pub fn stdout() -> Self {
        Self(Some(Arc::new(Mutex::new(std::io::stdout()))))
    }

    /// Returns a console that prints nothing.
    pub fn quiet() -> Self {
        Self(None)
    }

    /// Prints a line.
    pub(super) fn print_line(&self, text: &str) {
        if let Some(stdout) = &self.0 {
            let mut stdout = stdout.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = writeln!(stdout, "{text}");
        }
    }

    /// Prints the heading of a step.
    pub(super) fn print_step(&self, number: u32, text: &str) {
        self.print_line(&format!("\n{number:>2}. {text}"));
    }

    /// Calls a method; prints request and response.
    pub(super) async fn call<Q, A>(
        &self,
        client: &Client,
        method: &str,
        request: Q,
    ) -> Result<A, CallError>
    where
        Q: Message + Name + 'static,
        A: Message + Name + Default + 'static,
    {
        self.print_line(&format!("    \u{2192} {method} {}", to_text(client, &request)));
        let result = client.call(method, request).await;
        match &result {
            Ok(response) => self.print_line(&format!("    \u{2190} {}", to_text(client, response))),
            Err(error) => self.print_line(&format!("    \u{2190} {error}")),
        }
        result
    }
}

/// Returns a message as JSON in one line, truncated, with masked secrets.
fn to_text<M: Message + Name>(client: &Client, message: &M) -> String {
    let Ok(mut json) = client.to_json(message) else { return String::new() };
    if let Some(fields) = json.as_object_mut() {
        for name in SECRET_FIELDS {
            if let Some(value) = fields.get_mut(name) {
                *value = mask(value.as_str().unwrap_or_default()).into();
            }
        }
    }
    let text = json.to_string();
    match text.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}\u{2026}", &text[..end]),
        None => text,
    }
}

/// Masks a secret; of the suite's own tokens, the prefix with their type stays visible.
fn mask(secret: &str) -> String {
    let prefix: String = secret.chars().take(8).collect();
    if prefix.starts_with("tny_") { format!("{prefix}\u{2026}") } else { "***".to_owned() }
}
