//! The side that holds: an announcer.

use std::time::Duration;

use crate::{CUSHION, LENGTH, Moment, RENEW_EVERY, RETRY_AFTER, Term};

/// After which time without an answer a question is taken to be lost.
const ANSWER_WITHIN: Duration = RENEW_EVERY;

/// The lease of this process.
#[derive(Debug, Clone, Default)]
pub struct Holder {
    held: Option<Held>,
    /// When the question went out that has no answer yet.
    asked_at: Option<Moment>,
    /// Not to be asked before.
    ask_at: Moment,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    term: Term,
    /// When this process stops answering.
    until: Moment,
}

/// What to ask the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// For a new lease.
    Begin,
    Renew(Term),
}

/// What the service answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Granted(Term),
    /// The term is over.
    Over,
    /// None: it cannot be reached, or cannot say.
    None,
}

impl Holder {
    /// The term under which this process may answer at `now`. To be asked before each frame.
    pub fn term(&self, now: Moment) -> Option<Term> {
        let held = self.held?;
        (now < held.until).then_some(held.term)
    }

    /// When the term is over, if it is not renewed: what is answered by it has to stop then.
    pub fn until(&self) -> Option<(Term, Moment)> {
        self.held.map(|held| (held.term, held.until))
    }

    /// When [`Self::ask`] is to be called.
    pub fn ask_at(&self) -> Moment {
        match self.asked_at {
            Some(asked_at) => asked_at + ANSWER_WITHIN,
            None => self.ask_at,
        }
    }

    /// What to ask. It counts from `now`, so it must not be sent before.
    pub fn ask(&mut self, now: Moment) -> Ask {
        self.asked_at = Some(now);
        match self.held {
            Some(held) => Ask::Renew(held.term),
            None => Ask::Begin,
        }
    }

    /// Takes in the answer to the last question. Answers to earlier ones must not be handed in.
    pub fn answered(&mut self, answer: Answer, now: Moment) {
        let Some(asked_at) = self.asked_at.take() else {
            return;
        };
        self.ask_at = asked_at + RENEW_EVERY;
        match answer {
            Answer::Granted(term) => {
                let until = asked_at + LENGTH - CUSHION;
                self.held = Some(Held { term, until });
            }
            Answer::Over => {
                self.held = None;
                self.ask_at = now;
            }
            Answer::None => self.ask_at = now.max(asked_at + RETRY_AFTER),
        }
    }

    /// Gives the lease up: this process answers nothing from now on. The term, to be told.
    pub fn give_up(&mut self) -> Option<Term> {
        self.asked_at = None;
        self.held.take().map(|held| held.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Moment {
        Duration::from_millis(milliseconds)
    }

    fn granted(asked_at: Moment, answered_at: Moment) -> Holder {
        let mut holder = Holder::default();
        assert_eq!(holder.ask(asked_at), Ask::Begin);
        holder.answered(Answer::Granted(Term(1)), answered_at);
        holder
    }

    #[test]
    fn a_lease_counts_from_the_question_not_from_the_answer() {
        let holder = granted(at(0), at(800));
        let until = LENGTH - CUSHION;
        assert_eq!(holder.until(), Some((Term(1), until)));
        assert_eq!(holder.term(until - at(1)), Some(Term(1)));
        assert_eq!(holder.term(until), None);
        assert_eq!(holder.ask_at(), RENEW_EVERY);
    }

    #[test]
    fn a_lost_question_is_asked_again_and_its_late_answer_is_no_answer_to_the_next() {
        let mut holder = granted(at(0), at(1));
        assert_eq!(holder.ask(at(1000)), Ask::Renew(Term(1)));
        assert_eq!(holder.ask_at(), at(1000) + RENEW_EVERY);
        assert_eq!(holder.ask(at(2000)), Ask::Renew(Term(1)));
        holder.answered(Answer::Granted(Term(1)), at(2001));
        assert_eq!(holder.until(), Some((Term(1), at(2000) + LENGTH - CUSHION)));
        // The same answer twice.
        holder.answered(Answer::Over, at(2002));
        assert_eq!(holder.term(at(2003)), Some(Term(1)));
    }

    #[test]
    fn without_a_service_the_lease_runs_out() {
        let mut holder = granted(at(0), at(1));
        let mut asked = 0;
        while holder.term(holder.ask_at()).is_some() {
            let now = holder.ask_at();
            holder.ask(now);
            holder.answered(Answer::None, now + at(5));
            asked += 1;
        }
        assert_eq!(asked, 8, "at 0.9 s, and then four times a second");
        // The service may have waited longer than this node, so the old term is tried first.
        assert_eq!(holder.ask(at(4000)), Ask::Renew(Term(1)));
        holder.answered(Answer::Over, at(4001));
        assert_eq!(
            (holder.ask_at(), holder.ask(at(4001))),
            (at(4001), Ask::Begin)
        );
    }

    #[test]
    fn what_is_given_up_is_not_held() {
        let mut holder = granted(at(0), at(1));
        holder.ask(at(1000));
        assert_eq!(holder.give_up(), Some(Term(1)));
        holder.answered(Answer::Granted(Term(1)), at(1001));
        assert_eq!((holder.term(at(1002)), holder.give_up()), (None, None));
    }
}
