//! `[issue]` of the configuration: what whoever issues or changes keys may not go beyond.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Policy;
use super::attenuate::DEPTH_MAX;
use super::spec::{SpecError, refuse};
use crate::money::Micros;
use crate::time::{UnixMicros, parse_duration_seconds};

/// Keys below one key where nobody has said otherwise: one for each run of an hour, for more than a year.
const KEYS_BELOW: usize = 10_000;

/// The highest `keys_below_max`.
pub const KEYS_BELOW_MAX: usize = 1_000_000;

/// `[issue]`: bounds of every key. Keys that were issued before stay as they are until they are changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssueBounds {
    /// The highest daily cap; a key must have one then.
    #[serde(with = "cap", skip_serializing_if = "Option::is_none")]
    pub daily_usd_cap_max: Option<Micros>,
    /// The highest cap for life; a key must have one then.
    #[serde(with = "cap", skip_serializing_if = "Option::is_none")]
    pub total_usd_cap_max: Option<Micros>,
    /// The longest life in seconds, written as a text such as `30d`; a key must expire then.
    #[serde(with = "life", rename = "life_max", skip_serializing_if = "Option::is_none")]
    pub life_max_s: Option<u64>,
    /// The vendors that keys may be for; absent: all that are configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendors: Option<Vec<String>>,
    /// The most keys above a key; 0: nobody issues below a key.
    pub depth_max: usize,
    /// The most keys below a key that has none above it, closed ones too: they stay in memory, and whoever holds one of
    /// them can make more (rule N5).
    pub keys_below_max: usize,
}

impl Default for IssueBounds {
    fn default() -> IssueBounds {
        IssueBounds {
            daily_usd_cap_max: None,
            total_usd_cap_max: None,
            life_max_s: None,
            vendors: None,
            depth_max: DEPTH_MAX,
            keys_below_max: KEYS_BELOW,
        }
    }
}

/// A time as a text such as `30d`.
mod life {
    use super::{Deserialize, Deserializer, Serializer, de, parse_duration_seconds};

    #[expect(clippy::ref_option, reason = "the shape that serde asks for")]
    pub(super) fn serialize<S: Serializer>(life: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match life {
            Some(seconds) => serializer.serialize_str(&format!("{seconds}s")),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let seconds = parse_duration_seconds(&text).filter(|seconds| *seconds > 0);
        seconds
            .map(Some)
            .ok_or_else(|| de::Error::custom("life_max must be a text such as \"12h\" or \"30d\""))
    }
}

/// An amount in TOML, whose numbers with a point are floats: a whole number, or a text.
mod cap {
    use super::{Deserialize, Deserializer, Micros, Serializer, de};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Whole(u64),
        Text(String),
    }

    #[expect(clippy::ref_option, reason = "the shape that serde asks for")]
    pub(super) fn serialize<S: Serializer>(cap: &Option<Micros>, serializer: S) -> Result<S::Ok, S::Error> {
        match cap {
            Some(cap) => serializer.serialize_str(&cap.to_string()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Micros>, D::Error> {
        let text = match Written::deserialize(deserializer) {
            Ok(Written::Whole(usd)) => usd.to_string(),
            Ok(Written::Text(text)) => text,
            Err(_) => {
                return Err(de::Error::custom("write a whole number of USD, or a text such as \"150.5\""));
            }
        };
        text.parse().map(Some).map_err(|error| de::Error::custom(format_args!("`{text}` {error}")))
    }
}

impl IssueBounds {
    /// Whether a key may have this policy from `now` on; else the field that goes beyond, and the bound.
    pub fn judge(&self, policy: &Policy, now: UnixMicros) -> Result<(), SpecError> {
        if let Some(vendors) = self.vendors.as_ref().filter(|vendors| !vendors.contains(&policy.vendor)) {
            return refuse("vendor", format_args!("[issue] allows keys for: {}", vendors.join(", ")));
        }
        let caps = [
            ("daily_usd_cap", policy.daily_usd_cap, self.daily_usd_cap_max),
            ("total_usd_cap", policy.total_usd_cap, self.total_usd_cap_max),
        ];
        for (field, cap, most) in caps {
            if let Some(most) = most.filter(|most| cap.is_none_or(|cap| cap > *most)) {
                return refuse(field, format_args!("[issue] asks for one of at most {most} USD"));
            }
        }
        if let Some(seconds) = self.life_max_s {
            let last = now.plus_seconds(seconds);
            if policy.expires_at.is_none_or(|at| at > last) {
                return refuse("expires_at", format_args!("[issue] asks for one of at most {last}"));
            }
        }
        Ok(())
    }

    /// Whether a key with so many keys above it may have one below it.
    pub fn allows_below(&self, above: usize) -> bool {
        above < self.depth_max.min(DEPTH_MAX)
    }

    /// Whether one more key may be below a key that has had so many.
    pub fn allows_more_below(&self, below: usize) -> bool {
        below < self.keys_below_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::KeySpec;

    const NOW: UnixMicros = UnixMicros::from_seconds(1_795_219_200);

    fn check(bounds: &str, fields: &str, expected: Option<&str>) {
        let bounds: IssueBounds = toml::from_str(bounds).unwrap();
        let body = format!(r#"{{"vendor": "stripe", "allowed_endpoints": ["GET /v1/**"]{fields}}}"#);
        let spec: KeySpec = serde_json::from_str(&body).unwrap();
        let policy = spec.policy(&["stripe".to_owned()], NOW).unwrap();
        let error = bounds.judge(&policy, NOW).err().map(|error| error.to_string());
        assert_eq!(error.is_some(), expected.is_some(), "{body}: {error:?}");
        assert!(error.is_none_or(|error| error.contains(expected.unwrap())), "{body}");
    }

    #[test]
    fn m11_a_key_beyond_the_bounds_is_refused_by_its_field() {
        check("", "", None);
        check("daily_usd_cap_max = 100", r#", "daily_usd_cap": 100"#, None);
        check("daily_usd_cap_max = 100", r#", "daily_usd_cap": 100.01"#, Some("daily_usd_cap: [issue] asks"));
        check("daily_usd_cap_max = 100", "", Some("at most 100.00 USD"));
        check("total_usd_cap_max = \"0.5\"", r#", "total_usd_cap": 1"#, Some("total_usd_cap: "));
        check("life_max = \"1h\"", r#", "expires_in": 3600"#, None);
        check("life_max = \"1h\"", r#", "expires_in": 3601"#, Some("expires_at: [issue] asks"));
        check("life_max = \"1h\"", "", Some("expires_at: "));
        check("vendors = [\"stripe\"]", "", None);
        check("vendors = [\"twilio\"]", "", Some("vendor: [issue] allows keys for: twilio"));
    }

    #[test]
    fn bounds_that_cannot_be_are_refused() {
        for text in [
            "daily_usd_cap_max = 1.5",
            "life_max = 5",
            "life_max = \"0s\"",
            "depth = 1",
            "daily_usd_cap_max = \"x\"",
        ] {
            assert!(toml::from_str::<IssueBounds>(text).is_err(), "{text}");
        }
        let bounds: IssueBounds = toml::from_str("depth_max = 1").unwrap();
        assert_eq!((bounds.allows_below(0), bounds.allows_below(1)), (true, false));
        assert!(
            IssueBounds::default().allows_below(DEPTH_MAX - 1)
                && !IssueBounds::default().allows_below(DEPTH_MAX)
        );
    }
}
