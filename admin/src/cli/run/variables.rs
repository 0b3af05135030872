//! Which variables a program gets: what each SDK reads, and nothing that is a real credential.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;

use keybrake_proto::config::Config;

use super::keys::{KEY_ENV, Proxy, VendorKey};
use super::shims::Shims;
use crate::failure::Failure;
use crate::token::TOKEN_ENV;

/// Twilio's SDK for Node wants a user name of this form. The proxy puts the real one in its place, in the path too.
const PLACEHOLDER_SID: &str = "AC00000000000000000000000000000000";

/// What changes in the environment.
#[derive(Debug, Default)]
pub(super) struct Variables {
    set: BTreeMap<String, OsString>,
    removed: BTreeSet<String>,
}

impl Variables {
    /// For a program with these keys. `environment` is what it has now.
    pub(super) fn of(
        keys: &[VendorKey],
        proxy: &Proxy,
        environment: &BTreeMap<OsString, OsString>,
    ) -> Variables {
        let mut variables = Variables::default();
        let origin = &proxy.origin;
        for VendorKey { vendor, key } in keys {
            let key = OsStr::from_bytes(key.expose());
            let url = format!("{origin}/{vendor}");
            variables.set(&format!("KEYBRAKE_{}_URL", capitals(vendor)), &url);
            variables.set(&format!("KEYBRAKE_{}_KEY", capitals(vendor)), key);
            match vendor.as_str() {
                "stripe" => variables.stripe(key),
                "twilio" => variables.twilio(key),
                "resend" => variables.resend(key, &url),
                _ => {}
            }
        }
        if let [VendorKey { key, .. }] = keys {
            variables.set("VAULT_KEY", OsStr::from_bytes(key.expose()));
        }
        let vendors: Vec<&str> = keys.iter().map(|key| key.vendor.as_str()).collect();
        variables.set("KEYBRAKE_VENDORS", vendors.join(","));
        variables.set("KEYBRAKE_PROXY_URL", origin);
        variables.reach_directly(&proxy.host, environment);
        // The operator's, and the form in which the keys came.
        variables.removed.extend([TOKEN_ENV, KEY_ENV].map(str::to_owned));
        variables
    }

    /// No SDK reads any of it; programs hand it to the SDK themselves, by these names.
    fn stripe(&mut self, key: &OsStr) {
        self.set("STRIPE_API_KEY", key);
        self.set("STRIPE_SECRET_KEY", key);
    }

    fn twilio(&mut self, key: &OsStr) {
        self.set("TWILIO_ACCOUNT_SID", PLACEHOLDER_SID);
        self.set("TWILIO_AUTH_TOKEN", key);
        // Another pair of credentials, and labels of a host name that is the proxy's now.
        let others = ["TWILIO_API_KEY", "TWILIO_API_SECRET", "TWILIO_REGION", "TWILIO_EDGE"];
        self.removed.extend(others.map(str::to_owned));
    }

    fn resend(&mut self, key: &OsStr, url: &str) {
        self.set("RESEND_API_KEY", key);
        // The first is Python's, the second Node's.
        self.set("RESEND_API_URL", url);
        self.set("RESEND_BASE_URL", url);
    }

    /// A forward proxy must not see the keys.
    fn reach_directly(&mut self, host: &str, environment: &BTreeMap<OsString, OsString>) {
        // Of the two spellings most programs prefer the lower case.
        let found = ["no_proxy", "NO_PROXY"].iter().find_map(|name| environment.get(OsStr::new(name)));
        let mut hosts = found.cloned().unwrap_or_default();
        let is_there =
            hosts.as_bytes().split(|byte| *byte == b',').any(|one| one == host.as_bytes() || one == b"*");
        if !is_there {
            if !hosts.is_empty() {
                hosts.push(",");
            }
            hosts.push(host);
        }
        self.set("no_proxy", &hosts);
        self.set("NO_PROXY", &hosts);
    }

    /// Leaves out what the configuration names as the place of a vendor's real credential.
    pub(super) fn leave_out_credentials(&mut self, config: Option<&Config>) {
        let vendors = config.into_iter().flat_map(|config| &config.vendors);
        self.removed.extend(vendors.filter_map(|vendor| vendor.credential_env.clone()));
    }

