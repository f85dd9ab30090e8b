//! Examples of the contract (`tenantry.policy.v1.rule`): canonical JSON in both directions, and calls with
//! `grpcurl`.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use chassis::rule::Rules;
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};
use serde_json::Deserializer;
use testkit::Suite;

/// Lowest exit code of `grpcurl` that is a gRPC status code plus 64. Lower exit codes are errors of `grpcurl`
/// itself, such as JSON that does not match the request.
const GRPCURL_STATUS_MIN: i32 = 64;

/// Methods (`package.Service/Method`) with the examples of their requests.
fn examples() -> Vec<(String, String)> {
    let rules = Rules::load(api::DESCRIPTORS).unwrap();
    rules.iter().map(|rule| (rule.method.clone(), rule.example.clone())).collect()
}

#[test]
fn examples_are_canonical_json_of_their_requests() {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let strict = DeserializeOptions::new().deny_unknown_fields(true);
    for (method, example) in examples() {
        let (service, name) = method.split_once('/').unwrap();
        let service = pool.get_service_by_name(service).unwrap();
        let request = service.methods().find(|it| it.name() == name).unwrap().input();
        let parse = |text: &str| {
            let mut json = Deserializer::from_str(text);
            let message =
                DynamicMessage::deserialize_with_options(request.clone(), &mut json, &strict);
            json.end().unwrap_or_else(|error| panic!("{method}: {error} in {text}"));
            message.unwrap_or_else(|error| panic!("{method}: {error} in {text}"))
        };
        let message = parse(&example);
        let mut json = vec![];
        let mut serializer = serde_json::Serializer::new(&mut json);
        message.serialize_with_options(&mut serializer, &SerializeOptions::new()).unwrap();
        let json = String::from_utf8(json).unwrap();
        // Compares the encodings instead of the JSON, because the example may contain explicit default
        // values.
        assert_eq!(parse(&json).encode_to_vec(), message.encode_to_vec(), "{method}: {json}");
    }
}

/// Converts an example to the JSON that `grpcurl` reads. It does not support the canonical form of a field
/// mask (a text with commas), so a mask becomes an object with the field `paths`.
fn for_grpcurl(example: &str) -> String {
    let mut request: serde_json::Value = serde_json::from_str(example).unwrap();
    if let Some(mask) = request.get_mut("update_mask").filter(|mask| mask.is_string()) {
        let paths: Vec<_> = mask.as_str().unwrap().split(',').map(snake_case).collect();
        *mask = serde_json::json!({ "paths": paths });
    }
    request.to_string()
}

/// Converts the JSON name of a field to its name in the message: `autoDeploy` to `auto_deploy`.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

/// `grpcurl` accepts the example of every method: each call ends with a gRPC status, none with an error in
/// the JSON. Checks nothing if `grpcurl` is not in the `PATH`, and says so in the output of the test run.
#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_accepts_every_example() {
    let version = Command::new("grpcurl").arg("-version").stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        // Not `eprintln!`, whose output the test harness shows for failed tests only.
        let warning =
            "WARNING: grpcurl is not installed; grpcurl_accepts_every_example checks nothing\n";
        std::io::stderr().write_all(warning.as_bytes()).unwrap();
        return;
    }
    let suite = Suite::start().await;
    let folder = tempfile::tempdir().unwrap();
    let protoset = folder.path().join("contract.binpb");
    std::fs::write(&protoset, api::DESCRIPTORS).unwrap();
    let mut violations = vec![];
    for (method, example) in examples() {
        let example = for_grpcurl(&example);
        let mut command = tokio::process::Command::new("grpcurl");
        command.args(["-plaintext", "-format", "json", "-max-time", "20", "-protoset"]);
        command.arg(&protoset).args(["-d", &example, &suite.address.to_string(), &method]);
        let output = command.output().await.unwrap();
        let code = output.status.code().unwrap();
        if code != 0 && code < GRPCURL_STATUS_MIN {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            violations.push(format!("{method} {example}: exit code {code}: {error}"));
        }
    }
    suite.finish().await;
    assert!(violations.is_empty(), "grpcurl rejects examples:\n{}", violations.join("\n"));
}
