//! How a vendor is spoken to: where its credential stands, what its bodies are, which host a path leads to.

use base64::Engine as _;
use zeroize::Zeroizing;

use super::Catalog;
use crate::config::{self, Origin};
use crate::secret::Secret;

/// Where a vendor's credential stands in a request. The agent's vault key stands in the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// `Authorization: Bearer`.
    Bearer,
    /// `Authorization: Basic`; the credential is `user:password`.
    Basic,
    /// `Authorization: Basic`; the credential names an account too, which stands in paths: `AC…:token` or
    /// `AC…/SK…:secret`.
    Twilio,
    /// A header of its own.
    Header {
        /// Its name.
        name: String,
        /// What stands before the credential, with a blank between; may be empty.
        scheme: String,
    },
}

/// What bodies are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bodies {
    /// Forms and nothing else.
    Forms,
    /// Forms below this path, JSON elsewhere.
    FormsBelow(&'static str),
    /// JSON and nothing else.
    Json,
    /// Forms or JSON.
    FormsOrJson,
}

/// What a body may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MayBe {
    /// `application/x-www-form-urlencoded`.
    pub form: bool,
    /// `application/json`.
    pub json: bool,
}

impl Bodies {
    /// What a body sent to `path` may be.
    pub fn of(self, path: &[u8]) -> MayBe {
        let form = match self {
            Bodies::Forms | Bodies::FormsOrJson => true,
            Bodies::FormsBelow(below) => path.starts_with(below.as_bytes()),
            Bodies::Json => false,
        };
        MayBe { form, json: !form || self == Bodies::FormsOrJson }
    }
}

/// A credential, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The whole header line.
    pub line: Secret,
    /// The account that stands in paths, where the vendor has that.
    pub account: Option<String>,
}

impl Slot {
    /// Takes a credential apart as it was configured.
    ///
    /// # Errors
    /// What to write. It repeats nothing of the credential.
    pub fn credential(&self, secret: &Secret) -> Result<Credential, &'static str> {
        const TWILIO: &str = "its credential must be AC…:token, or AC…/SK…:secret with an API key";
        let whole = secret.expose();
        let alone = |line: Vec<u8>| Ok(Credential { line: Secret::new(line), account: None });
        match self {
            Slot::Bearer => alone([b"Authorization: Bearer ", whole, b"\r\n"].concat()),
            Slot::Basic if !whole.contains(&b':') => Err("its credential must be user:password"),
            Slot::Basic => alone(basic(whole)),
            Slot::Header { name, scheme } => {
                let blank: &[u8] = if scheme.is_empty() { b"" } else { b" " };
                alone([name.as_bytes(), b": ", scheme.as_bytes(), blank, whole, b"\r\n"].concat())
            }
            Slot::Twilio => {
                let colon = whole.iter().position(|byte| *byte == b':').ok_or(TWILIO)?;
                let (user, token) = whole.split_at_checked(colon).ok_or(TWILIO)?;
                let user = std::str::from_utf8(user).map_err(|_| TWILIO)?;
                let (account, key) = user.split_once('/').map_or((user, None), |(of, key)| (of, Some(key)));
                let fits =
                    is_sid(account, "AC") && key.is_none_or(|key| is_sid(key, "SK")) && token.len() > 1;
                if !fits {
                    return Err(TWILIO);
                }
                let pair = Zeroizing::new([key.unwrap_or(account).as_bytes(), token].concat());
                Ok(Credential { line: Secret::new(basic(&pair)), account: Some(account.to_owned()) })
            }
        }
    }
}

/// The line with a pair that has a colon.
fn basic(pair: &[u8]) -> Vec<u8> {
    let encoded = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(pair));
    [b"Authorization: Basic ", encoded.as_bytes(), b"\r\n"].concat()
}

