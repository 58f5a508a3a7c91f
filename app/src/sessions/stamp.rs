//! Dates without a calendar library: the time in UTC, to the second.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(pub(crate) u64);

impl Stamp {
    /// Now; a clock before 1970 counts as 1970.
    pub(crate) fn now() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }

    /// Year, month, day, hour, minute, second.
    fn parts(self) -> [u64; 6] {
        let (days, rest) = (self.0 / 86_400, self.0 % 86_400);
        // the proleptic Gregorian calendar in eras of 400 years that begin in March
        let z = days + 719_468;
        let (era, of_era) = (z / 146_097, z % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * march + 2) / 5 + 1;
        let month = if march < 10 { march + 3 } else { march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        [year, month, day, rest / 3600, rest / 60 % 60, rest % 60]
    }

    /// `2026-11-24T14-56-03Z`, which every file system takes.
    pub(crate) fn file_name(self) -> String {
        let [y, m, d, hour, min, s] = self.parts();
        format!("{y:04}-{m:02}-{d:02}T{hour:02}-{min:02}-{s:02}Z")
    }

    /// `2026-11-24 14:56`, UTC.
    pub(crate) fn text(self) -> String {
        let [y, m, d, hour, min, _] = self.parts();
        format!("{y:04}-{m:02}-{d:02} {hour:02}:{min:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00-00-00Z"),
            (951_827_696, "2000-02-29T12-34-56Z"),
            (1_709_164_800, "2024-02-29T00-00-00Z"),
            (1_735_689_599, "2024-12-31T23-59-59Z"),
            (1_735_689_600, "2025-01-01T00-00-00Z"),
            (4_107_542_400, "2100-03-01T00-00-00Z"),
        ] {
            assert_eq!(Stamp(seconds).file_name(), text);
        }
        assert_eq!(Stamp(951_827_696).text(), "2000-02-29 12:34");
    }
}
