//! Tests of the capacity, quota and reachability of servers.

use super::*;

fn server() -> Server {
    let draft = Draft {
        name: "eu-1".to_owned(),
        address: "eu-1.example.com".to_owned(),
        capacity: Some(Resources { cpu_millis: 2_000, memory_mb: 4_096, disk_gb: 40 }),
    };
    let quota = ServerQuota { count: 0, limit: None };
    let now = OffsetDateTime::UNIX_EPOCH;
    let connected = Server::connect(OrgId::new(), ServerId::new(), draft, vec![], quota, now);
    connected.unwrap().state().clone()
}

/// PE-19: CPU, memory and disk are each limited by the capacity that the other environments leave.
#[test]
fn an_environment_needs_available_capacity() {
    let server = server();
    let half = Resources { cpu_millis: 1_000, memory_mb: 2_048, disk_gb: 20 };
    let allocated = Allocated { cpu_millis: 1_000, memory_mb: 2_048, disk_gb: 20, environments: 1 };
    assert_eq!(server.require_capacity(half, allocated), Ok(()));
    let refused =
        server.require_capacity(Resources { memory_mb: 2_049, ..half }, allocated).unwrap_err();
    assert_eq!(
        refused,
        Refused::InsufficientCapacity { resource: "memory_mb", requested: 2_049, available: 2_048 }
    );
    assert!(server.require_capacity(Resources { cpu_millis: 1_001, ..half }, allocated).is_err());
    assert!(server.require_capacity(Resources { disk_gb: 21, ..half }, allocated).is_err());
    let unlimited = Server { cpu_millis: None, ..server };
    assert_eq!(
        unlimited.require_capacity(Resources { cpu_millis: 32_000, ..half }, allocated),
        Ok(())
    );
}

/// PL-18, PL-19.
#[test]
fn a_plan_limits_the_number_of_servers_and_a_used_server_is_not_removed() {
    let draft = Draft { name: "a".to_owned(), address: "a".to_owned(), capacity: None };
    let quota = ServerQuota { count: 1, limit: Some(1) };
    let now = OffsetDateTime::UNIX_EPOCH;
    let refused = Server::connect(OrgId::new(), ServerId::new(), draft, vec![], quota, now);
    assert_eq!(refused.unwrap_err(), Refused::Limit(1));
    assert_eq!(server().remove(2).unwrap_err(), Refused::InUse(2));
    assert!(server().remove(0).is_ok());
}

/// PE-21, PL-20.
#[test]
fn a_server_without_heartbeats_is_unreachable() {
    let mut server = server();
    let now = OffsetDateTime::UNIX_EPOCH;
    assert_eq!(server.require_reachable(now), Err(Refused::Unreachable(Some(server.id))));
    server.last_seen_at = Some(now);
    assert_eq!(server.require_reachable(now), Ok(()));
}
