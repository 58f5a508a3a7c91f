//! The bounded way between two stages.
//!
//! A link either waits for its receiver (a recording can wait, nothing is lost) or keeps only the newest item and
//! counts what it overwrote (a camera can't wait). Closing it wakes both ends, so no stage outlives a cancellation.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What a timed receive found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<T> {
    /// An item.
    Item(T),
    /// Nothing came in time; the link is still open.
    TimedOut,
    /// The link is closed and empty: nothing will come any more.
    Closed,
}

/// What a full link does with one more item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
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
pub struct Link<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    policy: Policy,
    capacity: usize,
}

impl<T> fmt::Debug for Link<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Link")
            .field("policy", &self.policy)
            .field("capacity", &self.capacity)
            .field("len", &state.queue.len())
            .field("dropped", &state.dropped)
            .field("closed", &state.closed)
            .finish()
    }
}

impl<T> Link<T> {
    /// A link that holds at most `capacity` items (at least one).
    pub fn new(policy: Policy, capacity: usize) -> Self {
        let state = State { queue: VecDeque::new(), closed: false, dropped: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new(), policy, capacity: capacity.max(1) }
    }

    // A stage that panicked while holding the lock left a queue that is still whole.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an item in; false when the link is closed.
    pub fn send(&self, item: T) -> bool {
        let mut state = self.lock();
        while self.policy == Policy::Wait && state.queue.len() >= self.capacity && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        let oldest = if state.queue.len() >= self.capacity { state.queue.pop_front() } else { None };
        state.dropped += u64::from(oldest.is_some());
        state.queue.push_back(item);
        drop(state);
        self.changed.notify_all();
        // The lost item is freed outside the lock: it may be a large picture.
        drop(oldest);
        true
    }

    /// Waits for the next item; `None` when the link is closed and empty.
    pub fn receive(&self) -> Option<T> {
        match self.receive_until(None) {
            Received::Item(item) => Some(item),
            Received::TimedOut | Received::Closed => None,
        }
    }

    /// Waits for the next item for at most `timeout`.
    pub fn receive_timeout(&self, timeout: Duration) -> Received<T> {
        // A time-out beyond what the clock can tell is the same as none.
        self.receive_until(Instant::now().checked_add(timeout))
    }

    fn receive_until(&self, deadline: Option<Instant>) -> Received<T> {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.queue.pop_front() {
                drop(state);
                self.changed.notify_all();
                return Received::Item(item);
            }
            if state.closed {
                return Received::Closed;
            }
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Received::TimedOut;
                    }
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// The next item if one is there.
    pub fn try_receive(&self) -> Option<T> {
        let item = self.lock().queue.pop_front();
        self.changed.notify_all();
        item
    }

    /// No more items come. What is inside can still be received.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Closes the link and throws away what is inside: the receiver ends now.
    pub fn abort(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.queue.clear();
        drop(state);
        self.changed.notify_all();
    }

    /// Whether no more items can come.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Items overwritten so far.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, thread};

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
    fn an_item_that_was_received_is_not_counted_as_lost() {
        let link = Link::new(Policy::Newest, 1);
        for i in 0..5 {
            assert!(link.send(i));
            assert_eq!(link.receive(), Some(i));
        }
        assert_eq!(link.dropped(), 0);
    }

    #[test]
    fn close_refuses_new_items_and_hands_out_the_rest() {
        let link = Link::new(Policy::Newest, 2);
        link.send(1);
        link.close();
        assert!(!link.send(2) && link.is_closed());
        assert_eq!((link.receive(), link.receive()), (Some(1), None));
        assert_eq!(link.receive_timeout(Duration::from_secs(5)), Received::Closed);
    }

    #[test]
    fn close_wakes_every_waiting_receiver() {
        let link = Arc::new(Link::<u32>::new(Policy::Newest, 1));
        let receive = |link: Arc<Link<u32>>| thread::spawn(move || link.receive());
        let waiting: Vec<_> = (0..3).map(|_| receive(link.clone())).collect();
        thread::sleep(Duration::from_millis(20));
        link.close();
        for thread in waiting {
            assert!(matches!(thread.join(), Ok(None)));
        }
    }

    #[test]
    fn a_timed_receive_gives_up_while_open() {
        let link = Link::new(Policy::Newest, 1);
        let start = Instant::now();
        assert_eq!(link.receive_timeout(Duration::from_millis(30)), Received::TimedOut);
        assert!(start.elapsed() >= Duration::from_millis(30));
        link.send(1);
        assert_eq!(link.receive_timeout(Duration::MAX), Received::Item(1));
    }

    #[test]
    fn nothing_is_lost_uncounted_between_threads() {
        let link = Arc::new(Link::new(Policy::Newest, 4));
        let sender = {
            let link = link.clone();
            thread::spawn(move || {
                for i in 0..10_000 {
                    link.send(i);
                }
                link.close();
            })
        };
        let (mut received, mut last) = (0, None);
        while let Some(i) = link.receive() {
            assert!(last < Some(i), "{i} came after {last:?}");
            last = Some(i);
            received += 1;
        }
        assert!(sender.join().is_ok());
        assert_eq!((received + link.dropped(), last), (10_000, Some(9_999)));
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
