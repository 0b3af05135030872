//! Panics on demand, so that a test sees what a bug of keybrake does (rule G8). A release build has nothing of it.

/// The variable without which nothing is done.
#[cfg(debug_assertions)]
const ENABLED: &str = "KEYBRAKE_FAULTS";

/// The request's field that names a place.
pub(crate) const FIELD: &str = "keybrake-fault";

/// Panics if a request asks for that at `place`.
#[cfg(debug_assertions)]
pub(crate) fn at(place: &str, asked: Option<&[u8]>) {
    let is_asked = asked == Some(place.as_bytes()) && std::env::var_os(ENABLED).is_some();
    assert!(!is_asked, "a test asked for a panic at {place}");
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) fn at(_: &str, _: Option<&[u8]>) {}
