//! Bounded hand-over between stages that never makes the producer wait.
//!
//! [`Mailbox`] holds one value: the newest wins. [`DropOldest`] holds up to `capacity` values and gives up the oldest.
//! Both count what was lost, wake a waiting consumer when closed, and hand out what was left before they report the end.
//! Handles are cheap clones of one queue; any handle may put, take or close.

use std::{
    collections::VecDeque,
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What a timed take found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken<T> {
    /// A value.
    Value(T),
    /// Nothing came in time; the queue is still open.
    TimedOut,
    /// The queue is closed and empty: nothing will come any more.
    Closed,
}

struct State<T> {
    values: VecDeque<T>,
    closed: bool,
    dropped: u64,
}

struct Ring<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    capacity: NonZeroUsize,
}

impl<T> Ring<T> {
    fn new(capacity: NonZeroUsize) -> Arc<Self> {
        let state = State { values: VecDeque::with_capacity(capacity.get()), closed: false, dropped: 0 };
        Arc::new(Self { state: Mutex::new(state), filled: Condvar::new(), capacity })
    }

    // No user code runs under the lock, so a poisoned lock still guards a sound state.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, value: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(value);
        }
        let oldest = if state.values.len() >= self.capacity.get() { state.values.pop_front() } else { None };
        state.dropped += u64::from(oldest.is_some());
        state.values.push_back(value);
        drop(state);
        self.filled.notify_one();
        // The lost value is freed outside the lock: it may be a large picture.
        drop(oldest);
        Ok(())
    }

    fn take_until(&self, deadline: Option<Instant>) -> Taken<T> {
        let mut state = self.lock();
        loop {
            if let Some(value) = state.values.pop_front() {
                return Taken::Value(value);
            }
            if state.closed {
                return Taken::Closed;
            }
            state = match deadline {
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Taken::TimedOut;
                    }
                    self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }
}

/// A bounded queue that gives up its oldest value when a new one finds it full. See the module.
pub struct DropOldest<T>(Arc<Ring<T>>);

impl<T> Clone for DropOldest<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for DropOldest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("DropOldest")
            .field("capacity", &self.0.capacity)
            .field("len", &state.values.len())
            .field("dropped", &state.dropped)
            .field("closed", &state.closed)
            .finish()
    }
}

impl<T> DropOldest<T> {
    /// An empty, open queue of `capacity` values.
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self(Ring::new(capacity))
    }

    /// Appends a value without ever waiting; when the queue is full the oldest value is dropped and counted.
    ///
    /// # Errors
    /// Gives the value back when the queue is closed: the producer should stop.
    pub fn put(&self, value: T) -> Result<(), T> {
        self.0.put(value)
    }

    /// The oldest value, waiting for one; `None` when the queue is closed and empty.
    pub fn take(&self) -> Option<T> {
        match self.0.take_until(None) {
            Taken::Value(value) => Some(value),
            Taken::TimedOut | Taken::Closed => None,
        }
    }

    /// The oldest value, waiting for at most `timeout`.
    pub fn take_timeout(&self, timeout: Duration) -> Taken<T> {
        // A time-out beyond what the clock can tell is the same as none.
        self.0.take_until(Instant::now().checked_add(timeout))
    }

    /// The oldest value if there is one now.
    pub fn try_take(&self) -> Option<T> {
        self.0.lock().values.pop_front()
    }

    /// All values there are now, oldest first.
    pub fn drain(&self) -> Vec<T> {
        self.0.lock().values.drain(..).collect()
    }

    /// Refuses further values and wakes all who wait. What is inside can still be taken.
    pub fn close(&self) {
        self.0.close();
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.0.lock().closed
    }

    /// Values lost so far because newer ones came.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }

    /// Values waiting now.
    pub fn len(&self) -> usize {
        self.0.lock().values.len()
    }

    /// Whether nothing waits now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most values it holds.
    pub fn capacity(&self) -> usize {
        self.0.capacity.get()
    }
}

