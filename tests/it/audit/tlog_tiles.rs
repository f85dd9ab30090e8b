//! The log as C2SP tlog-tiles over HTTP: verification by an independent implementation, permissions,
//! statuses, and entries of which only the hash is shown.

use std::io::Read;

use api::identity::Plan;
use chassis::clock::Duration;
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use flate2::read::GzDecoder;
use reqwest::{Method, StatusCode};
use serde_json::json;
use sha2::{Digest, Sha256};
use testkit::{Options, Person, Suite, eventually};
use uuid::Uuid;
use verifier::note;

use crate::{
    identity::api_key_service::create_key,
    support::{
        audit_client::AuditClient,
        large_log::LargeLog,
        tampering::tamper,
        tiles_client::{TilesClient, index_path},
        world::World,
    },
};

/// Verifies a whole log with implementations of others, which share no code with the suite: the signature of
/// the checkpoint, the root over all entries, and each hash of all tiles.
async fn verify_independently(tiles: &TilesClient, key: &str) -> u64 {
    let checkpoint = tiles.get_ok("checkpoint").await;
    let verifier = signed_note::StandardVerifier::new(key).unwrap();
    let list = signed_note::VerifierList::new(vec![Box::new(verifier)]);
    let note = signed_note::Note::from_bytes(&checkpoint).unwrap();
    assert_eq!(note.verify(&list).unwrap().0.len(), 1);
    let text = String::from_utf8(checkpoint).unwrap();
    let mut lines = text.lines().skip(1);
    let size: u64 = lines.next().unwrap().parse().unwrap();
    let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    let mut hashes = vec![];
    for path in tiles_of("entries", size) {
        let bundle = tiles.get_ok(&path).await;
        let mut rest = &bundle[..];
        while let Some((length, following)) = rest.split_first_chunk() {
            let (entry, remaining) = following.split_at(u16::from_be_bytes(*length).into());
            hashes.push(Sha256::digest([&[0], entry].concat()).to_vec());
            tree.push(entry.to_vec());
            rest = remaining;
        }
    }
    assert_eq!(tree.len(), size);
    let root = data_encoding::BASE64.decode(lines.next().unwrap().as_bytes()).unwrap();
    assert_eq!(tree.root().as_bytes().as_slice(), root);
    for level in 0.. {
        let count = hashes.len() as u64;
        if count == 0 {
            break;
        }
        let mut found = vec![];
        for path in tiles_of(&level.to_string(), count) {
            found.extend(tiles.get_ok(&path).await);
        }
        assert_eq!(found, hashes.concat(), "level {level}");
        hashes = hashes.chunks_exact(256).map(subtree_root).collect();
    }
    size
}

/// Paths of all tiles of a level that has `count` hashes or entries.
fn tiles_of(level: &str, count: u64) -> Vec<String> {
    let full = (0..count / 256).map(|it| format!("tile/{level}/{}", index_path(it)));
    let partial = (!count.is_multiple_of(256))
        .then(|| format!("tile/{level}/{}.p/{}", index_path(count / 256), count % 256));
    full.chain(partial).collect()
}

/// Root over the hashes of a full tile.
fn subtree_root(hashes: &[Vec<u8>]) -> Vec<u8> {
    if let [hash] = hashes {
        return hash.clone();
    }
    let (left, right) = hashes.split_at(hashes.len() / 2);
    Sha256::digest([&[1], &subtree_root(left)[..], &subtree_root(right)].concat()).to_vec()
}

/// foreign implementations verify a log with tiles of two levels by HTTP alone, also while it grows;
/// and the tree of the suite, if the operator publishes it.
#[tokio::test(flavor = "multi_thread")]
async fn an_independent_implementation_verifies_a_log_by_its_tiles() {
    let arguments = vec!["--audit-publish-suite=true".to_owned()];
    let suite = Suite::start_with(Options { arguments, ..Options::default() }).await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    // A plan that shows all entries of the large log.
    ann.change_plan(&org, Plan::Agency).await.unwrap();
    let log = AuditClient::new(&suite, &ann, &org).await;
    let key = verifier_key(&suite).await;
    let tiles = TilesClient::new(&suite, &ann, &org);
    log.checkpoint(&suite).await;
    let size = verify_independently(&tiles, &key).await;

    let large = LargeLog {
        org_id: Uuid::parse_str(&org).unwrap(),
        count: 700,
        actors: vec![Uuid::parse_str(&ann.user_id).unwrap()],
        projects: vec![Uuid::from_u128(7).to_string()],
    };
    let now = suite.clock.now();
    let suite = suite.restart(async |pool| large.write(pool, now).await).await;
    let ann = Person { client: suite.client.with_token(&ann.token), ..ann };
    let log = AuditClient::new(&suite, &ann, &org).await;
    let tiles = TilesClient::new(&suite, &ann, &org);
    let larger = eventually("a checkpoint of the large log", async || {
        log.newest_checkpoint().await.filter(|it| it.size >= size + 700)
    });
    let larger = larger.await;
    assert_eq!(verify_independently(&tiles, &key).await, larger.size);
    // Growth: the partial tiles of the former size are still there.
    ann.create_organization("other").await.unwrap();
    let before = tiles.get_ok(&format!("tile/0/{}.p/{}", index_path(2), larger.size % 256)).await;
    for name in ["One", "Two"] {
        let create = json!({ "orgId": org, "name": name });
        ann.call_ok("identity.v1.TeamService/CreateTeam", create).await;
    }
    let grown = eventually("a checkpoint with the new entries", async || {
        log.newest_checkpoint().await.filter(|it| it.size >= larger.size + 2)
    });
    grown.await;
    assert!(verify_independently(&tiles, &key).await >= larger.size + 2);
    let after = tiles.get_ok(&format!("tile/0/{}.p/{}", index_path(2), larger.size % 256)).await;
    assert_eq!(before, after);

    let public = TilesClient { token: None, ..TilesClient::new(&suite, &ann, "suite") };
    assert!(verify_independently(&public, &key).await > 3);
    let checkpoint = public.get(Method::GET, "checkpoint").await;
    assert_eq!(checkpoint.header("cache-control"), "public, no-cache");
    suite.stop_unchecked().await;
}

