//! The table against the fields that there are, and what a reload makes of two files.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::super::{Admin, Audit, Data, Durability, Limits, Prices, Proxy, Requests};
use super::*;
use crate::policy::IssueBounds;

/// Stops at the first struct and keeps the names of its fields, which serde's derive gives whole: those too that
/// are left out when they are absent.
struct Names<'a>(&'a mut &'static [&'static str]);

#[derive(Debug)]
struct Stop;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stop")
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Stop {
        Stop
    }
}

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        Err(Stop)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Stop> {
        *self.0 = fields;
        Err(Stop)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    assert!(T::deserialize(Names(&mut names)).is_err());
    assert!(!names.is_empty());
    names
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn q30_every_field_says_whether_it_changes_live() {
    let sections = [
        ("proxy", fields_of::<Proxy>()),
        ("limits", fields_of::<Limits>()),
        ("admin", fields_of::<Admin>()),
        ("audit", fields_of::<Audit>()),
        ("data", fields_of::<Data>()),
        ("durability", fields_of::<Durability>()),
        ("prices", fields_of::<Prices>()),
        ("requests", fields_of::<Requests>()),
        ("issue", fields_of::<IssueBounds>()),
    ];
    let named = sections.iter().map(|(section, _)| (*section).to_owned());
    let there = fields_of::<Config>().iter().map(|section| (*section).to_owned());
    assert_eq!(
        sorted(named),
        sorted(there.filter(|section| section != "vendor")),
        "a section is new: list it above, and its fields in FIELDS"
    );
    let there = sections
        .iter()
        .flat_map(|(section, fields)| fields.iter().map(move |field| format!("{section}.{field}")));
    let classed = FIELDS.iter().map(|field| field.name.to_owned());
    assert_eq!(sorted(classed), sorted(there), "each field has one line in FIELDS");
    let classed = VENDOR_FIELDS.iter().map(|field| field.name.to_owned());
    let there = fields_of::<Vendor>().iter().map(|field| (*field).to_owned());
    assert_eq!(
        sorted(classed),
        sorted(there.filter(|field| field != "name")),
        "each field of a vendor has one line in VENDOR_FIELDS"
    );
}

const STRIPE: &str = "[[vendor]]\nname = \"stripe\"\nbase_url = \"https://api.stripe.com\"\n";
const ACME: &str = "[[vendor]]\nname = \"acme\"\nbase_url = \"https://acme.example\"\n[[vendor.operation]]\n\
                    method = \"POST\"\npath = \"/v1/x\"\nprice = \"free\"\n";

fn parse(text: &str) -> Config {
    Config::parse(text, std::iter::empty()).unwrap()
}

fn check(old: &str, new: &str, changed: &[&str], needs_restart: &[&str]) -> Config {
    let reload = parse(old).reload(&parse(new)).unwrap();
    assert_eq!(
        (&reload.changed[..], &reload.needs_restart[..]),
        (
            &changed.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()[..],
            &needs_restart.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()[..],
        )
    );
    reload.config
}

#[test]
fn q30_what_can_change_does_and_the_rest_is_named_and_stays() {
    let old = format!("[proxy]\nworkers = 2\nidle_timeout_s = 9\n{STRIPE}");
    let new = format!(
        "[proxy]\nworkers = 3\nidle_timeout_s = 8\n[data]\ndir = \"/elsewhere\"\n[issue]\nlife_max = \"1d\"\n{STRIPE}\
         timeout_s = 7\ncredential_env = \"NEW\"\n"
    );
    let config = check(
        &old,
        &new,
        &["proxy.idle_timeout_s", "issue.life_max", "vendor.stripe.timeout_s"],
        &["proxy.workers", "data.dir", "vendor.stripe.credential_env"],
    );
    assert_eq!((config.proxy.workers, config.proxy.idle_timeout_s), (2, 8));
    assert_eq!((config.data, config.vendors[0].timeout_s), (parse(&old).data, 7));
    assert_eq!(config.vendors[0].credential_env, None);
    check(&old, &old, &[], &[]);
}

#[test]
fn q30_a_vendor_is_added_behind_the_others_and_one_that_is_removed_stays() {
    let both = format!("{ACME}{STRIPE}");
    let added = check(STRIPE, &both, &["vendor.acme (added)"], &[]);
    assert_eq!(added.vendor_names(), ["stripe", "acme"]);
    let removed = check(&both, STRIPE, &[], &["vendor.acme (removed)"]);
    assert_eq!(removed.vendor_names(), ["acme", "stripe"]);
}

#[test]
fn q30_what_is_impossible_beside_a_kept_value_is_refused() {
    let old = parse(&format!("[admin]\nlisten = \"127.0.0.1:9\"\n{STRIPE}ca_file = \"x\"\n"));
    let new = STRIPE.replace("https", "http").replace("api.stripe.com", "127.0.0.1");
    let new = parse(&format!("{new}allow_plain_http = true\n"));
    assert!(old.reload(&new).is_ok());
    // Plain HTTP is kept, and a file of authorities has no meaning beside it.
    let error = new.reload(&old).unwrap_err().to_string();
    assert!(error.contains("vendor[0].ca_file") && error.contains("until a restart"), "{error}");
}

#[test]
fn the_effective_configuration_reads_back() {
    let config = parse(&format!(
        "[issue]\nlife_max = \"30d\"\ndaily_usd_cap_max = \"1.5\"\nvendors = [\"acme\"]\n{STRIPE}{ACME}"
    ));
    let text = toml::to_string(&config).unwrap();
    assert_eq!(parse(&text), config, "{text}");
    let json = serde_json::to_value(&config).unwrap();
    assert_eq!(serde_json::from_value::<Config>(json.clone()).unwrap(), config, "{json}");
}