/// One value, newest wins: the hand-over of live frames. See the module.
pub struct Mailbox<T>(DropOldest<T>);

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mailbox").field(&self.0).finish()
    }
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Mailbox<T> {
    /// An empty, open mailbox.
    pub fn new() -> Self {
        Self(DropOldest::new(NonZeroUsize::MIN))
    }

    /// Replaces the value without ever waiting; a value that nobody took is dropped and counted.
    ///
    /// # Errors
    /// Gives the value back when the mailbox is closed: the producer should stop.
    pub fn put(&self, value: T) -> Result<(), T> {
        self.0.put(value)
    }

    /// The newest value, waiting for one; `None` when the mailbox is closed and empty.
    pub fn take(&self) -> Option<T> {
        self.0.take()
    }

    /// The newest value, waiting for at most `timeout`.
    pub fn take_timeout(&self, timeout: Duration) -> Taken<T> {
        self.0.take_timeout(timeout)
    }

    /// The newest value if there is one now.
    pub fn try_take(&self) -> Option<T> {
        self.0.try_take()
    }

    /// Refuses further values and wakes all who wait. A value inside can still be taken.
    pub fn close(&self) {
        self.0.close();
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Values lost so far because newer ones came.
    pub fn dropped(&self) -> u64 {
        self.0.dropped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn ring(capacity: usize) -> DropOldest<u32> {
        DropOldest::new(NonZeroUsize::new(capacity).expect("a capacity above zero"))
    }

    #[test]
    fn mailbox_keeps_the_newest_and_counts_the_lost() {
        let mailbox = Mailbox::new();
        for value in 0..5 {
            mailbox.put(value).expect("open");
        }
        assert_eq!((mailbox.try_take(), mailbox.try_take(), mailbox.dropped()), (Some(4), None, 4));
    }

    #[test]
    fn a_value_that_was_taken_is_not_counted_as_lost() {
        let mailbox = Mailbox::new();
        for value in 0..5 {
            mailbox.put(value).expect("open");
            assert_eq!(mailbox.take(), Some(value));
        }
        assert_eq!(mailbox.dropped(), 0);
    }

    #[test]
    fn ring_drops_the_oldest_and_keeps_the_order() {
        let ring = ring(3);
        for value in 0..7 {
            ring.put(value).expect("open");
        }
        assert_eq!((ring.len(), ring.capacity(), ring.dropped()), (3, 3, 4));
        assert_eq!(ring.take(), Some(4));
        assert_eq!(ring.drain(), [5, 6]);
        assert!(ring.is_empty());
    }

    #[test]
    fn close_refuses_new_values_and_hands_out_the_rest() {
        let ring = ring(2);
        ring.put(1).expect("open");
        ring.close();
        assert_eq!(ring.put(2), Err(2));
        assert!(ring.is_closed());
        assert_eq!((ring.take(), ring.take()), (Some(1), None));
        assert_eq!(ring.take_timeout(Duration::from_secs(5)), Taken::Closed);
    }

    #[test]
    fn close_wakes_every_waiting_consumer() {
        let mailbox = Mailbox::<u32>::new();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let mailbox = mailbox.clone();
                thread::spawn(move || mailbox.take())
            })
            .collect();
        thread::sleep(Duration::from_millis(20));
        mailbox.close();
        for thread in waiting {
            assert_eq!(thread.join().expect("no panic"), None);
        }
    }

    #[test]
    fn take_waits_for_a_value_of_another_thread() {
        let mailbox = Mailbox::new();
        let consumer = thread::spawn({
            let mailbox = mailbox.clone();
            move || mailbox.take()
        });
        thread::sleep(Duration::from_millis(20));
        mailbox.put(7).expect("open");
        assert_eq!(consumer.join().expect("no panic"), Some(7));
    }

    #[test]
    fn a_timed_take_gives_up_while_open() {
        let mailbox = Mailbox::<u32>::new();
        let start = Instant::now();
        assert_eq!(mailbox.take_timeout(Duration::from_millis(30)), Taken::TimedOut);
        assert!(start.elapsed() >= Duration::from_millis(30));
        mailbox.put(1).expect("open");
        assert_eq!(mailbox.take_timeout(Duration::MAX), Taken::Value(1));
    }

    #[test]
    fn nothing_is_lost_uncounted_between_threads() {
        let ring = ring(4);
        let producer = thread::spawn({
            let ring = ring.clone();
            move || {
                for value in 0..10_000 {
                    ring.put(value).expect("open");
                }
                ring.close();
            }
        });
        let (mut taken, mut last) = (0, None);
        while let Some(value) = ring.take() {
            assert!(last < Some(value), "{value} came after {last:?}");
            last = Some(value);
            taken += 1;
        }
        producer.join().expect("no panic");
        assert_eq!((taken + ring.dropped(), last), (10_000, Some(9_999)));
    }
}
