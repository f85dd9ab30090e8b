//! What fits on a server, and when it may go.

use super::*;

fn server() -> Server {
    let draft = Draft {
        name: "eu-1".to_owned(),
        address: "eu-1.example.com".to_owned(),
        capacity: Some(Room { cpu_millis: 2_000, memory_mb: 4_096, disk_gb: 40 }),
    };
    let (id, org_id, now) = (ServerId::new(), OrgId::new(), OffsetDateTime::UNIX_EPOCH);
    Server::connect(org_id, id, draft, vec![], (0, None), now).unwrap().state().clone()
}

/// PE-19: each of the three counts, and what is free is what is left.
#[test]
fn an_environment_fits_into_what_is_left() {
    let (server, half) = (server(), Room { cpu_millis: 1_000, memory_mb: 2_048, disk_gb: 20 });
    let taken = Allocated { cpu_millis: 1_000, memory_mb: 2_048, disk_gb: 20, environments: 1 };
    assert_eq!(server.has_room(half, taken), Ok(()));
    let refused = server.has_room(Room { memory_mb: 2_049, ..half }, taken).unwrap_err();
    assert_eq!(
        refused,
        Refused::Full { resource: "memory_mb", requested: 2_049, available: 2_048 }
    );
    assert!(server.has_room(Room { cpu_millis: 1_001, ..half }, taken).is_err());
    assert!(server.has_room(Room { disk_gb: 21, ..half }, taken).is_err());
    let unlimited = Server { cpu_millis: None, ..server };
    assert_eq!(unlimited.has_room(Room { cpu_millis: 32_000, ..half }, taken), Ok(()));
}

/// PL-18, PL-19.
#[test]
fn a_plan_has_room_for_so_many_and_one_in_use_stays() {
    let draft = Draft { name: "a".to_owned(), address: "a".to_owned(), capacity: None };
    let (id, org_id, now) = (ServerId::new(), OrgId::new(), OffsetDateTime::UNIX_EPOCH);
    let refused = Server::connect(org_id, id, draft, vec![], (1, Some(1)), now).unwrap_err();
    assert_eq!(refused, Refused::Limit(1));
    assert_eq!(server().remove(2).unwrap_err(), Refused::InUse(2));
    assert!(server().remove(0).is_ok());
}

/// PE-21, PL-20.
#[test]
fn a_server_that_never_called_takes_nothing() {
    let (mut server, now) = (server(), OffsetDateTime::UNIX_EPOCH);
    assert_eq!(server.reachable(now), Err(Refused::Unreachable(Some(server.id))));
    server.last_seen_at = Some(now);
    assert_eq!(server.reachable(now), Ok(()));
}
