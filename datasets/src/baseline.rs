//! Blind baselines: the metronome, the silent coach.
