//! Cycles that wait more than they work are played side by side, each with what it draws of its own.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::random::Random;
use super::report::Report;

/// Plays each of `items` on one of so many threads; what they find is put together.
pub(crate) fn side_by_side<T: Send>(
    lanes: usize,
    items: impl IntoIterator<Item = T>,
    random: &mut Random,
    report: &mut Report,
    play: impl Fn(T, Random, &mut Report) + Sync,
) {
    let items = items.into_iter().map(|item| (item, random.fork("lane")));
    let (items, found) = (Mutex::new(items.collect::<VecDeque<_>>()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let lane = || {
            let mut mine = report.empty();
            loop {
                let next = items.lock().unwrap().pop_front();
                let Some((item, random)) = next else { break };
                super::caught(&mut mine, |mine| play(item, random, mine));
            }
            found.lock().unwrap().push(mine);
        };
        for _ in 0..lanes {
            scope.spawn(lane);
        }
    });
    for part in found.into_inner().unwrap() {
        report.add(part);
    }
}
