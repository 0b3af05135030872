//! The vendor's objects that calls act on: their ids, what they counted, and what a look-up says of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::amount::{Left, Subject};
use super::currency::Currency;
use crate::json::{self, Scalar};

/// Bytes of an object's id; Stripe's own stay below 30.
const OBJECT_ID_BYTES_MAX: usize = 64;

/// The id of a vendor's object: letters, digits and `_`, at most 64.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectId(String);

impl ObjectId {
    /// Reads an id.
    pub fn parse(text: &str) -> Option<ObjectId> {
        let is_id = (1..=OBJECT_ID_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_id.then(|| ObjectId(text.to_owned()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The object that a request acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acting {
    /// What is known of its kind.
    pub subject: &'static Subject,
    /// Its id.
    pub id: ObjectId,
}

impl Acting {
    /// The path it is read at.
    pub fn path(&self) -> String {
        format!("{}{}", self.subject.collection, self.id)
    }
}

/// What a vault key counted for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// In minor units.
    pub minor: u64,
    /// Their currency.
    pub currency: Currency,
}

/// What the vendor said of an object before a call on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookedUp {
    /// What is left of it, in minor units.
    pub left: u64,
    /// Their currency.
    pub currency: Currency,
}

/// What is known beside the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// What its object counted for this key.
    pub counted: Option<Counted>,
    /// What a look-up found.
    pub looked_up: Option<LookedUp>,
}

/// Why a look-up does not tell what is left of an object: the call on it is refused under a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// The reply is not that object, or its figures cannot be read.
    Unreadable,
    /// Its amount can still grow.
    CanGrow,
}

impl LookupError {
    /// For the message of a denial.
    pub const fn as_str(self) -> &'static str {
        match self {
            LookupError::Unreadable => "the vendor's object that it acts on cannot be read",
            LookupError::CanGrow => {
                "the object that it acts on can still grow between the look-up and this call; finalize it first"
            }
        }
    }
}

/// What the reply to a look-up says is left of the object.
///
/// # Errors
/// [`LookupError`]; a wrong figure here would be held instead of what can be spent.
pub fn looked_up(subject: &Subject, body: Option<&[u8]>) -> Result<LookedUp, LookupError> {
    let (first, second) = match subject.left {
        // A name that no object has.
        Left::Whole(member) => (member, "\0"),
        Left::FirstOf(first, second) | Left::Less(first, second) => (first, second),
    };
    let members = ["object", "status", "currency", first, second];
    let body = body.ok_or(LookupError::Unreadable)?;
    let [object, status, currency, first, second] =
        json::read_top_level(body, members).map_err(|_| LookupError::Unreadable)?;
    let is = |value: &Option<Scalar<'_>>, text: &str| matches!(value, Some(Scalar::Text(of)) if of == text);
    if !is(&object, subject.object) {
        return Err(LookupError::Unreadable);
    }
    if subject.status.is_some_and(|wanted| !is(&status, wanted)) {
        return Err(LookupError::CanGrow);
    }
    let Some(Scalar::Text(currency)) = &currency else { return Err(LookupError::Unreadable) };
    let currency = Currency::parse(currency).ok_or(LookupError::Unreadable)?;
    let left = match (subject.left, first, second) {
        (Left::Whole(_) | Left::FirstOf(..), Some(Scalar::Unsigned(whole)), _)
        | (Left::FirstOf(..), None | Some(Scalar::Null), Some(Scalar::Unsigned(whole))) => whole,
        (Left::Less(..), Some(Scalar::Unsigned(whole)), Some(Scalar::Unsigned(less))) => {
            whole.checked_sub(less).ok_or(LookupError::Unreadable)?
        }
        _ => return Err(LookupError::Unreadable),
    };
    Ok(LookedUp { left, currency })
}
