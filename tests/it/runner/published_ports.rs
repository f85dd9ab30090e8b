//! Ports that a runner publishes for sandboxes (`--bind`): none is left by a runner that was killed, or by a
//! task that was cancelled.

use std::{path::Path, process::Command, sync::Arc};

use api::project::TaskKind;
use runner::{Settings, driver::Driver};
use testkit::eventually;

use super::conformance::{Technology, bench::Bench, settings};

/// Sandboxes whose programs are published at all addresses of the machine.
struct Published;

impl Technology for Published {
    async fn start(&self, folder: &Path) -> Option<Arc<dyn Driver>> {
        let bind = std::net::Ipv4Addr::UNSPECIFIED.into();
        let settings = Settings { bind, ..settings(folder, None) };
        Some(runner::process_driver(settings).await.unwrap())
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Address of an environment in the network of its runner.
fn address_of(environment: &str) -> String {
    let namespace = format!("tny-{}", &environment.replace('-', "")[16..]);
    let line = run("ip", &["-n", &namespace, "-4", "-o", "address", "show", "dev", "eth0"]);
    let address = line.split_whitespace().nth(3).expect("an address");
    address.split_once('/').expect("a prefix length").0.to_owned()
}

/// Published ports of the environment at an address.
fn published_ports(address: &str) -> Vec<u16> {
    let text = run("nft", &["list", "map", "inet", "tenantry", "published_everywhere"]);
    let (_, elements) = text.split_once("elements = {").unwrap_or_default();
    let elements = elements.split(['}', ',']).filter_map(|it| it.split_once(" : "));
    let own = elements.filter(|it| it.1.trim().starts_with(&format!("{address} . ")));
    own.map(|it| it.0.trim().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ports_of_ended_programs_are_released() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new(&Published).await.unwrap();
    let id = bench.environment();
    bench.commit("one", "true", "trap '' TERM; exec perl server.pl");
    bench.deploy(&id).await;
    let address = address_of(&id);
    let recorded = |bench: &Bench| bench.record(&id)["port"].as_u64().unwrap();
    assert_eq!(published_ports(&address).len(), 1);

    // The runner ends while the replaced version, which ignores SIGTERM, has not.
    bench.commit("two", "true", "exec perl server.pl");
    let lease = bench.lease(TaskKind::Deploy, &id);
    let replaced = eventually("a replaced version", async || {
        (!bench.record(&id)["previous"].is_null()).then_some(())
    });
    tokio::select! {
        played = bench.play(&lease) => panic!("the deployment ended: {}", played.log),
        () = replaced => {}
    }
    assert_eq!(published_ports(&address).len(), 2, "until the replaced version has ended");
    let bench = bench.with_next_runner(&Published).await.unwrap();
    let played = bench.play(&lease).await;
    assert!(played.log.contains("already running"), "{}", played.log);
    let ports = published_ports(&address);
    assert_eq!(ports.iter().map(|it| u64::from(*it)).collect::<Vec<_>>(), [recorded(&bench)]);

    // A deployment is cancelled while its program starts.
    bench.commit("three", "true", "exec sleep 600");
    let lease = bench.lease(TaskKind::Deploy, &id);
    let started =
        || eventually("a start", async || (published_ports(&address).len() == 2).then_some(()));
    tokio::select! {
        played = bench.play(&lease) => panic!("the deployment ended: {}", played.log),
        () = started() => {}
    }
    bench.driver.abandon(&lease).await.unwrap();
    assert_eq!(published_ports(&address), ports);

    // The environment is destroyed after its runner has ended during a start.
    tokio::select! {
        played = bench.play(&lease) => panic!("the deployment ended: {}", played.log),
        () = started() => {}
    }
    let bench = bench.with_next_runner(&Published).await.unwrap();
    bench.driver.destroy(&id).await.unwrap();
    assert_eq!(published_ports(&address), Vec::<u16>::new());
    bench.finish().await;
}
