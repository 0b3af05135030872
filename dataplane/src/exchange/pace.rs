//! A turn within the vendor's quota.

use std::rc::Rc;
use std::time::Instant;

use keybrake_proto::deny::{Deny, Restriction};

use super::admission::Target;
use crate::pacing::{self, Taken, Turn};
use crate::shard::Shard;

/// Waits for a turn within the vendor's quota, where it has one and `kept` is none: a request that is decided anew has
/// sent nothing with the turn that it waited for, and takes no other one.
///
/// It stands before money: nothing is held while a request waits, so that neither its cap nor its day is bound by the
/// wait, and [`super::admission::admit`] decides everything anew behind it. Once something is held there is no wait but
/// for the disk and the vendor.
pub(super) async fn pace(shard: &Rc<Shard>, target: &Target, kept: Option<Taken>) -> Result<Taken, Deny> {
    let entry = target.entry();
    let credential = target.pool().vendor.credential(&entry.vendor_account);
    let Some(pacer) = credential.as_ref().and_then(|credential| credential.pacer.as_ref()) else {
        return Ok(Taken::free());
    };
    // The credential, and its quota with it, may have been replaced.
    if let Some(kept) = kept.filter(|kept| kept.is_of(pacer)) {
        return Ok(kept);
    }
    if pacer.try_take(Instant::now()) {
        return Ok(Taken::of(pacer));
    }
    shard.metrics.turns_waited.add(1);
    // Keys below one key take its turns: whoever issues a thousand has no more than one.
    match shard.turn(pacer, entry.root()).await {
        Turn::Granted => Ok(Taken::of(pacer)),
        Turn::Refused => {
            let retry_after_s = pacing::WAIT_MAX.as_secs().max(1);
            Err(Deny::Restriction(Restriction::VendorQuota { retry_after_s }))
        }
    }
}
