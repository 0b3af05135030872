//! `KEYBRAKE_<SECTION>__<KEY>` from the environment, over the file.

use toml::{Table, Value};

use super::{Config, ConfigError};

/// Applies the overrides to `written`, which is `text` parsed. Variables without `__` are not
/// overrides: `KEYBRAKE_ADMIN_TOKEN` and the like have meanings of their own.
pub(super) fn apply(
    written: Config,
    text: &str,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let mut table: Option<Table> = None;
    for (variable, value) in environment {
        let Some((section, key)) = variable.strip_prefix("KEYBRAKE_").and_then(|name| name.split_once("__"))
        else {
            continue;
        };
        let refuse = |problem: &str| Err(ConfigError::value(variable.clone(), problem));
        let section = section.to_ascii_lowercase();
        if section == "vendor" {
            return refuse("vendors cannot be set from the environment; use the file");
        }
        let table = match &mut table {
            Some(table) => table,
            none => none.insert(text.parse().map_err(|error: toml::de::Error| ConfigError::syntax(&error))?),
        };
        let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        let Some(section) = section.as_table_mut() else {
            return refuse(
                "does not name a section; sections are proxy, admin, data, durability, prices, issue and audit",
            );
        };
        section.insert(key.to_ascii_lowercase(), literal(&value));
    }
    match table {
        None => Ok(written),
        Some(table) => table.try_into().map_err(|error: toml::de::Error| {
            ConfigError::Syntax(format!(
                "in a KEYBRAKE_<SECTION>__<KEY> variable: {}",
                ConfigError::syntax(&error)
            ))
        }),
    }
}

/// Numbers and booleans as such, everything else as a text.
fn literal(value: &str) -> Value {
    if let Ok(number) = value.parse() {
        return Value::Integer(number);
    }
    if let Ok(truth) = value.parse() {
        return Value::Boolean(truth);
    }
    Value::String(value.to_owned())
}
