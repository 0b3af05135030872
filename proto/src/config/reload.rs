//! What a file that is read again may change in a running process: one table says so for every field.
//!
//! A field whose value cannot change live keeps the one it has, and is named. Whoever adds a field to the
//! configuration adds a line to [`FIELDS`] or [`VENDOR_FIELDS`]; a test fails until that is done.

use super::{Config, ConfigError, Vendor, check};

/// When another value of a field takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// With the next request after the reload.
    Live,
    /// When the processes start again.
    Restart,
}

/// A field of `T`, which is the whole configuration or one vendor's section.
pub struct Field<T: 'static> {
    /// As in the file, such as `proxy.workers`.
    pub name: &'static str,
    /// When another value takes effect.
    pub class: Class,
    differs: fn(&T, &T) -> bool,
    keep: fn(&mut T, &T),
}

macro_rules! field {
    ($class:ident $name:literal $($part:ident).+) => {
        Field {
            name: $name,
            class: Class::$class,
            differs: |old, new| old.$($part).+ != new.$($part).+,
            keep: |new, old| new.$($part).+.clone_from(&old.$($part).+),
        }
    };
}

/// Every field but the vendors'.
pub const FIELDS: &[Field<Config>] = &[
    // A socket that is bound, threads that run.
    field!(Restart "proxy.listen" proxy.listen),
    field!(Restart "proxy.workers" proxy.workers),
    field!(Restart "proxy.driver" proxy.driver),
    field!(Live "proxy.connections_max" proxy.connections_max),
    field!(Live "proxy.body_bytes_max" proxy.body_bytes_max),
    field!(Live "proxy.rate_grace_s" proxy.rate_grace_s),
    field!(Live "proxy.body_bytes_per_s_min" proxy.body_bytes_per_s_min),
    field!(Live "proxy.write_bytes_per_s_min" proxy.write_bytes_per_s_min),
    field!(Live "proxy.head_timeout_s" proxy.head_timeout_s),
    field!(Live "proxy.body_timeout_s" proxy.body_timeout_s),
    field!(Live "proxy.write_timeout_s" proxy.write_timeout_s),
    field!(Live "proxy.idle_timeout_s" proxy.idle_timeout_s),
    field!(Live "proxy.drain_timeout_s" proxy.drain_timeout_s),
    // The files' contents are read again.
    field!(Restart "proxy.tls" proxy.tls),
    field!(Live "limits.connections_per_address_max" limits.connections_per_address_max),
    field!(Live "limits.requests_per_key_max" limits.requests_per_key_max),
    field!(Live "limits.body_memory_bytes_max" limits.body_memory_bytes_max),
    // What each address has used is counted by them.
    field!(Restart "limits.wrong_keys_per_s" limits.wrong_keys_per_s),
    field!(Restart "limits.wrong_keys_burst" limits.wrong_keys_burst),
    field!(Live "limits.trusted_addresses" limits.trusted_addresses),
    field!(Restart "admin.listen" admin.listen),
    // Of the admin process, which reads the file at its start.
    field!(Restart "audit.query_timeout_s" audit.query_timeout_s),
    field!(Restart "audit.query_rows_max" audit.query_rows_max),
    field!(Restart "audit.query_memory_bytes_max" audit.query_memory_bytes_max),
    field!(Restart "audit.query_temp_bytes_max" audit.query_temp_bytes_max),
    // Files that are open.
    field!(Restart "data.dir" data.dir),
    // Another key comes by `keybrake master-key rotate`.
    field!(Restart "data.master_key_file" data.master_key_file),
    field!(Restart "data.master_key_env" data.master_key_env),
    field!(Restart "data.master_key_command" data.master_key_command),
    field!(Restart "data.master_key_timeout_s" data.master_key_timeout_s),
    field!(Restart "data.old_master_key_file" data.old_master_key_file),
    field!(Restart "data.old_master_key_env" data.old_master_key_env),
    field!(Restart "data.old_master_key_command" data.old_master_key_command),
    field!(Restart "data.admin_pepper_file" data.admin_pepper_file),
    field!(Restart "data.anchor_file" data.anchor_file),
    field!(Restart "data.journal_segment_bytes" data.journal_segment_bytes),
    field!(Restart "data.journal_segments_max" data.journal_segments_max),
    // What was promised to a request that waits.
    field!(Restart "durability.money" durability.money),
    field!(Live "prices.rates_file" prices.rates_file),
    field!(Live "prices.twilio_file" prices.twilio_file),
    field!(Live "prices.resend_file" prices.resend_file),
    field!(Live "requests.monthly_max" requests.monthly_max),
    field!(Live "issue.daily_usd_cap_max" issue.daily_usd_cap_max),
    field!(Live "issue.total_usd_cap_max" issue.total_usd_cap_max),
    field!(Live "issue.life_max" issue.life_max_s),
    field!(Live "issue.vendors" issue.vendors),
    field!(Live "issue.depth_max" issue.depth_max),
    field!(Live "issue.keys_below_max" issue.keys_below_max),
];

