//! The configuration, as operators get it wrong.

use super::*;

const VENDOR: &str = "[[vendor]]\nname = \"stripe\"\nbase_url = \"https://api.stripe.com\"\n";

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(text, environment).map_err(|error| error.to_string())
}

/// Checks that `text` behind a vendor is refused with all of `words`.
fn refused(text: &str, words: &[&str]) {
    let error = parse(&format!("{text}\n{VENDOR}"), &[]).unwrap_err();
    for word in words {
        assert!(error.contains(word), "`{word}` is missing in: {error}");
    }
}

#[test]
fn a_vendor_is_enough() {
    let config = parse(VENDOR, &[]).unwrap();
    assert_eq!(config.proxy, Proxy::default());
    assert_eq!(config.data.control_socket(), PathBuf::from("./data/control.sock"));
    assert_eq!(config.data.master_key(), KeySource::File(PathBuf::from("./data/master.key")));
    assert_eq!(config.durability.money, Money::Fsync);
    assert_eq!(config.vendors[0].origin().unwrap().authority(), "api.stripe.com");
}

#[test]
fn unknown_keys_and_impossible_values_are_named() {
    refused("[proxy]\nlisten_on = \"127.0.0.1:1\"", &["listen_on", "line 2"]);
    refused("[proxi]\nlisten = \"127.0.0.1:1\"", &["proxi"]);
    refused("[proxy]\nlisten = \"localhost\"", &["listen", "line 2"]);
    refused("[proxy]\ndriver = \"kqueue\"", &["kqueue", "io_uring"]);
    refused("[proxy]\nworkers = 1000", &["proxy.workers", "at most 256"]);
    refused("[proxy]\nworkers = -1", &["workers", "line 2"]);
    refused("[proxy]\nidle_timeout_s = 0", &["proxy.idle_timeout_s", "between 1 and 3600"]);
    refused("[proxy]\nbody_bytes_per_s_min = 0", &["proxy.body_bytes_per_s_min", "between 1 and"]);
    refused("[limits]\nrequests_per_key_max = 0", &["limits.requests_per_key_max", "between 1 and"]);
    refused("[limits]\nwrong_keys_per_s = 0", &["limits.wrong_keys_per_s", "between 1 and 100000"]);
    refused("[limits]\nbody_memory_bytes_max = 4194303", &["limits.body_memory_bytes_max", "4194304 bytes"]);
    refused("[limits]\ntrusted_addresses = [\"10.0.0.0/33\"]", &["10.0.0.0/33", "10.1.2.3"]);
    refused("[admin]\nlisten = \"127.0.0.1:8080\"", &["admin.listen", "differ"]);
    refused("[data]\ndir = \"\"", &["data.dir"]);
    refused("[durability]\nmoney = \"maybe\"", &["maybe", "fsync"]);
    refused("[issue]\nvendors = [\"twilio\"]", &["issue.vendors", "twilio"]);
    refused("[requests]\nmonthly_max = 0", &["requests.monthly_max", "between 1 and"]);
    refused("[issue]\ndepth_max = 9", &["issue.depth_max", "at most 8"]);
    refused("[issue]\nkeys_below_max = 0", &["issue.keys_below_max", "from 1 to 1000000"]);
    refused("[issue]\nkeys_below_max = 1000001", &["issue.keys_below_max", "from 1 to 1000000"]);
    refused("[issue]\ndaily_usd_cap_max = 1.5", &["\"150.5\""]);
    refused("[audit]\nquery_timeout_s = 0", &["audit.query_timeout_s", "between 1 and 50 seconds"]);
    refused("[audit]\nquery_memory_bytes_max = 1", &["audit.query_memory_bytes_max", "16777216"]);
    refused(VENDOR, &["vendor[1].name", "twice"]);
    assert!(parse("", &[]).unwrap_err().contains("at least one vendor"));
    let long = format!("[data]\ndir = \"/{}\"", "x".repeat(120));
    refused(&long, &["data.dir", "too long for a socket"]);
}

#[test]
fn tls_needs_both_files_and_speaks_no_version_before_1_2() {
    let tls = |text: &str| format!("[proxy.tls]\n{text}");
    let config = parse(&format!("{}\n{VENDOR}", tls("cert_file = \"c\"\nkey_file = \"k\"")), &[]).unwrap();
    assert_eq!((config.proxy.scheme(), config.proxy.is_open_to_readers()), ("https", false));
    assert_eq!(config.proxy.tls.map(|tls| tls.min_version), Some(TlsVersion::Tls12));
    refused(&tls("cert_file = \"c\""), &["key_file"]);
    refused(&tls("cert_file = \"\"\nkey_file = \"k\""), &["proxy.tls.cert_file", "PEM"]);
    refused(&tls("cert_file = \"c\"\nkey_file = \"k\"\nclient_ca_file = \"\""), &["client_ca_file"]);
    refused(&tls("cert_file = \"c\"\nkey_file = \"k\"\nmin_version = \"1.1\""), &["1.1", "1.2", "1.3"]);
    refused(&tls("cert_file = \"c\"\nkey_file = \"k\"\nverify = false"), &["verify"]);
    let files =
        [("KEYBRAKE_PROXY__TLS__CERT_FILE", "c"), ("KEYBRAKE_PROXY__TLS__KEY_FILE", "/run/secrets/k")];
    let config = parse(VENDOR, &files).unwrap();
    assert_eq!(config.proxy.tls.map(|tls| tls.key_file), Some(PathBuf::from("/run/secrets/k")));
}

