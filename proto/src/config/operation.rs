//! `[[vendor.operation]]`: what a vendor can do that keybrake does not know by itself, and what it costs
//! (docs/other-vendors.md).

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Vendor};
use crate::catalog::configured::{self, CurrencyAt, Place, Unit};
use crate::catalog::currency::Currency;
use crate::catalog::{Catalog, pattern};
use crate::http1::{Method, encode};
use crate::money::Micros;

/// Operations of one vendor.
const OPERATIONS_MAX: usize = 2000;

/// Bytes of a vendor's name, which is the first segment of agents' URLs.
const NAME_BYTES_MAX: usize = 32;

/// First segments that are keybrake's own, or would hide a bare path.
const RESERVED: [&str; 9] =
    ["vault", "vault_keys", "v1", "v2", "livez", "readyz", "healthz", "metrics", "openapi.json"];

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// GET, POST, PUT, PATCH or DELETE.
    pub method: String,
    /// The vendor's own path, with `{name}` for each segment that is a parameter.
    pub path: String,
    /// How its cost is known.
    pub price: Kind,
    /// USD of one call (`fixed`) or of one unit (`units`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<String>,
    /// Where amount or units stand in the body: a parameter's name, or the way to a JSON member, as `payment.amount`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// In what the amount is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<UnitName>,
    /// The currency of the amount, always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// Where the currency stands in the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency_field: Option<String>,
    /// How many units there are where the body names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units_absent: Option<u32>,
    /// What the body is, where something is read from it.
    #[serde(default)]
    pub body: BodyForm,
    /// It hands out credentials or widens rights: only a rule that names it exactly allows it.
    #[serde(default)]
    pub escalates: bool,
    /// The vendor carries out a repeat under one `Idempotency-Key` once, for 24 hours at least.
    #[serde(default)]
    pub idempotent: bool,
}

/// How the cost of an operation is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It moves no money.
    Free,
    /// Nothing bounds it: denied under a cap, unless the key has `max_usd_per_call`.
    Unpriced,
    /// The same each time: `usd`.
    Fixed,
    /// The amount in `field`.
    Amount,
    /// The number in `field`, or the length of the list there, times `usd`.
    Units,
}

/// In what an amount is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitName {
    /// Minor units of its currency.
    Minor,
    /// Decimal USD.
    Usd,
}

/// What a body is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyForm {
    /// A JSON object.
    #[default]
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
}

/// What an operation costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Nothing.
    Free,
    /// Nobody knows.
    Unpriced,
    /// This.
    Known(configured::Cost),
}

impl Operation {
    /// Its method and its cost.
    ///
    /// # Errors
    /// The key and what to write.
    pub fn parse(&self) -> Result<(Method, Cost), ConfigError> {
        let refuse =
            |field: &str, problem: &str| Err(ConfigError::value(format!("operation.{field}"), problem));
        let Some(method) = Method::parse(self.method.as_bytes()) else {
            return refuse("method", "must be GET, POST, PUT, PATCH or DELETE, in capitals");
        };
        if !pattern::is_valid(&self.path) {
            return refuse(
                "path",
                "must be a path of the vendor's, such as /v1/messages/{id}, without a query",
            );
        }
        self.check_fields()?;
        if method == Method::Get && matches!(self.price, Kind::Amount | Kind::Units) {
            return refuse("price", "cannot be read from a GET, which has no body; write \"fixed\"");
        }
        let cost = match self.price {
            Kind::Free => Cost::Free,
            Kind::Unpriced => Cost::Unpriced,
            Kind::Fixed => Cost::Known(configured::Cost::Fixed(self.usd()?)),
            Kind::Units => Cost::Known(configured::Cost::Units {
                at: self.place("field", self.field.as_deref())?,
                each: self.usd()?,
                absent: self.units_absent.map(u64::from),
            }),
            Kind::Amount => Cost::Known(configured::Cost::Amount {
                at: self.place("field", self.field.as_deref())?,
                unit: self.unit()?,
            }),
        };
        Ok((method, cost))
    }

    /// A key that has no meaning beside this price is a mistake about it.
    fn check_fields(&self) -> Result<(), ConfigError> {
        let is_amount = self.price == Kind::Amount;
        let is_units = self.price == Kind::Units;
        for (field, is_there, has_meaning) in [
            ("usd", self.usd.is_some(), is_units || self.price == Kind::Fixed),
            ("field", self.field.is_some(), is_amount || is_units),
            ("unit", self.unit.is_some(), is_amount),
            ("currency", self.currency.is_some(), is_amount && self.unit != Some(UnitName::Usd)),
            ("currency_field", self.currency_field.is_some(), is_amount && self.unit != Some(UnitName::Usd)),
            ("units_absent", self.units_absent.is_some(), is_units),
        ] {
            if is_there && !has_meaning {
                return Err(ConfigError::value(
                    format!("operation.{field}"),
                    "has no meaning with this price; leave it out",
                ));
            }
        }
        Ok(())
    }

