//! What a dataplane does after another one has taken over (rule Q23).

use anyhow::anyhow;
use crossbeam_channel::select;

use super::{CUT_WAIT, Running};
use crate::hand_over::Successor;
use crate::shard::Message;

impl Running {
    /// Finishes what runs, and tells the process that has taken over how it ends.
    pub(super) fn outlive(self, mut successor: Successor) -> anyhow::Result<()> {
        let mut late = crossbeam_channel::after(self.drain_timeout());
        let (mut left, mut is_cut, mut was_told) = (self.control.shards.len(), false, false);
        let mut told = successor.told.clone();
        while left > 0 {
            let is_over = select! {
                recv(told) -> frame => {
                    match frame {
                        Ok(frame) => successor.tell(&frame),
                        // No shard has anything more to say.
                        Err(_) => told = crossbeam_channel::never(),
                    }
                    false
                }
                recv(self.ended) -> _ => {
                    left = left.saturating_sub(1);
                    false
                }
                recv(late) -> _ => true,
                // It stops already, so only a second one means more.
                recv(self.signals) -> _ => std::mem::replace(&mut was_told, true),
            };
            if is_over && is_cut {
                eprintln!("keybrake-dataplane: some requests did not end; they are in doubt");
                break;
            }
            if is_over {
                is_cut = true;
                self.post_all(|| Message::Cut);
                late = crossbeam_channel::after(CUT_WAIT);
            }
        }
        for frame in successor.told.clone().try_iter() {
            successor.tell(&frame);
        }
        if !successor.knows_all() {
            return Err(anyhow!("process {} took over and was not told everything", successor.pid()));
        }
        eprintln!("keybrake-dataplane: stopped; process {} knows all", successor.pid());
        Ok(())
    }
}