/// The verifier key of the log of a suite.
async fn verifier_key(suite: &Suite) -> String {
    let keys = suite.client.call_json("audit.v1.LogService/GetVerifierKeys", json!({})).await;
    keys.unwrap()["verifierKeys"][0].as_str().unwrap().to_owned()
}

/// The right to read is that of `GetCheckpoint`: AU-7, AU-17.
#[tokio::test(flavor = "multi_thread")]
async fn the_tiles_of_a_log_need_the_permission_to_list_it() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    log.checkpoint(&suite).await;
    let stranger = suite.person("stranger@example.com").await;
    let (reader, _) = create_key(&world, &world.owner, json!({ "name": "reader" })).await;
    let tiles = TilesClient::new(&suite, &world.owner, &world.org);
    let as_token = |token: &str| TilesClient { token: Some(token.to_owned()), ..tiles.clone() };
    for path in ["checkpoint", "tile/0/000.p/1", "tile/entries/000.p/1"] {
        for (token, status) in [
            (&world.owner.token, StatusCode::OK),
            (&world.admin.token, StatusCode::OK),
            // API keys do not read the log.
            (&reader.token, StatusCode::FORBIDDEN),
            (&world.developer.token, StatusCode::FORBIDDEN),
            (&world.viewer.token, StatusCode::FORBIDDEN),
            (&stranger.token, StatusCode::NOT_FOUND),
            (&"tny_ses_x".to_owned(), StatusCode::UNAUTHORIZED),
        ] {
            let found = as_token(token).get(Method::GET, path).await;
            assert_eq!(found.status, status, "{path}: {}", found.text());
        }
    }
    let nobody = TilesClient { token: None, ..tiles.clone() };
    let refused = nobody.get(Method::GET, "checkpoint").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refused.header("www-authenticate"), "Bearer");
    assert_eq!(refused.text(), "send a credential as `authorization: Bearer <token>`\n");
    // The trees of accounts and, unless it is published, of the suite.
    for log in [Uuid::nil().to_string(), Uuid::max().to_string(), "suite".to_owned()] {
        let found = TilesClient::new(&suite, &world.owner, &log);
        let found = found.get(Method::GET, "checkpoint").await;
        assert_eq!(found.status, StatusCode::NOT_FOUND, "{log}");
    }
    // The rate limit of an API key counts the requests of a minute, which lasts on a slow machine.
    suite.clock.stop();
    let reader = as_token(&reader.token);
    let mut refused = 0;
    let limited = loop {
        let answer = reader.get(Method::GET, "checkpoint").await;
        match answer.status {
            StatusCode::FORBIDDEN => refused += 1,
            _ => break answer,
        }
        assert!(refused < 130, "there is no limit");
    };
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS);
    assert!((1..=61).contains(&limited.header("retry-after").parse::<u32>().unwrap()));
    suite.finish().await;
}