/// Two letters, then letters and digits (Twilio's have 32).
fn is_sid(text: &str, kind: &str) -> bool {
    let rest = text.strip_prefix(kind);
    rest.is_some_and(|rest| {
        (1..=62).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// The slot of a vendor that only the configuration knows.
pub(super) fn slot_of(vendor: &config::Vendor) -> Slot {
    let scheme = vendor.credential_scheme.clone();
    match (&vendor.credential_header, scheme) {
        (Some(name), scheme) => Slot::Header { name: name.clone(), scheme: scheme.unwrap_or_default() },
        (None, Some(scheme)) if scheme == "Basic" => Slot::Basic,
        (None, Some(scheme)) if scheme != "Bearer" => {
            Slot::Header { name: "Authorization".to_owned(), scheme }
        }
        (None, Some(_) | None) => Slot::Bearer,
    }
}

/// Where Twilio's account stands in a path.
const ACCOUNTS: &[u8] = b"/2010-04-01/Accounts/";

impl Catalog {
    /// The label that names the host of `path`, or `None` for the vendor's main host.
    ///
    /// # Errors
    /// What to write, for a path that several hosts know.
    pub fn label(&self, path: &[u8]) -> Result<Option<&'static str>, &'static str> {
        if self.labels.is_empty() {
            return Ok(None);
        }
        let first = path.split(|byte| *byte == b'/').nth(1).unwrap_or_default();
        if first == b"2010-04-01" {
            // It answers other endings and none at all too, and the table has no rows for those.
            return if path.ends_with(b".json") { Ok(None) } else { Err("the path must end in .json") };
        }
        let label = self.labels.iter().find(|label| label.as_bytes() == first);
        label.map(|label| Some(*label)).ok_or(
            "the path must begin with 2010-04-01 or with the name of a host that keybrake knows, as in /twilio/verify/v2",
        )
    }

    /// The origin behind a label: of Twilio's own names another one, of a stand-in itself.
    pub fn origin_of(&self, main: &Origin, label: &str) -> Origin {
        let named = main
            .host
            .strip_prefix("api.")
            .filter(|rest| *rest == "twilio.com" || rest.ends_with(".twilio.com"));
        match named {
            Some(rest) => Origin { host: format!("{label}.{rest}"), ..main.clone() },
            None => main.clone(),
        }
    }

    /// `path` with the credential's account in place of the one that the agent wrote, whatever that was: an agent neither
    /// learns the account nor chooses another one. `None` where no account stands in it.
    pub fn with_account(&self, path: &[u8], account: &str) -> Option<Vec<u8>> {
        if self.slot != Slot::Twilio {
            return None;
        }
        let rest = path.strip_prefix(ACCOUNTS)?;
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'.')).unwrap_or(rest.len());
        Some([ACCOUNTS, account.as_bytes(), rest.get(end..).unwrap_or_default()].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(slot: &Slot, credential: &str) -> Result<(String, Option<String>), &'static str> {
        let credential = slot.credential(&Secret::new(credential.as_bytes().to_vec()))?;
        Ok((String::from_utf8(credential.line.expose().to_vec()).unwrap(), credential.account))
    }

    #[test]
    fn a_credential_stands_where_its_vendor_reads_it() {
        let check = |slot: Slot, credential: &str, expected: &str| {
            assert_eq!(line(&slot, credential), Ok((format!("{expected}\r\n"), None)));
        };
        check(Slot::Bearer, "re_1", "Authorization: Bearer re_1");
        check(Slot::Basic, "user:pass:word", "Authorization: Basic dXNlcjpwYXNzOndvcmQ=");
        assert!(line(&Slot::Basic, "user").is_err());
        let header = |scheme: &str| Slot::Header { name: "X-Api-Key".to_owned(), scheme: scheme.to_owned() };
        check(header(""), "k", "X-Api-Key: k");
        check(header("Token"), "k", "X-Api-Key: Token k");
    }

    #[test]
    fn twilios_names_its_account() {
        let account = "AC0123456789abcdef0123456789abcdef";
        let encoded = |pair: &str| base64::engine::general_purpose::STANDARD.encode(pair);
        let expected = |pair: &str| {
            Ok((format!("Authorization: Basic {}\r\n", encoded(pair)), Some(account.to_owned())))
        };
        assert_eq!(line(&Slot::Twilio, &format!("{account}:token")), expected(&format!("{account}:token")));
        assert_eq!(line(&Slot::Twilio, &format!("{account}/SK12:secret")), expected("SK12:secret"));
        for wrong in
            ["token", "AC:token", "SK12:secret", "AC12/AC34:secret", "AC12:", "AC1/2/SK1:x", "AC-1:x"]
        {
            assert!(line(&Slot::Twilio, wrong).is_err(), "{wrong}");
        }
    }

    fn twilio() -> &'static Catalog {
        Catalog::of("twilio").unwrap()
    }

    #[test]
    fn the_account_is_the_credentials_whatever_the_agent_wrote() {
        let check = |path: &str, expected: Option<&str>| {
            let found = twilio().with_account(path.as_bytes(), "AC1");
            assert_eq!(found.map(|path| String::from_utf8(path).unwrap()).as_deref(), expected, "{path}");
        };
        check("/2010-04-01/Accounts/AC000/Messages.json", Some("/2010-04-01/Accounts/AC1/Messages.json"));
        check("/2010-04-01/Accounts/x/Calls/CA1.json", Some("/2010-04-01/Accounts/AC1/Calls/CA1.json"));
        check("/2010-04-01/Accounts/AC000.json", Some("/2010-04-01/Accounts/AC1.json"));
        check("/2010-04-01/Accounts/AC000", Some("/2010-04-01/Accounts/AC1"));
        check("/2010-04-01/Accounts.json", None);
        check("/verify/v2/Services/VA1/Verifications", None);
        assert_eq!(Catalog::of("resend").unwrap().with_account(b"/2010-04-01/Accounts/x/y", "AC1"), None);
    }

    #[test]
    fn a_path_names_its_host_or_is_refused() {
        assert_eq!(twilio().label(b"/2010-04-01/Accounts/AC1/Calls.json"), Ok(None));
        assert_eq!(twilio().label(b"/verify/v2/Services"), Ok(Some("verify")));
        assert_eq!(twilio().label(b"/lookups/v2/PhoneNumbers/+15551234567"), Ok(Some("lookups")));
        let other_formats = ["Keys", "Keys.xml", "Messages.csv", "Messages.JSON", "Messages.json/x"];
        for path in other_formats {
            let path = format!("/2010-04-01/Accounts/AC1/{path}");
            assert_eq!(twilio().label(path.as_bytes()), Err("the path must end in .json"), "{path}");
        }
        for ambiguous in ["/v2/Services", "/v1/Services", "/iam/v1/Keys", "/Verify/v2/Services"] {
            assert!(twilio().label(ambiguous.as_bytes()).is_err(), "{ambiguous}");
        }
        assert_eq!(Catalog::of("stripe").unwrap().label(b"/v2/core/events"), Ok(None));
    }

    #[test]
    fn a_label_is_a_host_of_twilios_and_a_path_of_a_stand_ins() {
        let origin = |host: &str| Origin { tls: true, host: host.to_owned(), port: 443 };
        let check = |main: &str, expected: &str| {
            assert_eq!(twilio().origin_of(&origin(main), "verify"), origin(expected));
        };
        check("api.twilio.com", "verify.twilio.com");
        check("api.sydney.au1.twilio.com", "verify.sydney.au1.twilio.com");
        check("127.0.0.1", "127.0.0.1");
        check("api.twilio.com.example", "api.twilio.com.example");
        check("api.eviltwilio.com", "api.eviltwilio.com");
    }
}
