//! SDK → relay → keybrake → relay → vendor. Both relays keep every byte, so a test sees what an SDK really sent
//! and what the vendor really got.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::keybrake::{Issued, Keybrake, SECRET, Setup};
use crate::relay::Relay;
use crate::scan::{holds, secrets_in_files};
use crate::sdk::Guest;

/// Everything between an agent and a vendor.
pub struct Chain {
    /// Between the agents and keybrake.
    pub agents: Relay,
    /// In the middle, with an admin process.
    pub keybrake: Keybrake,
    /// Between keybrake and the vendor.
    pub vendor: Relay,
    /// Texts that must reach no agent and no file.
    secrets: Vec<String>,
    guest: Option<Guest>,
    dir: TempDir,
}

impl Chain {
    /// With a stand-in for Stripe.
    ///
    /// # Panics
    /// When something does not start.
    #[must_use]
    pub fn of_stripe(guest: impl FnOnce(&Path) -> Guest) -> Chain {
        let dir = tempfile::tempdir().unwrap();
        let guest = guest(dir.path());
        let address = guest.address();
        Chain { guest: Some(guest), ..Chain::start(dir, address, &[SECRET], |setup| setup) }
    }

    /// With a stand-in for another vendor. `credential` is what keybrake has for it, and no part of it in `secrets`
    /// may leave.
    ///
    /// # Panics
    /// When something does not start.
    #[must_use]
    pub fn of(vendor: &str, credential: &str, secrets: &[&str], guest: impl FnOnce(&Path) -> Guest) -> Chain {
        let dir = tempfile::tempdir().unwrap();
        let guest = guest(dir.path());
        let address = guest.address();
        let change = |setup: Setup| setup.vendor_name(vendor).secret(Some(credential));
        Chain { guest: Some(guest), ..Chain::start(dir, address, secrets, change) }
    }

    fn start(
        dir: TempDir,
        address: SocketAddr,
        secrets: &[&str],
        change: impl FnOnce(Setup) -> Setup,
    ) -> Chain {
        let vendor = Relay::start(address);
        let setup = change(Setup::new(format!("http://{}", vendor.address())));
        let keybrake = setup.with_admin().on_disk().start();
        let agents = Relay::start(keybrake.proxy());
        let secrets = secrets.iter().map(|&secret| secret.to_owned()).collect();
        Chain { agents, keybrake, vendor, secrets, guest: None, dir }
    }

    /// A URL as an agent gives it to its SDK.
    #[must_use]
    pub fn base(&self, path: &str) -> String {
        format!("http://{}{path}", self.agents.address())
    }

    /// Whether the stand-in is there, for tests in which it sees nothing.
    #[must_use]
    pub fn guest_listens(&self) -> bool {
        self.guest.as_ref().is_some_and(|guest| std::net::TcpStream::connect(guest.address()).is_ok())
    }

    /// The vault keys stay on the agents' side, the credential on the vendor's, and neither in a file.
    ///
    /// # Panics
    /// When one was found elsewhere.
    pub fn check_secrets(&self, keys: &[&Issued]) {
        for key in keys {
            for bytes in self.vendor.sent_up().into_iter().chain(self.vendor.sent_down()) {
                assert!(!holds(&bytes, &key.text), "a vault key went to the vendor");
            }
        }
        for secret in &self.secrets {
            for bytes in self.agents.sent_down().into_iter().chain(self.agents.sent_up()) {
                assert!(!holds(&bytes, secret), "the credential went to an agent");
            }
            let sent = self.vendor.sent_up();
            assert!(sent.iter().any(|bytes| holds(bytes, secret)), "the scan itself finds it");
        }
        // Standard error of all processes is below the same directory.
        for secret in keys.iter().map(|key| &key.text).chain(&self.secrets) {
            for dir in [self.keybrake.dir(), self.dir.path()] {
                let found = secrets_in_files(dir, secret);
                assert!(found.is_empty(), "a secret stands in {found:?}");
            }
        }
    }

    /// The error of a call that keybrake refuses: one request on the wire, none at the vendor, and an audit row.
    /// `run` makes the call and answers the SDK's error, with `status`, `code` and, where the SDK shows it,
    /// `request_id`.
    ///
    /// # Panics
    /// When it is otherwise.
    pub fn refused(&self, key: &Issued, run: impl FnOnce() -> Value) -> Value {
        let (before, at_vendor) = (self.agents.requests().len(), self.vendor.requests().len());
        // Rows of earlier calls may still be on their way.
        self.keybrake.settle();
        let rows = self.keybrake.rows(&key.id).len();
        let error = run();
        assert_eq!(self.agents.requests().len(), before + 1, "it is sent once: {error}");
        assert_eq!(self.vendor.requests().len(), at_vendor, "the vendor sees nothing: {error}");
        let rows = self.keybrake.eventually_rows(&key.id, rows + 1);
        let is_of_error = |row: &&Value| {
            let same = |name: &str, of_row: &str| error[name].is_null() || row[of_row] == error[name];
            let is_ours = row["outcome"] == "denied" && row["status"] == error["status"];
            is_ours && same("code", "policy_check_result") && same("request_id", "id")
        };
        let row = rows.iter().find(is_of_error).unwrap_or_else(|| panic!("{error} is not in {rows:#?}"));
        assert_eq!(row["amount_usd"].as_f64(), Some(0.0), "{row:#}");
        error
    }
}
