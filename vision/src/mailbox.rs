//! The latest-frame mailbox: newest wins, drops are counted.
