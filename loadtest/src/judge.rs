//! The checker: reads what the vendor, the agents, the audit and the harness wrote down, and says what does not hold.
//!
//! It runs when all is over, knows nothing of how the proxy works, and trusts the vendor's ledger: what stands there
//! as accepted was spent, whatever the proxy's books say.

pub(crate) mod command;
mod day;
mod evidence;
mod money;
mod report;
mod rows;
mod trace;

use evidence::Evidence;
use report::Violation;
use trace::Trace;

/// How exactly moments are compared, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Around midnight either day counts (rule Q10).
    slack_us: u64,
    /// How long after it was sent a call without an end may still be under way.
    window_us: u64,
}

/// Every violation, in the order of the rules.
fn judge(evidence: &Evidence, trace: &Trace, limits: Limits) -> Vec<Violation> {
    let mut found = evidence.unreadable.clone();
    money::caps(evidence, trace, limits, &mut found);
    rows::missing(evidence, trace, &mut found);
    rows::duplicate(evidence, &mut found);
    rows::unexplained(evidence, trace, limits, &mut found);
    rows::wrong(evidence, trace, &mut found);
    rows::revoked(evidence, trace, &mut found);
    rows::repeated(evidence, trace, &mut found);
    money::books(evidence, trace, limits, &mut found);
    money::falsely_full(evidence, trace, limits, &mut found);
    found
}

#[cfg(test)]
mod tests;
