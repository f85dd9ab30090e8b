//! Field masks: the fields that an update changes (AIP-134).

use prost_types::FieldMask;

use crate::{Error, Result};

/// Returns the paths of a mask. Fails if the mask is empty or has a path that is not in `known` (PL-45).
pub fn paths<'a>(mask: Option<&'a FieldMask>, known: &[&str]) -> Result<Vec<&'a str>> {
    let paths: Vec<_> = mask.iter().flat_map(|it| &it.paths).map(String::as_str).collect();
    let has_unknown = paths.iter().any(|it| !known.contains(it));
    if paths.is_empty() || has_unknown {
        let description = format!("must name one or more of: {}", known.join(", "));
        return Err(Error::invalid("update_mask", description));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PL-45.
    #[test]
    fn a_mask_names_known_fields_and_at_least_one() {
        let mask =
            |paths: &[&str]| FieldMask { paths: paths.iter().map(|it| (*it).to_owned()).collect() };
        assert_eq!(paths(Some(&mask(&["name"])), &["name", "slug"]).unwrap(), ["name"]);
        assert!(paths(Some(&mask(&["id"])), &["name"]).is_err());
        assert!(paths(Some(&mask(&[])), &["name"]).is_err());
        assert!(paths(None, &["name"]).is_err());
    }
}
