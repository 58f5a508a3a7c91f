//! The bounded way between two stages.
//!
//! A link either waits for its receiver (a recording can wait, nothing is lost) or keeps only the newest item and
//! counts what it overwrote (a camera can't wait). Closing it wakes both ends, so no stage outlives a cancellation.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// What a full link does with one more item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// The sender waits for room.
    Wait,
    /// The oldest item is dropped and counted.
    Newest,
}

struct State<T> {
    queue: VecDeque<T>,
    closed: bool,
    dropped: u64,
}

/// A bounded queue with a [`Policy`].
pub(crate) struct Link<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    policy: Policy,
    capacity: usize,
}

impl<T> Link<T> {
    /// A link that holds at most `capacity` items (at least one).
    pub(crate) fn new(policy: Policy, capacity: usize) -> Self {
        let state = State { queue: VecDeque::new(), closed: false, dropped: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new(), policy, capacity: capacity.max(1) }
    }

    // A stage that panicked while holding the lock left a queue that is still whole.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an item in; false when the link is closed.
    pub(crate) fn send(&self, item: T) -> bool {
        let mut state = self.lock();
        while self.policy == Policy::Wait && state.queue.len() >= self.capacity && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        while state.queue.len() >= self.capacity {
            state.queue.pop_front();
            state.dropped += 1;
        }
        state.queue.push_back(item);
        drop(state);
        self.changed.notify_all();
        true
    }

    /// Waits for the next item; `None` when the link is closed and empty.
    pub(crate) fn receive(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.queue.pop_front() {
                drop(state);
                self.changed.notify_all();
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next item if one is there.
    pub(crate) fn try_receive(&self) -> Option<T> {
        let item = self.lock().queue.pop_front();
        self.changed.notify_all();
        item
    }

    /// No more items come. What is inside can still be received.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Closes the link and throws away what is inside: the receiver ends now.
    pub(crate) fn abort(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.queue.clear();
        drop(state);
        self.changed.notify_all();
    }

    /// Items overwritten so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.lock().dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, thread, time::Duration};

    #[test]
    fn newest_wins_and_drops_are_counted() {
        let link = Link::new(Policy::Newest, 1);
        for i in 0..5 {
            assert!(link.send(i));
        }
        assert_eq!((link.receive(), link.dropped()), (Some(4), 4));
        assert_eq!(link.try_receive(), None);
    }

    #[test]
    fn a_waiting_link_loses_nothing() {
        let link = Arc::new(Link::new(Policy::Wait, 2));
        let sender = {
            let link = link.clone();
            thread::spawn(move || {
                for i in 0..100 {
                    link.send(i);
                }
                link.close();
            })
        };
        let got: Vec<i32> = std::iter::from_fn(|| link.receive()).collect();
        assert!(sender.join().is_ok());
        assert_eq!(got, (0..100).collect::<Vec<_>>());
        assert_eq!(link.dropped(), 0);
    }

    #[test]
    fn abort_frees_a_sender_that_waits() {
        let link = Arc::new(Link::new(Policy::Wait, 1));
        link.send(0);
        let sender = {
            let link = link.clone();
            thread::spawn(move || link.send(1))
        };
        thread::sleep(Duration::from_millis(20));
        link.abort();
        assert!(matches!(sender.join(), Ok(false)));
        assert_eq!(link.receive(), None);
    }
}
