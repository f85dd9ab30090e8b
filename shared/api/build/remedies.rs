//! Code generator of the remedies of reasons (`tenantry.error.v1.remedies`). A remedy that is no method of
//! the contract fails the build.

use std::error::Error;

use prost_reflect::DescriptorPool;

/// Generates a function that returns the remedies of a reason.
pub fn generate(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let option = pool.get_extension_by_name("tenantry.error.v1.remedies");
    let option =
        option.ok_or("the descriptors do not contain the option tenantry.error.v1.remedies")?;
    let reasons = pool.get_enum_by_name("tenantry.error.v1.Reason");
    let reasons = reasons.ok_or("the contract has no enum tenantry.error.v1.Reason")?;
    let services: Vec<_> = pool.services().collect();
    let methods = services.iter().flat_map(|it| it.methods().collect::<Vec<_>>());
    let methods: Vec<_> =
        methods.map(|it| format!("{}/{}", it.parent_service().full_name(), it.name())).collect();
    let mut arms = String::new();
    for reason in reasons.values() {
        let options = reason.options();
        let remedies = options.get_extension(&option);
        let remedies = remedies.as_list().unwrap_or_default();
        let remedies: Vec<&str> = remedies.iter().filter_map(|it| it.as_str()).collect();
        if let Some(unknown) = remedies.iter().find(|it| !methods.contains(&(**it).to_owned())) {
            return Err(format!("{}: {unknown} is no method", reason.name()).into());
        }
        if !remedies.is_empty() {
            arms += &format!("        {} => &{remedies:?},\n", reason.number());
        }
    }
    Ok(format!(
        "/// Full names of the methods that remove the cause of a refusal; each of them is enough.\n\
         pub fn remedies(reason: error::Reason) -> &'static [&'static str] {{\n    \
         match i32::from(reason) {{\n{arms}        _ => &[],\n    }}\n}}\n"
    ))
}
