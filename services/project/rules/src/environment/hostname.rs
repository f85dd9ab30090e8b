//! Host names of environments: `<environment>-<project>.<apps domain>`, or with a suffix if another
//! environment has that one.

use chassis::hostname::{LABEL_BYTES_MAX, is_valid};
use data_encoding::BASE32_NOPAD;

use super::Environment;

/// Length of the suffix, without its hyphen.
const SUFFIX_BYTES: usize = 4;

/// Returns the host names that an environment may have, in order of preference. None if the domain is so long
/// that no host name below it is valid.
pub fn candidates(
    environment: &Environment,
    project_slug: &str,
    apps_domain: &str,
) -> impl Iterator<Item = String> + use<> {
    let label = label(&environment.name, project_slug);
    // The end of a UUIDv7 is random: 40 bits are eight characters, of which each position starts a suffix.
    let random = BASE32_NOPAD.encode(&environment.id.0.as_bytes()[11..]).to_lowercase();
    let starts = 0..=random.len() - SUFFIX_BYTES;
    let suffixes = starts.map(move |it| random[it..it + SUFFIX_BYTES].to_owned());
    let stem = cut(&label, LABEL_BYTES_MAX - SUFFIX_BYTES - 1);
    let suffixed = suffixes.map(move |suffix| format!("{stem}-{suffix}"));
    let labels = std::iter::once(cut(&label, LABEL_BYTES_MAX)).chain(suffixed);
    let domain = apps_domain.to_owned();
    labels.map(move |label| format!("{label}.{domain}")).filter(|it| is_valid(it))
}

/// Returns true if a host name is directly below a domain.
pub fn is_below(hostname: &str, domain: &str) -> bool {
    hostname.split_once('.').is_some_and(|(_, parent)| parent == domain)
}

fn label(environment: &str, project_slug: &str) -> String {
    let words = [words(environment), words(project_slug)].concat();
    if words.is_empty() { "environment".to_owned() } else { words.join("-") }
}

/// Splits a text into its lower-case words of ASCII letters and digits.
fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|it: char| !it.is_ascii_alphanumeric()).filter(|it| !it.is_empty());
    words.map(str::to_owned).collect()
}

/// Returns at most `bytes` bytes of a label of ASCII characters.
fn cut(label: &str, bytes: usize) -> String {
    label[..label.len().min(bytes)].trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::{State, lifecycle::tests::environment};

    fn first_two(name: &str, slug: &str, domain: &str) -> Vec<String> {
        let environment = Environment { name: name.to_owned(), ..environment(State::Pending) };
        candidates(&environment, slug, domain).take(2).collect()
    }

    #[test]
    fn the_host_name_consists_of_environment_and_project() {
        let names = first_two("Main Shop!", "web", "apps.example.com");
        assert_eq!(names[0], "main-shop-web.apps.example.com");
        let suffix = names[1].strip_prefix("main-shop-web-").unwrap();
        assert_eq!(suffix.find('.'), Some(SUFFIX_BYTES), "{suffix}");
        assert_eq!(first_two("测试", "shop", "a.test")[0], "shop.a.test");
        assert_eq!(first_two("测试", "", "a.test")[0], "environment.a.test");
    }

    /// Nothing of a name but letters, digits and single hyphens gets into a host name, so that no name is
    /// one of an encoded international domain (`xn--`).
    #[test]
    fn hostile_names_become_valid_labels() {
        for name in ["xn--80ak6aa92e", "a.b/c", "*", "{http.request.host}", "a\r\nb: c", "-", "🦀"]
        {
            for host in first_two(name, "shop", "apps.test") {
                assert!(is_valid(&host) && !host.contains("--"), "{name}: {host}");
                assert!(is_below(&host, "apps.test"), "{name}: {host}");
            }
        }
    }

    #[test]
    fn a_long_name_is_cut_to_a_label() {
        for host in first_two(&"long-".repeat(40), "shop", "apps.test") {
            let label = host.strip_suffix(".apps.test").unwrap();
            assert!(label.len() <= LABEL_BYTES_MAX && !label.ends_with('-'), "{label}");
        }
        let domain = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(50)].join(".");
        assert!(first_two("environment", "project", &domain).is_empty());
    }
}