    fn usd(&self) -> Result<Micros, ConfigError> {
        let refuse = |problem: String| ConfigError::value("operation.usd", problem);
        let Some(text) = &self.usd else {
            return Err(refuse("is missing; write USD as a text, such as \"0.05\"".to_owned()));
        };
        match text.parse() {
            Ok(Micros::ZERO) => Err(refuse("must be above zero; write price = \"free\"".to_owned())),
            Ok(amount) => Ok(amount),
            Err(error) => Err(refuse(format!("\"{text}\" {error}"))),
        }
    }

    fn unit(&self) -> Result<Unit, ConfigError> {
        let refuse =
            |field: &str, problem: &str| Err(ConfigError::value(format!("operation.{field}"), problem));
        match (self.unit, &self.currency, &self.currency_field) {
            (None, ..) => refuse("unit", "is missing; write \"minor\" or \"usd\""),
            (Some(UnitName::Usd), ..) => Ok(Unit::Usd),
            (Some(UnitName::Minor), Some(code), None) => match Currency::parse(code) {
                Some(currency) => Ok(Unit::Minor(CurrencyAt::Fixed(currency))),
                None => refuse("currency", "must be a code of three letters"),
            },
            (Some(UnitName::Minor), None, Some(field)) => {
                Ok(Unit::Minor(CurrencyAt::Field(self.place("currency_field", Some(field))?)))
            }
            (Some(UnitName::Minor), ..) => refuse("currency", "give either currency or currency_field"),
        }
    }

    fn place(&self, key: &str, field: Option<&str>) -> Result<Place, ConfigError> {
        let field = field.unwrap_or_default();
        let problem = match self.body {
            BodyForm::Form => "must be the name of a parameter, such as amount or payment[amount]",
            BodyForm::Json => "must be the way to a member, such as payment.amount",
        };
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        let parts: Vec<String> = field.split('.').map(str::to_owned).collect();
        match self.body {
            BodyForm::Form if is_name(field) && !field.contains(['&', '=', '%', '+', ';']) => {
                Ok(Place::Form(field.to_owned()))
            }
            BodyForm::Json if parts.iter().all(|part| is_name(part)) => Ok(Place::Json(parts)),
            BodyForm::Form | BodyForm::Json => Err(ConfigError::value(format!("operation.{key}"), problem)),
        }
    }
}

/// A key of a `[[vendor]]` that keybrake knows by itself, which only others have.
pub(super) fn field_of_others(vendor: &Vendor) -> Option<&'static str> {
    [
        ("credential_header", vendor.credential_header.is_some()),
        ("credential_scheme", vendor.credential_scheme.is_some()),
        ("request_headers", !vendor.request_headers.is_empty()),
        ("free_reads", vendor.free_reads),
        ("operation", !vendor.operations.is_empty()),
    ]
    .into_iter()
    .find_map(|(field, is_there)| is_there.then_some(field))
}

/// Judges a vendor that only the configuration knows.
pub(super) fn check(vendor: &Vendor, key: &str) -> Result<(), ConfigError> {
    let refuse = |field: &str, problem: String| Err(ConfigError::value(format!("{key}.{field}"), problem));
    let name = &vendor.name;
    let is_name = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !RESERVED.contains(&name.as_str());
    if !is_name {
        return refuse(
            "name",
            format!("must be letters, digits and - in lower case, at most {NAME_BYTES_MAX}"),
        );
    }
    if vendor.operations.is_empty() {
        let problem = "is none that keybrake knows, so it needs [[vendor.operation]] sections";
        return refuse("name", format!("`{name}` {problem}; known: {}", Catalog::KNOWN));
    }
    if vendor.operations.len() > OPERATIONS_MAX {
        return refuse("operation", format!("there may be at most {OPERATIONS_MAX}"));
    }
    let slot = vendor.credential_header.as_deref().unwrap_or("Authorization");
    let is_slot = |name: &str| slot.eq_ignore_ascii_case(name);
    let may_pass = |name: &str| encode::may_forward(name.as_bytes()) && !name.contains('_');
    if !may_pass(slot) && !is_slot("authorization") {
        return refuse("credential_header", "must be the name of a header, such as X-Api-Key".to_owned());
    }
    let is_scheme =
        |scheme: &String| !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !vendor.credential_scheme.as_ref().is_none_or(is_scheme) {
        return refuse("credential_scheme", "must be one word, such as Bearer or Basic".to_owned());
    }
    if let Some(name) = vendor.request_headers.iter().find(|name| !may_pass(name) || is_slot(name)) {
        return refuse("request_headers", format!("`{name}` is no header that may pass to a vendor"));
    }
    let mut seen = HashSet::new();
    for (at, operation) in vendor.operations.iter().enumerate() {
        let (method, _) = operation.parse().map_err(|error| match error {
            ConfigError::Value { key: field, problem } => ConfigError::value(
                format!("{key}.{}", field.replacen("operation", &format!("operation[{at}]"), 1)),
                problem,
            ),
            other @ ConfigError::Syntax(_) => other,
        })?;
        if !seen.insert((method, shape(&operation.path))) {
            return refuse(&format!("operation[{at}].path"), format!("`{}` is there twice", operation.path));
        }
    }
    Ok(())
}

