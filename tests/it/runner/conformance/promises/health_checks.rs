//! Promises about health checks of a program that responds late: http.server of Python, which prints a stack
//! trace when its client closes a connection before the response is complete.

use std::sync::atomic::{AtomicBool, Ordering};

use api::project::{Observed, TaskKind};
use testkit::eventually;

use super::Bench;
use crate::support::hosting::visit;

/// Beginning of a server: `errors` is the number of connections that a client has closed too early.
const HEADER: &str = r"import http.server, os, sys, time
errors = requests = answered = 0
class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client):
        global errors
        errors += 1
        super().handle_error(request, client)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global requests, answered
        requests += 1
";

const FOOTER: &str = r#"
print("the cause: no database", file=sys.stderr, flush=True)
Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// Commits a server with this body of `do_GET`.
fn commit(bench: &Bench, handler: &str, timeout_s: u32) {
    let indented = handler.lines().map(|it| format!("        {it}\n")).collect::<String>();
    bench.repository.write("server.py", &format!("{HEADER}{indented}{FOOTER}"));
    bench.commit_with_timeout("late", "true", "exec python3 -u server.py", timeout_s);
}

/// The quoted output of a program that never was healthy has its own lines, and no errors about connections
/// that the checks have closed.
pub(in super::super) async fn a_failing_health_check_adds_no_error_to_the_output(bench: &Bench) {
    let handler = r#"self.send_response(500); self.end_headers(); self.wfile.flush()
time.sleep(0.5)
for _ in range(3): self.wfile.write(b"x" * 100000)"#;
    commit(bench, handler, 4);
    let error = bench.play(&bench.lease(TaskKind::Deploy, &bench.environment())).await.error();
    assert!(error.contains("health check failed with HTTP status 500"), "{error}");
    assert!(error.contains("the cause: no database"), "{error}");
    assert!(!error.contains("Traceback") && !error.contains("Exception"), "{error}");
}

/// A check of a running program that is not answered in time makes it unhealthy, and its late response is
/// read.
pub(in super::super) async fn a_late_response_to_a_check_is_no_error_of_the_program(bench: &Bench) {
    let handler = r#"body = b"x" * 100000
if self.path == "/counts": body = f"{answered} {errors}".encode()
elif requests > 1: time.sleep(3)
self.send_response(200); self.end_headers()
for _ in range(3 if self.path == "/" else 1): self.wfile.write(body)
answered += self.path == "/""#;
    commit(bench, handler, 2);
    let id = bench.environment();
    let (_, url) = bench.deploy(&id).await;
    let was_unhealthy = AtomicBool::new(false);
    eventually("an unhealthy report, and three late responses", async || {
        let report = bench.report(&id).await;
        assert_eq!(report.observed(), Observed::Running);
        was_unhealthy.fetch_or(!report.http_ok, Ordering::Relaxed);
        let counts = visit(&url, "/counts").await?;
        let (answered, errors) = counts.split_once(' ').unwrap();
        assert_eq!(errors, "0", "connections that were closed too early");
        (was_unhealthy.load(Ordering::Relaxed) && answered.parse::<u32>().unwrap() > 3)
            .then_some(())
    })
    .await;
}
