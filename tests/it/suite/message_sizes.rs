//! Every request and response at its largest size: all texts and lists at their declared bounds. A message
//! that is accepted piece by piece must fit as a whole, or a call could never succeed.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_reflect::DescriptorPool;

use super::event_sizes::Largest;

/// Largest message that servers and clients accept, in bytes (the default of tonic).
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Messages whose declared bounds together exceed [`MESSAGE_BYTES_MAX`], each with the sum that limits them.
const LIMITED_BY_SUM: [(&str, &str); 1] = [(
    "tenantry.project.v1.SetVariablesRequest",
    "`variable::VARIABLES_BYTES_MAX` of the rules, checked when variables are set",
)];

/// Requests and responses fit into a message at their declared bounds. Texts and lists without a bound are
/// left out: they are those of runners, whose sums the runner limits, and pages, whose number of rows the
/// server limits.
#[test]
fn every_message_fits_at_its_largest() {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let services = pool.services().filter(|it| it.package_name().starts_with("tenantry."));
    let methods = services.flat_map(|it| it.methods().collect::<Vec<_>>());
    let messages = methods.flat_map(|it| [it.input(), it.output()]);
    let messages: BTreeMap<_, _> = messages.map(|it| (it.full_name().to_owned(), it)).collect();
    let exceptions = BTreeMap::from(LIMITED_BY_SUM);
    let mut unused: BTreeSet<_> = exceptions.keys().copied().collect();
    let mut too_large = vec![];
    for (name, message) in &messages {
        let size = Largest::default().message(message).encoded_len();
        if size > MESSAGE_BYTES_MAX && !unused.remove(name.as_str()) {
            too_large.push(format!("{name}: {size} bytes"));
        }
    }
    assert!(too_large.is_empty(), "messages that can exceed the limit: {too_large:#?}");
    assert!(unused.is_empty(), "messages that no longer need an exception: {unused:?}");
}

/// A lease with the largest accepted variables, and the largest of every other part, fits into a message.
#[test]
fn a_lease_fits_with_the_largest_variables() {
    let text = |length| "x".repeat(length);
    let value = text(project_rules::variable::VARIABLES_BYTES_MAX / 200);
    let variable = api::project::Variable { name: text(128), value, secret: true };
    let builtin = api::project::Variable { name: text(128), value: text(50 * 65), secret: true };
    let provision = api::project::Provision {
        addon_key: text(50),
        name: text(64),
        password: text(64),
        variable: text(128),
        settings: vec![builtin.clone(); 50],
        remove: false,
    };
    let credential = api::project::RepositoryCredential {
        scope: text(2_048),
        username: text(256),
        password: text(4_096),
    };
    let lease = api::project::Lease {
        repository_url: text(4 * 2_048),
        branch: text(4 * 255),
        variables: [vec![variable; 200], vec![builtin; 4]].concat(),
        provisions: vec![provision; 10],
        repository_credential: Some(credential),
        server_address: text(4 * 255),
        ..api::project::Lease::default()
    };
    let size = api::project::LeaseTaskResponse { lease: Some(lease) }.encoded_len();
    assert!(size < MESSAGE_BYTES_MAX / 2, "{size} bytes");
}