/// A path without the names of its parameters.
fn shape(path: &str) -> String {
    let segment = |segment: &str| match segment.split_once('}') {
        Some((_, ending)) => format!("{{}}{ending}"),
        None => segment.to_owned(),
    };
    path.split('/').map(segment).collect::<Vec<String>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};

    const VENDOR: &str = r#"
        [[vendor]]
        name = "acme"
        base_url = "https://api.acme.example"
        credential_header = "X-Api-Key"
        request_headers = ["Acme-Version"]
        free_reads = true
        [[vendor.operation]]
        method = "POST"
        path = "/v1/payments"
        price = "amount"
        field = "payment.amount"
        unit = "minor"
        currency_field = "payment.currency"
        [[vendor.operation]]
        method = "POST"
        path = "/v1/messages/{id}"
        price = "units"
        usd = "0.002"
        field = "to"
    "#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, std::iter::empty())
    }

    #[test]
    fn a_vendor_of_the_configurations_own_is_taken() {
        let config = parse(VENDOR).unwrap();
        assert_eq!(config.vendors[0].operations.len(), 2);
        let catalog = crate::catalog::Catalog::of_vendor(&config.vendors[0]).unwrap();
        assert_eq!((catalog.name, catalog.operations().len()), ("acme", 2));
    }

    #[test]
    fn each_mistake_is_named_with_what_to_write() {
        let refused = |from: &str, to: &str, words: &str| {
            let text = VENDOR.replacen(from, to, 1);
            assert_ne!(text, VENDOR, "{from}");
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(words), "{to}: {error}");
        };
        refused("\"acme\"", "\"Acme\"", "vendor[0].name: must be letters");
        refused("\"acme\"", "\"vault\"", "vendor[0].name: must be letters");
        refused(
            "\"acme\"",
            "\"stripe\"",
            "vendor[0].credential_header: is for vendors that keybrake does not know",
        );
        refused("\"POST\"", "\"Post\"", "vendor[0].operation[0].method: must be GET");
        refused("\"POST\"", "\"GET\"", "vendor[0].operation[0].price: cannot be read from a GET");
        refused("/v1/payments", "v1/payments", "vendor[0].operation[0].path: must be a path");
        refused("\"amount\"", "\"fixed\"", "vendor[0].operation[0].field: has no meaning");
        refused("unit = \"minor\"", "", "operation[0].unit: is missing");
        refused("unit = \"minor\"", "unit = \"cents\"", "unknown variant");
        refused("currency_field", "currency", "operation[0].currency: must be a code");
        refused("payment.amount", "payment..amount", "operation[0].field: must be the way");
        refused("\"0.002\"", "0.002", "expected a string");
        refused("\"0.002\"", "\"0\"", "operation[1].usd: must be above zero");
        refused("usd = \"0.002\"", "", "operation[1].usd: is missing");
        refused("/v1/messages/{id}", "/v1/payments", "operation[1].path: `/v1/payments` is there twice");
        refused("X-Api-Key", "Host", "credential_header: must be the name");
        refused("Acme-Version", "x-api-key", "request_headers: `x-api-key` is no header");
        refused("Acme-Version", "Connection", "request_headers: `Connection` is no header");
        let known = VENDOR.split("[[vendor.operation]]").next().unwrap();
        let error = parse(known).unwrap_err().to_string();
        assert!(error.contains("`acme` is none that keybrake knows"), "{error}");
    }
}