/// Paths, statuses and headers of the specification.
#[tokio::test(flavor = "multi_thread")]
async fn paths_statuses_and_headers_are_those_of_the_specification() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let log = AuditClient::new(&suite, &ann, &org).await;
    let head = log.checkpoint(&suite).await;
    let tiles = TilesClient::new(&suite, &ann, &org);
    let checkpoint = tiles.get(Method::GET, "checkpoint").await;
    assert_eq!(note::open(&checkpoint.text(), &log.pins).unwrap(), head);
    assert_eq!(checkpoint.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(checkpoint.header("cache-control"), "private, no-cache");
    for (path, status) in [
        ("tile/0/001".to_owned(), StatusCode::NOT_FOUND),
        (format!("tile/0/000.p/{}", head.size + 1), StatusCode::NOT_FOUND),
        (format!("tile/entries/000.p/{}", head.size + 1), StatusCode::NOT_FOUND),
        ("tile/1/000.p/1".to_owned(), StatusCode::NOT_FOUND),
        ("tile/63/000.p/1".to_owned(), StatusCode::NOT_FOUND),
        ("tile/0/0".to_owned(), StatusCode::BAD_REQUEST),
        ("tile/0/000.p/0".to_owned(), StatusCode::BAD_REQUEST),
        ("tile/64/000.p/1".to_owned(), StatusCode::BAD_REQUEST),
        ("tile/entries/x000/000.p/1".to_owned(), StatusCode::BAD_REQUEST),
        ("tile/entries/000.p/1?first=1".to_owned(), StatusCode::BAD_REQUEST),
        (String::new(), StatusCode::BAD_REQUEST),
    ] {
        let refused = tiles.get(Method::GET, &path).await;
        assert_eq!(refused.status, status, "{path}");
        assert!(refused.text().len() > 20 && refused.text().ends_with('\n'), "{path}");
        assert_eq!(refused.header("cache-control"), "no-store");
    }
    let post = tiles.get(Method::PUT, "checkpoint").await;
    assert_eq!(post.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(post.header("allow"), "GET, HEAD");

    let path = format!("tile/entries/000.p/{}", head.size);
    let plain = tiles.get(Method::GET, &path).await;
    assert_eq!(plain.header("content-type"), "application/octet-stream");
    assert_eq!(plain.header("cache-control"), "private, max-age=60");
    let compressed = tiles.get_with(&path, "accept-encoding", "br, gzip").await;
    assert_eq!(compressed.header("content-encoding"), "gzip");
    assert_eq!(compressed.header("vary"), "accept-encoding");
    let mut body = vec![];
    GzDecoder::new(&compressed.body[..]).read_to_end(&mut body).unwrap();
    assert_eq!(body, plain.body);
    assert!(compressed.body.len() < plain.body.len());
    let unchanged = tiles.get_with(&path, "if-none-match", plain.header("etag")).await;
    assert_eq!((unchanged.status, unchanged.body.len()), (StatusCode::NOT_MODIFIED, 0));
    let head_only = tiles.get(Method::HEAD, &path).await;
    assert_eq!((head_only.status, head_only.body.len()), (StatusCode::OK, 0));
    assert_eq!(head_only.header("etag"), plain.header("etag"));
    let rest = tiles.get_ok(&format!("{path}?first=1")).await;
    assert!(plain.body.ends_with(&rest) && rest.len() < plain.body.len());
    suite.finish().await;
}

/// AU-9: a bundle with entries past the retention is refused; the refusal names these entries, and the others
/// are returned.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_has_no_entries_that_the_log_hides() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    let old = log.checkpoint(&suite).await;
    suite.clock.advance(Duration::days(31));
    let owner = world.owner.sign_in_again().await;
    let log = AuditClient { owner: owner.clone(), ..log };
    for n in 0..5 {
        let create = world.org_request(json!({ "name": format!("crew {n}") }));
        owner.call_ok("identity.v1.TeamService/CreateTeam", create).await;
    }
    let head = log.checkpoint(&suite).await;
    let tiles = TilesClient::new(&suite, &owner, &world.org);
    let bundle = format!("tile/entries/000.p/{}", head.size);
    let refused = tiles.get(Method::GET, &bundle).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    let hidden = format!("0-{}", old.size - 1);
    assert_eq!(refused.header("tenantry-hidden-entries"), hidden);
    let reason = format!(
        "entries 0 to {} are older than the retention of the plan, so only their hashes are available\n",
        old.size - 1
    );
    assert_eq!(refused.text(), reason);
    let visible = tiles.get_ok(&format!("{bundle}?first={}", old.size)).await;
    assert!(visible.windows(4).any(|it| it == b"crew"));
    let hashes = tiles.get_ok(&format!("tile/0/000.p/{}", head.size)).await;
    assert_eq!(hashes.len() as u64, 32 * head.size);

    // An entry that is missing for another reason is damage, with the quarantine of the log.
    let tree = format!("(select number from audit.tree where org_id = '{}')", world.org);
    let damage =
        format!("delete from audit.entry where tree = {tree} and index = {}", head.size - 1);
    tamper(&suite.pool, &[&damage]).await;
    let missing = tiles.get(Method::GET, &format!("{bundle}?first={}", old.size)).await;
    assert_eq!(missing.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", missing.text());
    assert!(missing.text().contains("is missing"), "{}", missing.text());
    let refused = tiles.get(Method::GET, "checkpoint").await;
    assert_eq!(refused.status, StatusCode::INTERNAL_SERVER_ERROR);
    suite.stop_unchecked().await;
}
