//! Requests between the replicas of a service: request-reply of NATS, or inside one process without NATS. A
//! request has at most one responder, and may be lost; callers repeat it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow};
use async_nats::{RequestErrorKind, Subject};
use futures::StreamExt;
use prost::bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// Begin of all subjects. No stream of JetStream stores them.
const PREFIX: &str = "tenantry-replicas";

/// Queue group: one of several listeners to a subject gets a request.
const QUEUE_GROUP: &str = "replicas";

/// Number of requests that wait for a listener of this process.
const WAITING_MAX: usize = 16;

/// Sends requests to the replica that listens to a subject, which may be this one. Clones share the
/// transport.
#[derive(Clone, Default)]
pub struct ReplicaMessages {
    transport: Arc<OnceLock<Transport>>,
}

#[derive(Clone)]
pub(crate) enum Transport {
    Local(Arc<LocalListeners>),
    Nats(async_nats::Client),
}

/// Result of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Response {
    /// Payload of the response.
    Payload(Bytes),
    /// No replica listens to the subject.
    NoListener,
    /// There was no response in time. The listener may still process the request.
    TimedOut,
}

/// Listeners of this process, by subject.
#[derive(Default)]
pub(crate) struct LocalListeners(Mutex<HashMap<String, Vec<mpsc::Sender<IncomingRequest>>>>);

/// Receiver of the requests to a subject, until it is dropped.
pub struct Listener(Receiver);

enum Receiver {
    Local { requests: mpsc::Receiver<IncomingRequest>, _registration: Registration },
    Nats { client: async_nats::Client, messages: Box<async_nats::Subscriber> },
}

/// Removes a listener from the list when it is dropped.
struct Registration {
    listeners: Arc<LocalListeners>,
    subject: String,
}

/// A request that waits for its response.
pub struct IncomingRequest {
    /// Payload of the request.
    pub payload: Bytes,
    reply: Reply,
}

enum Reply {
    Local(oneshot::Sender<Bytes>),
    Nats { client: async_nats::Client, subject: Option<Subject> },
}

impl ReplicaMessages {
    /// Sets the transport: NATS, or this process without a client.
    pub(crate) fn start(&self, client: Option<async_nats::Client>) {
        let transport = client.map_or_else(|| Transport::Local(Arc::default()), Transport::Nats);
        let _ = self.transport.set(transport);
    }

    fn transport(&self) -> anyhow::Result<&Transport> {
        self.transport.get().context("requests between replicas are not started yet")
    }

    /// Sends a request to one listener of a subject: letters, digits, `-` and `.`. At most 512 KiB.
    pub async fn request(
        &self,
        subject: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> anyhow::Result<Response> {
        match self.transport()? {
            Transport::Local(listeners) => {
                let response = listeners.request(subject, payload);
                let response = tokio::time::timeout(timeout, response).await;
                Ok(response.unwrap_or(Response::TimedOut))
            }
            Transport::Nats(client) => {
                let subject = format!("{PREFIX}.{subject}");
                let request = async_nats::Request::new().payload(payload).timeout(Some(timeout));
                match client.send_request(subject, request).await {
                    Ok(message) => Ok(Response::Payload(message.payload)),
                    Err(error) => match error.kind() {
                        RequestErrorKind::NoResponders => Ok(Response::NoListener),
                        RequestErrorKind::TimedOut => Ok(Response::TimedOut),
                        _ => Err(anyhow!(error).context("NATS does not take a request")),
                    },
                }
            }
        }
    }

    /// Listens to a subject. Requests that are sent after the return are received.
    pub async fn listen(&self, subject: &str) -> anyhow::Result<Listener> {
        match self.transport()? {
            Transport::Local(listeners) => Ok(listeners.listen(subject)),
            Transport::Nats(client) => {
                let full = format!("{PREFIX}.{subject}");
                let messages = client.queue_subscribe(full, QUEUE_GROUP.to_owned()).await?;
                // The server knows the subscription when it has answered.
                client.flush().await.context("NATS does not take a subscription")?;
                let messages = Box::new(messages);
                Ok(Listener(Receiver::Nats { client: client.clone(), messages }))
            }
        }
    }
}

impl LocalListeners {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<mpsc::Sender<IncomingRequest>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(self: &Arc<Self>, subject: &str) -> Listener {
        let (sender, requests) = mpsc::channel(WAITING_MAX);
        self.lock().entry(subject.to_owned()).or_default().push(sender);
        let registration = Registration { listeners: self.clone(), subject: subject.to_owned() };
        Listener(Receiver::Local { requests, _registration: registration })
    }

    async fn request(&self, subject: &str, payload: Bytes) -> Response {
        let listener =
            self.lock().get(subject).and_then(|it| it.iter().find(|it| !it.is_closed()).cloned());
        let Some(listener) = listener else { return Response::NoListener };
        let (sender, response) = oneshot::channel();
        let request = IncomingRequest { payload, reply: Reply::Local(sender) };
        if listener.send(request).await.is_err() {
            return Response::NoListener;
        }
        response.await.map_or(Response::NoListener, Response::Payload)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut listeners = self.listeners.lock();
        if let Some(of_subject) = listeners.get_mut(&self.subject) {
            of_subject.retain(|it| !it.is_closed());
            if of_subject.is_empty() {
                listeners.remove(&self.subject);
            }
        }
    }
}

impl Listener {
    /// Returns the next request; `None` if there will be none any more. Cancel-safe.
    pub async fn next(&mut self) -> Option<IncomingRequest> {
        match &mut self.0 {
            Receiver::Local { requests, .. } => requests.recv().await,
            Receiver::Nats { client, messages } => {
                let message = messages.next().await?;
                let reply = Reply::Nats { client: client.clone(), subject: message.reply };
                Some(IncomingRequest { payload: message.payload, reply })
            }
        }
    }
}

impl IncomingRequest {
    /// Sends the response. The caller may be gone.
    pub async fn reply(self, payload: Bytes) {
        match self.reply {
            Reply::Local(sender) => drop(sender.send(payload)),
            Reply::Nats { client, subject: Some(subject) } => {
                if let Err(error) = client.publish(subject, payload).await {
                    tracing::debug!(%error, "no response to another replica");
                }
            }
            Reply::Nats { subject: None, .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    fn local() -> ReplicaMessages {
        let messages = ReplicaMessages::default();
        messages.start(None);
        messages
    }

    #[tokio::test]
    async fn a_request_has_the_response_of_one_listener() {
        let messages = local();
        let mut listener = messages.listen("a").await.unwrap();
        let respond = async {
            let request = listener.next().await.unwrap();
            let payload = [&request.payload[..], b"!"].concat();
            request.reply(payload.into()).await;
        };
        let request = messages.request("a", "one".into(), TIMEOUT);
        let (response, ()) = tokio::join!(request, respond);
        assert_eq!(response.unwrap(), Response::Payload("one!".into()));
    }

    #[tokio::test]
    async fn requests_without_a_listener_are_not_lost_silently() {
        let messages = local();
        let request = async || messages.request("a", "one".into(), TIMEOUT).await.unwrap();
        assert_eq!(request().await, Response::NoListener);
        let listener = messages.listen("a").await.unwrap();
        drop(listener);
        assert_eq!(request().await, Response::NoListener);
        let mut listener = messages.listen("a").await.unwrap();
        let ignore = async { drop(listener.next().await) };
        assert_eq!(tokio::join!(request(), ignore).0, Response::NoListener);
        let short = messages.request("a", "one".into(), Duration::from_millis(1)).await;
        assert_eq!(short.unwrap(), Response::TimedOut, "the listener takes none");
    }
}
