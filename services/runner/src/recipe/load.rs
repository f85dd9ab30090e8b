//! Recipes of a runner: those of the suite, and those of a directory of the operator.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, ensure};

use super::{Recipe, RecipeRef, is_name};
use crate::settings::{RecipeImage, RecipeSettings};

/// Recipes of the suite, by name.
const EMBEDDED: [(&str, &str); 2] = [
    (super::ODOO, include_str!("../../recipes/odoo.toml")),
    ("tryton", include_str!("../../recipes/tryton.toml")),
];

/// Maximum number of files in the directory of the operator.
const FILES_MAX: usize = 1_000;

/// The recipes of a runner, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recipes(BTreeMap<String, Recipe>);

impl Recipes {
    /// Loads the recipes of the suite, and the `*.toml` files of the operator, which replace those with the
    /// same name. Fails at the first invalid file.
    pub(crate) fn load(settings: &RecipeSettings) -> Result<Self> {
        let mut recipes = BTreeMap::new();
        for (name, text) in EMBEDDED {
            let recipe =
                Recipe::parse(text).with_context(|| format!("the recipe {name} is not valid"))?;
            recipes.insert(name.to_owned(), recipe);
        }
        if let Some(directory) = &settings.directory {
            let context =
                || format!("the directory of recipes {} cannot be read", directory.display());
            for entry in std::fs::read_dir(directory).with_context(context)?.take(FILES_MAX) {
                let path = entry.with_context(context)?.path();
                if path.extension().is_none_or(|it| it != "toml") {
                    continue;
                }
                let recipe = read(&path);
                let (name, recipe) = recipe
                    .with_context(|| format!("the recipe {} is not valid", path.display()))?;
                recipes.insert(name, recipe);
            }
        }
        for RecipeImage { recipe: name, image } in &settings.images {
            let recipe = recipes.get_mut(name);
            let recipe = recipe
                .with_context(|| format!("there is no recipe {name} for the image {image}"))?;
            recipe.image.clone_from(image);
        }
        Ok(Self(recipes))
    }

    /// Returns a recipe that a repository or a project names.
    pub(crate) fn get(&self, reference: &RecipeRef) -> Result<&Recipe> {
        self.0.get(&reference.name).with_context(|| {
            let names: Vec<_> = self.0.keys().map(String::as_str).collect();
            let names = names.join(", ");
            format!("there is no recipe {}; this server has: {names}", reference.name)
        })
    }
}

/// Reads a recipe, whose name is that of its file.
fn read(path: &Path) -> Result<(String, Recipe)> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    ensure!(is_name(&name), "its name must consist of lower-case letters, digits and hyphens");
    let recipe = Recipe::parse(&std::fs::read_to_string(path)?)?;
    Ok((name, recipe))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(recipes: &Recipes, reference: &str) -> Result<String> {
        let reference = reference.parse()?;
        recipes.get(&reference)?.image(&reference)
    }

    #[test]
    fn the_recipes_of_the_suite_are_valid() {
        let recipes = Recipes::load(&RecipeSettings::default()).unwrap();
        assert_eq!(image(&recipes, "odoo:17.0").unwrap(), "odoo:17.0");
        assert_eq!(image(&recipes, "tryton").unwrap(), "tryton/tryton:7.0");
        let error = image(&recipes, "erpnext").unwrap_err().to_string();
        assert_eq!(error, "there is no recipe erpnext; this server has: odoo, tryton");
        let with_image = |text: &str| {
            let images = vec![text.parse().unwrap()];
            Recipes::load(&RecipeSettings { images, ..RecipeSettings::default() })
        };
        let recipes = with_image("odoo=registry.example.com/odoo:{version}").unwrap();
        assert_eq!(image(&recipes, "odoo:17.0").unwrap(), "registry.example.com/odoo:17.0");
        with_image("none=x").unwrap_err();
    }

    #[test]
    fn files_of_the_operator_add_and_replace_recipes() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let recipe = "image = \"own:1\"\n[processes]\nweb = \"exec serve\"\n";
        write("tryton.toml", recipe);
        write("shop.toml", recipe);
        write("README", "not a recipe");
        let load_from = |folder: &Path| {
            let directory = Some(folder.to_owned());
            Recipes::load(&RecipeSettings { directory, ..RecipeSettings::default() })
        };
        let load = || load_from(folder.path());
        let recipes = load().unwrap();
        for name in ["tryton", "shop"] {
            assert_eq!(image(&recipes, name).unwrap(), "own:1");
        }
        write("broken.toml", "image = \"own:1\"\nprot = 1\n");
        let error = format!("{:#}", load().unwrap_err());
        assert!(error.contains("broken.toml is not valid") && error.contains("line 2"), "{error}");
        let missing = load_from(&folder.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("cannot be read"), "{missing:#}");
    }
}