#[test]
fn keys_travel_in_the_open_only_beyond_loopback() {
    let check = |listen: &str, open: bool| {
        let config = parse(&format!("[proxy]\nlisten = \"{listen}\"\n{VENDOR}"), &[]).unwrap();
        assert_eq!(config.proxy.is_open_to_readers(), open, "{listen}");
    };
    check("127.0.0.1:8080", false);
    check("[::1]:8080", false);
    check("0.0.0.0:8080", true);
    check("[::]:8080", true);
    check("192.0.2.1:8080", true);
}

#[test]
fn e3_a_base_url_is_an_origin_and_nothing_more() {
    let check = |url: &str, extra: &str| {
        parse(&format!("[[vendor]]\nname = \"stripe\"\nbase_url = \"{url}\"\n{extra}"), &[])
    };
    for url in [
        "ftp://x",
        "api.stripe.com",
        "https://",
        "https://user@host",
        "https://host/path",
        "https://host?x",
        "https://host#x",
        "https://ho st",
        "https://host:0",
        "https://host:99999",
        "https://host:x",
        "https://[::1",
        "https://[::1]garbage",
        "http://api.stripe.com",
    ] {
        assert!(check(url, "").unwrap_err().contains("vendor[0].base_url"), "{url}");
    }
    assert!(check("http://10.0.0.1", "allow_plain_http = true").unwrap_err().contains("loopback"));
    assert!(check("http://127.0.0.1:8420", "allow_plain_http = true").is_ok());
    assert!(check("http://[::1]:8420", "allow_plain_http = true").is_ok());
    assert!(check("https://api.stripe.com/", "").is_ok());
    assert!(check("https://x", "timeout_s = 0").unwrap_err().contains("vendor[0].timeout_s"));
}

#[test]
fn s1_a_secret_in_the_wrong_place_is_not_shown() {
    let errors = [
        parse(&format!("{VENDOR}credential = \"sk_live_SECRET\""), &[]).unwrap_err(),
        parse(&format!("{VENDOR}credential_env = \"sk_live_SECRET\""), &[]).unwrap_err(),
    ];
    for error in errors {
        assert!(error.contains("credential") && !error.contains("SECRET"), "{error}");
    }
}

#[test]
fn the_environment_overrides_the_file() {
    let environment = [
        ("KEYBRAKE_PROXY__LISTEN", "127.0.0.1:9999"),
        ("KEYBRAKE_PROXY__WORKERS", "3"),
        ("KEYBRAKE_DATA__DIR", "/tmp/kb"),
        ("KEYBRAKE_ADMIN_TOKEN", "not an override"),
        ("HOME", "/"),
    ];
    let config = parse(VENDOR, &environment).unwrap();
    assert_eq!(config.proxy.listen.port(), 9999);
    assert_eq!(config.proxy.workers, 3);
    assert_eq!(config.data.dir, PathBuf::from("/tmp/kb"));
    assert!(parse(VENDOR, &[("KEYBRAKE_PROXY__LISTN", "x")]).unwrap_err().contains("listn"));
    assert!(parse(VENDOR, &[("KEYBRAKE_VENDOR__NAME", "x")]).unwrap_err().contains("use the file"));
}

#[test]
fn g2_what_limits_leaves_out_is_a_share_of_all_connections() {
    let figures = |text: &str, descriptors| {
        Figures::of(&parse(&format!("{text}\n{VENDOR}"), &[]).unwrap(), descriptors)
    };
    let by_default = figures("", 1 << 20);
    let Figures { connections_max, connections_per_address_max, requests_per_key_max, .. } = by_default;
    assert_eq!((connections_max, connections_per_address_max, requests_per_key_max), (20_000, 10_000, 5000));
    let few = figures("", 1024);
    assert_eq!(
        (few.connections_max, few.connections_per_address_max, few.requests_per_key_max),
        (768, 384, 192)
    );
    let counts = |figures: &Figures, address: &str| figures.counts(address.parse().unwrap());
    for (address, counted) in
        [("127.0.0.9", false), ("::ffff:127.0.0.9", false), ("::1", false), ("10.0.0.1", true)]
    {
        assert_eq!(counts(&by_default, address), counted, "{address}");
    }
    let all = figures("[limits]\ntrusted_addresses = []\nconnections_per_address_max = 3", 1 << 20);
    assert!(counts(&all, "127.0.0.1") && all.connections_per_address_max == 3);
}
