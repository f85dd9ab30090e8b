//! Shows the story as it goes, or keeps silent.

use std::{io::Write, sync::Arc};

use prost::{Message, Name};

use crate::client::{Client, Refusal};

/// The teller of the story.
#[derive(Clone)]
pub struct Voice(Option<Arc<std::sync::Mutex<std::io::Stdout>>>);

/// How much of an answer is shown.
const SHOWN_MAX: usize = 480;

impl Voice {
    /// Tells the story on standard output.
    pub fn loud() -> Self {
        Self(Some(Arc::new(std::sync::Mutex::new(std::io::stdout()))))
    }

    /// Tells nothing.
    pub fn silent() -> Self {
        Self(None)
    }

    /// A line.
    pub(super) fn say(&self, text: &str) {
        if let Some(out) = &self.0 {
            let mut out = out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let _ = writeln!(out, "{text}");
        }
    }

    /// A new step of the story.
    pub(super) fn step(&self, number: u32, text: &str) {
        self.say(&format!("\n{number:>2}. {text}"));
    }

    /// A call, shown with its answer.
    pub(super) async fn call<Q, A>(
        &self,
        client: &Client,
        method: &str,
        question: Q,
    ) -> Result<A, Refusal>
    where
        Q: Message + Name + 'static,
        A: Message + Name + Default + 'static,
    {
        self.say(&format!("    \u{2192} {method} {}", shown(client, &question)));
        let answer = client.call(method, question).await;
        match &answer {
            Ok(answer) => self.say(&format!("    \u{2190} {}", shown(client, answer))),
            Err(refusal) => self.say(&format!("    \u{2190} {refusal}")),
        }
        answer
    }
}

/// A message in one line, without its secrets.
fn shown<M: Message + Name>(client: &Client, message: &M) -> String {
    let Ok(mut json) = client.json(message) else { return String::new() };
    if let Some(fields) = json.as_object_mut() {
        for secret in ["password", "token", "link"] {
            if let Some(value) = fields.get_mut(secret) {
                let start: String = value.as_str().unwrap_or_default().chars().take(8).collect();
                *value = if start.starts_with("tny_") {
                    format!("{start}\u{2026}")
                } else {
                    "***".to_owned()
                }
                .into();
            }
        }
    }
    let text = json.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}\u{2026}", &text[..end]),
        None => text,
    }
}