/// Every field of a `[[vendor]]` but its name.
pub const VENDOR_FIELDS: &[Field<Vendor>] = &[
    // Where money goes, and under which header: doubts, objects and stored credentials are of the place before.
    field!(Restart "base_url" base_url),
    field!(Restart "credential_env" credential_env),
    field!(Restart "credential_file" credential_file),
    field!(Live "ca_file" ca_file),
    field!(Restart "allow_plain_http" allow_plain_http),
    field!(Restart "allow_private_address" allow_private_address),
    field!(Live "timeout_s" timeout_s),
    field!(Live "connect_timeout_s" connect_timeout_s),
    field!(Live "idle_connections_max" idle_connections_max),
    field!(Live "quota_rps" quota_rps),
    field!(Restart "credential_header" credential_header),
    field!(Restart "credential_scheme" credential_scheme),
    field!(Live "request_headers" request_headers),
    field!(Live "free_reads" free_reads),
    field!(Live "operation" operations),
];

/// A configuration that takes the place of another one while requests are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// What is in force then: what cannot change live is as before.
    pub config: Config,
    /// The fields that change, as `proxy.idle_timeout_s`, `vendor.stripe.timeout_s` or `vendor.acme (added)`.
    pub changed: Vec<String>,
    /// The fields whose new value needs a restart.
    pub needs_restart: Vec<String>,
}

impl Config {
    /// What becomes of this configuration, which is in force, when the file says `new`.
    ///
    /// Vendors keep their places, and those that are added come behind them.
    ///
    /// # Errors
    /// `new` is possible by itself, but not beside what it cannot change.
    pub fn reload(&self, new: &Config) -> Result<Reload, ConfigError> {
        let mut reload = Reload { config: new.clone(), changed: Vec::new(), needs_restart: Vec::new() };
        let sorted = apply(FIELDS, self, &mut reload.config);
        reload.note("", sorted);
        reload.config.vendors = Vec::new();
        for old in &self.vendors {
            let Some(found) = new.vendors.iter().find(|vendor| vendor.name == old.name) else {
                reload.needs_restart.push(format!("vendor.{} (removed)", old.name));
                reload.config.vendors.push(old.clone());
                continue;
            };
            let mut vendor = found.clone();
            let sorted = apply(VENDOR_FIELDS, old, &mut vendor);
            reload.note(&format!("vendor.{}.", old.name), sorted);
            reload.config.vendors.push(vendor);
        }
        for added in &new.vendors {
            if self.vendors.iter().all(|vendor| vendor.name != added.name) {
                reload.changed.push(format!("vendor.{} (added)", added.name));
                reload.config.vendors.push(added.clone());
            }
        }
        if reload.needs_restart.is_empty() {
            return Ok(reload);
        }
        let together = check::check(&reload.config).map_err(|error| {
            let kept = reload.needs_restart.join(", ");
            ConfigError::Syntax(format!("{error}; until a restart the old values of {kept} stay"))
        });
        together.map(|()| reload)
    }
}

impl Reload {
    fn note(&mut self, prefix: &str, (live, restart): (Vec<&str>, Vec<&str>)) {
        let full = |name: &str| format!("{prefix}{name}");
        self.changed.extend(live.into_iter().map(full));
        self.needs_restart.extend(restart.into_iter().map(full));
    }
}

/// Gives `new` the values of `old` that it cannot change; the names of those that change, and of those that do not.
fn apply<T>(fields: &'static [Field<T>], old: &T, new: &mut T) -> (Vec<&'static str>, Vec<&'static str>) {
    let (mut live, mut restart) = (Vec::new(), Vec::new());
    for field in fields.iter().filter(|field| (field.differs)(old, new)).collect::<Vec<_>>() {
        match field.class {
            Class::Live => live.push(field.name),
            Class::Restart => {
                (field.keep)(new, old);
                restart.push(field.name);
            }
        }
    }
    (live, restart)
}

#[cfg(test)]
mod tests;
