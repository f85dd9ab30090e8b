//! Which fields an update changes (AIP-134).

use prost_types::FieldMask;

use crate::{Error, Result};

/// The paths of a mask, if each of them can be updated. At least one must be named (PL-45).
pub fn paths<'a>(mask: Option<&'a FieldMask>, known: &[&str]) -> Result<Vec<&'a str>> {
    let paths: Vec<_> = mask.iter().flat_map(|it| &it.paths).map(String::as_str).collect();
    let wrong = paths.iter().any(|it| !known.contains(it));
    if paths.is_empty() || wrong {
        let description = format!("must name at least one of: {}", known.join(", "));
        return Err(Error::invalid("update_mask", description));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PL-45.
    #[test]
    fn a_mask_names_fields_that_there_are() {
        let mask =
            |paths: &[&str]| FieldMask { paths: paths.iter().map(|it| (*it).to_owned()).collect() };
        assert_eq!(paths(Some(&mask(&["name"])), &["name", "slug"]).unwrap(), ["name"]);
        assert!(paths(Some(&mask(&["id"])), &["name"]).is_err());
        assert!(paths(Some(&mask(&[])), &["name"]).is_err());
        assert!(paths(None, &["name"]).is_err());
    }
}
