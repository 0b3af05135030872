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
        let Some((first, key)) = variable.strip_prefix("KEYBRAKE_").and_then(|name| name.split_once("__"))
        else {
            continue;
        };
        let refuse = |problem: &str| Err(ConfigError::value(variable.clone(), problem));
        if first.eq_ignore_ascii_case("vendor") {
            return refuse("vendors cannot be set from the environment; use the file");
        }
        let table = match &mut table {
            Some(table) => table,
            none => none.insert(text.parse().map_err(|error: toml::de::Error| ConfigError::syntax(&error))?),
        };
        // `KEYBRAKE_PROXY__TLS__CERT_FILE` names a section in a section.
        let (inner, key) = key.rsplit_once("__").map_or((None, key), |(inner, key)| (Some(inner), key));
        let mut section = table;
        for name in std::iter::once(first).chain(inner.iter().flat_map(|inner| inner.split("__"))) {
            let entry = section.entry(name.to_ascii_lowercase());
            let Some(named) = entry.or_insert_with(|| Value::Table(Table::new())).as_table_mut() else {
                return refuse(
                    "does not name a section; sections are proxy, proxy.tls, limits, requests, admin, data, durability, prices, issue and audit",
                );
            };
            section = named;
        }
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