    /// Has Python and Node load the shims, before what they load already.
    pub(super) fn load(&mut self, shims: &Shims, environment: &BTreeMap<OsString, OsString>) {
        let mut path = shims.python_dir().as_os_str().to_owned();
        if let Some(old) = environment.get(OsStr::new("PYTHONPATH")).filter(|old| !old.is_empty()) {
            path.push(":");
            path.push(old);
        }
        self.set("PYTHONPATH", path);
        let mut options = environment.get(OsStr::new("NODE_OPTIONS")).cloned().unwrap_or_default();
        if !options.is_empty() {
            options.push(" ");
        }
        options.push("--require ");
        options.push(quoted_for_node(shims.node_file().as_os_str()));
        self.set("NODE_OPTIONS", options);
    }

    /// Changes what the program gets.
    pub(super) fn apply(&self, command: &mut Command) {
        for name in &self.removed {
            command.env_remove(name);
        }
        command.envs(&self.set);
    }

    /// What is set, and what is removed and not set.
    pub(super) fn texts(&self) -> Result<(BTreeMap<&str, &str>, Vec<&str>), Failure> {
        let text = |(name, value)| text((name, value));
        let set = self.set.iter().map(text).collect::<Result<BTreeMap<&str, &str>, Failure>>()?;
        let unset = self.removed.iter().filter(|name| !self.set.contains_key(*name)).map(String::as_str);
        Ok((set, unset.collect()))
    }

    fn set(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.set.insert(name.to_owned(), value.as_ref().to_owned());
    }
}

fn text<'a>((name, value): (&'a String, &'a OsString)) -> Result<(&'a str, &'a str), Failure> {
    let not_text = || Failure::setup(format_args!("{name} is no text in this environment; unset it"));
    value.to_str().map(|value| (name.as_str(), value)).ok_or_else(not_text)
}

/// A vendor's name as part of a variable. Two underscores would make it an override of the configuration.
fn capitals(vendor: &str) -> String {
    let words = vendor.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<&str>>().join("_").to_ascii_uppercase()
}

