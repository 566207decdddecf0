//! How far this node has applied its stream: up to where it answers for nothing that the stream has
//! taken from it, neither now nor after a restart from its disk.
//!
//! Pure. A frame counts once the engine has done what follows from it, and once everything that it
//! took away is gone from the disk too: an announcer that starts without ipam-service announces what
//! its disk has, and an address that was acknowledged as gone may be somebody else's by then.

use std::collections::VecDeque;

/// Frames that may wait one by one. With more, the last ones wait together.
const LIMIT: usize = 1024;

/// A frame of the stream that is to be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// That is told to the server.
    pub position: u64,
    /// What the engine must have done.
    pub mark: u64,
    /// The last change that took something away, which the disk must have.
    pub loss: u64,
}

/// The frames of one stream that wait.
#[derive(Debug, Default)]
pub struct Progress {
    waiting: VecDeque<Step>,
}

impl Progress {
    /// A frame was taken in.
    pub fn reached(&mut self, step: Step) {
        if self.waiting.len() == LIMIT
            && let Some(last) = self.waiting.back_mut()
        {
            *last = step;
        } else {
            self.waiting.push_back(step);
        }
    }

    /// The position that may be told now, if it is a new one. `mark`: as far as the engine is;
    /// `saved`: as far as the disk is.
    pub fn acknowledge(&mut self, mark: u64, saved: u64) -> Option<u64> {
        let mut told = None;
        while let Some(step) = self.waiting.front()
            && step.mark <= mark
            && step.loss <= saved
        {
            told = self.waiting.pop_front().map(|step| step.position);
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(position: u64, mark: u64, loss: u64) -> Step {
        Step {
            position,
            mark,
            loss,
        }
    }

    #[test]
    fn a_position_waits_for_the_engine_and_for_the_disk_and_later_ones_wait_behind_it() {
        let mut progress = Progress::default();
        progress.reached(step(5, 1, 0));
        progress.reached(step(6, 2, 1));
        progress.reached(step(7, 3, 1));
        assert_eq!(progress.acknowledge(0, 9), None);
        assert_eq!(progress.acknowledge(3, 0), Some(5));
        assert_eq!(progress.acknowledge(2, 1), Some(6));
        assert_eq!(progress.acknowledge(2, 1), None);
        assert_eq!(progress.acknowledge(3, 1), Some(7));
    }

    #[test]
    fn while_the_disk_fails_few_frames_are_kept_and_none_is_acknowledged_early() {
        let mut progress = Progress::default();
        for number in 1..=3000 {
            progress.reached(step(number, number, number));
        }
        assert_eq!(progress.waiting.len(), LIMIT);
        assert_eq!(progress.acknowledge(3000, 2999), Some(1023));
        assert_eq!(progress.acknowledge(3000, 3000), Some(3000));
    }
}
