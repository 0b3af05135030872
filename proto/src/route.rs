//! Where a request path leads: a vendor's canonical path, or one of keybrake's own.
//!
//! The canonical path is always a suffix of the bytes that arrived, so what is matched is what is
//! sent (N1, rule A4); what does not fit the grammar is refused, never normalized.

/// Where a path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// `/<vendor>/…`: a vendor named by the mount.
    Vendor {
        /// The first segment; whether such a vendor is configured is the caller's question.
        mount: &'a [u8],
        /// The vendor's own path.
        path: &'a [u8],
    },
    /// A bare `/v1/…` or `/v2/…`: of the key's own vendor (stripe-node takes no prefix).
    Bare {
        /// The vendor's own path.
        path: &'a [u8],
    },
    /// `/vault/keys`, `/vault_keys` and below: relayed to the admin process.
    Keys,
    /// `/livez`: the process answers.
    Live,
    /// `/readyz`: it would admit requests.
    Ready,
}

/// A path outside the grammar of rule A1: an empty or dotted segment, a trailing slash, or
/// nothing behind the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous;

/// Decides where `path` leads. Its bytes were checked by [`crate::http1`].
pub fn route(path: &[u8]) -> Result<Route<'_>, Ambiguous> {
    match path {
        b"/livez" => return Ok(Route::Live),
        b"/readyz" => return Ok(Route::Ready),
        b"/vault/keys" | b"/vault_keys" | b"/vault/keys/self" => return Ok(Route::Keys),
        _ => {}
    }
    let (mount, rest) = first_segment(path).ok_or(Ambiguous)?;
    if matches!(mount, b"v1" | b"v2") {
        return canonical(path).map(|path| Route::Bare { path });
    }
    if mount.is_empty() {
        return Err(Ambiguous);
    }
    let path = fold(rest);
    canonical(path).map(|path| Route::Vendor { mount, path })
}

/// Skips what SDKs put between the mount and the path when their base URL ends in `/`, `/v1` or
/// `/v1/` (docs/stripe.md): they only concatenate.
fn fold(rest: &[u8]) -> &[u8] {
    let rest = skip_doubled_slash(rest);
    let doubled = rest.strip_prefix(b"/v1").map(skip_doubled_slash);
    match doubled {
        Some(path) if path.starts_with(b"/v1/") || path.starts_with(b"/v2/") => path,
        Some(_) | None => rest,
    }
}

fn skip_doubled_slash(path: &[u8]) -> &[u8] {
    match path {
        [b'/', rest @ ..] if rest.starts_with(b"/") => rest,
        _ => path,
    }
}

fn first_segment(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = path.strip_prefix(b"/")?;
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    rest.split_at_checked(end)
}

fn canonical(path: &[u8]) -> Result<&[u8], Ambiguous> {
    let segments = path.strip_prefix(b"/").ok_or(Ambiguous)?;
    let clean = segments
        .split(|byte| *byte == b'/')
        .all(|segment| !segment.is_empty() && segment.iter().any(|byte| *byte != b'.'));
    if clean { Ok(path) } else { Err(Ambiguous) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Result<Route<'_>, Ambiguous>) {
        assert_eq!(route(path.as_bytes()), expected, "{path}");
    }

    #[test]
    fn the_four_base_urls_of_the_python_sdk_lead_to_one_path() {
        for path in
            ["/stripe/v1/charges", "/stripe//v1/charges", "/stripe/v1/v1/charges", "/stripe/v1//v1/charges"]
        {
            check(path, Ok(Route::Vendor { mount: b"stripe", path: b"/v1/charges" }));
        }
        check("/stripe/v1/v2/core/events", Ok(Route::Vendor { mount: b"stripe", path: b"/v2/core/events" }));
    }

    #[test]
    fn a_bare_path_is_of_the_keys_own_vendor() {
        check("/v1/charges", Ok(Route::Bare { path: b"/v1/charges" }));
        check("/v2/core/events", Ok(Route::Bare { path: b"/v2/core/events" }));
    }

    #[test]
    fn paths_of_ours_are_not_a_vendors() {
        check("/vault/keys", Ok(Route::Keys));
        check("/vault_keys", Ok(Route::Keys));
        check("/vault/keys/self", Ok(Route::Keys));
        check("/livez", Ok(Route::Live));
        check("/readyz", Ok(Route::Ready));
    }

    #[test]
    fn a1_ambiguous_paths_are_refused() {
        for path in [
            "/",
            "//",
            "/stripe",
            "/stripe/",
            "/stripe//",
            "/stripe///v1/charges",
            "/stripe/v1//charges",
            "/stripe/v1/charges/",
            "/stripe/v1/../charges",
            "/stripe/v1/./charges",
            "/stripe/v1/...",
            "//v1/charges",
            "/v1//charges",
            "/v1/charges/",
            "/v1/",
            "/stripe/v1/v1//charges",
        ] {
            check(path, Err(Ambiguous));
        }
    }
}