/// Node divides NODE_OPTIONS at blanks that are not in double quotes; a backslash keeps the next character.
fn quoted_for_node(path: &OsStr) -> OsString {
    let mut out = vec![b'"'];
    for byte in path.as_bytes() {
        if b"\"\\".contains(byte) {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
    OsStr::from_bytes(&out).to_owned()
}

/// Lines for `eval` in a POSIX shell.
pub(super) fn for_a_shell(set: &BTreeMap<&str, &str>, unset: &[&str]) -> String {
    let mut out = String::new();
    for name in unset {
        // Writing to a String has no way to fail.
        writeln!(out, "unset {name}").unwrap_or_default();
    }
    for (name, value) in set {
        writeln!(out, "export {name}='{}'", value.replace('\'', r"'\''")).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use keybrake_proto::secret::Secret;

    use super::*;

    /// What the program sees: `before` with the changes for keys of these vendors.
    fn after(vendors: &[&str], before: &[(&str, &str)]) -> BTreeMap<String, String> {
        let key = |vendor: &&str| VendorKey {
            vendor: (*vendor).to_owned(),
            key: Secret::new(format!("key-of-{vendor}").into_bytes()),
        };
        let keys: Vec<VendorKey> = vendors.iter().map(key).collect();
        let proxy = Proxy { origin: "http://127.0.0.1:8080".to_owned(), host: "127.0.0.1".to_owned() };
        let environment = before.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let variables = Variables::of(&keys, &proxy, &environment);
        let mut all: BTreeMap<String, String> =
            before.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.retain(|name, _| !variables.removed.contains(name));
        let (set, _) = variables.texts().unwrap();
        all.extend(set.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        all
    }

    fn check(vendors: &[&str], before: &[(&str, &str)], expected: &[(&str, Option<&str>)]) {
        let after = after(vendors, before);
        for (name, value) in expected {
            assert_eq!(after.get(*name).map(String::as_str), *value, "{name} of {vendors:?}");
        }
    }

    #[test]
    fn each_sdk_gets_the_variables_that_it_reads() {
        let secret = Some("key-of-stripe");
        check(
            &["stripe"],
            &[],
            &[("STRIPE_API_KEY", secret), ("STRIPE_SECRET_KEY", secret), ("VAULT_KEY", secret)],
        );
        let sid = Some("AC00000000000000000000000000000000");
        check(&["twilio"], &[], &[("TWILIO_ACCOUNT_SID", sid), ("TWILIO_AUTH_TOKEN", Some("key-of-twilio"))]);
        let url = Some("http://127.0.0.1:8080/resend");
        check(&["resend"], &[], &[("RESEND_API_URL", url), ("RESEND_BASE_URL", url)]);
        check(
            &["stripe", "my-crm__x"],
            &[],
            &[
                ("KEYBRAKE_VENDORS", Some("stripe,my-crm__x")),
                ("KEYBRAKE_MY_CRM_X_URL", Some("http://127.0.0.1:8080/my-crm__x")),
                ("KEYBRAKE_MY_CRM_X_KEY", Some("key-of-my-crm__x")),
                ("VAULT_KEY", None),
            ],
        );
    }

    #[test]
    fn no_real_credential_and_no_operators_token_is_left() {
        let before = [
            ("STRIPE_SECRET_KEY", "sk_live_1"),
            ("TWILIO_AUTH_TOKEN", "real"),
            ("TWILIO_API_SECRET", "real"),
            ("KEYBRAKE_ADMIN_TOKEN", "real"),
            ("KEYBRAKE_VAULT_KEY", "twilio=key-of-twilio"),
            ("OTHER", "stays"),
        ];
        let expected = [
            ("TWILIO_AUTH_TOKEN", Some("key-of-twilio")),
            ("TWILIO_API_SECRET", None),
            ("KEYBRAKE_ADMIN_TOKEN", None),
            ("KEYBRAKE_VAULT_KEY", None),
            ("OTHER", Some("stays")),
        ];
        check(&["twilio"], &before, &expected);
        let config = "[[vendor]]\nname = \"stripe\"\nbase_url = \"https://api.stripe.com\"\ncredential_env = \"STRIPE_SECRET_KEY\"\n";
        let config = Config::parse(config, std::iter::empty()).unwrap();
        let mut variables = Variables::default();
        variables.leave_out_credentials(Some(&config));
        assert_eq!(variables.texts().unwrap().1, ["STRIPE_SECRET_KEY"]);
    }

    #[test]
    fn a_forward_proxy_is_not_asked_for_this_host() {
        let both = |hosts| [("no_proxy", Some(hosts)), ("NO_PROXY", Some(hosts))];
        check(&["stripe"], &[], &both("127.0.0.1"));
        check(&["stripe"], &[("NO_PROXY", "a,b")], &both("a,b,127.0.0.1"));
        check(&["stripe"], &[("no_proxy", "c"), ("NO_PROXY", "a")], &both("c,127.0.0.1"));
        check(&["stripe"], &[("no_proxy", "*")], &both("*"));
    }

    #[test]
    fn shims_are_added_to_what_python_and_node_load_already() {
        let shims = Shims::temporary().unwrap();
        let dir = shims.python_dir().display().to_string();
        let load = |before: &[(&str, &str)]| {
            let mut variables = Variables::default();
            variables.load(&shims, &before.iter().map(|(name, value)| (name.into(), value.into())).collect());
            let (set, _) = variables.texts().unwrap();
            (set["PYTHONPATH"].to_owned(), set["NODE_OPTIONS"].to_owned())
        };
        let require = format!("--require \"{dir}/keybrake.cjs\"");
        assert_eq!(load(&[]), (dir.clone(), require.clone()));
        let before = [("PYTHONPATH", "/a:/b"), ("NODE_OPTIONS", "--no-warnings")];
        assert_eq!(load(&before), (format!("{dir}:/a:/b"), format!("--no-warnings {require}")));
        assert_eq!(quoted_for_node(OsStr::new("/a b\"\\c")), OsStr::new(r#""/a b\"\\c""#));
    }

    #[test]
    fn lines_for_a_shell_keep_every_character() {
        let set = BTreeMap::from([("A", "it's $HOME"), ("B", "x")]);
        assert_eq!(for_a_shell(&set, &["C"]), "unset C\nexport A='it'\\''s $HOME'\nexport B='x'\n");
    }
}
