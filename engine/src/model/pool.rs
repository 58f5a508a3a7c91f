//! How an NVIDIA driver gives out memory (`cuMemAllocAsync`): its pool grows by whole pieces of 32 MiB, and what a large tensor leaves of
//! its last piece serves smaller ones only. Measured: a decoder whose layers have maps of 172 and 86 MiB takes 30 MiB a layer more
//! than their numbers.

/// By so many bytes the pool grows.
const PIECE: usize = 32 << 20;
/// Every tensor begins at a multiple of so many bytes.
const ALIGNED: usize = 512;

/// A pool to which tensors come one after the other and stay.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Bytes that lie together and that nothing has.
    free: Vec<usize>,
    total: usize,
}

impl Pool {
    /// A tensor of so many bytes: where it fits best, or at the beginning of new pieces.
    pub(super) fn take(&mut self, bytes: usize) {
        let bytes = bytes.next_multiple_of(ALIGNED);
        let fits = |gap: &(usize, &usize)| *gap.1 >= bytes;
        let gap = self.free.iter().enumerate().filter(fits).min_by_key(|(_, gap)| **gap).map(|(i, _)| i);
        let room = match gap {
            Some(i) => self.free.swap_remove(i),
            None => {
                let more = bytes.next_multiple_of(PIECE);
                self.total += more;
                more
            }
        };
        if room > bytes {
            self.free.push(room - bytes);
        }
    }

    /// Bytes of all its pieces.
    pub(super) fn total(&self) -> usize {
        self.total
    }
}

/// Sizes of tensors as they are loaded: those of maps that are joined (queries, keys and values; gates and ups) as one. `sizes` are
/// names and bytes in their order.
pub(super) fn joined<'a>(sizes: impl Iterator<Item = (&'a str, usize)>) -> Vec<usize> {
    let mut all: Vec<usize> = Vec::new();
    let mut joins = false;
    for (name, bytes) in sizes {
        let map = |maps: &[&str]| maps.iter().any(|map| name.ends_with(&format!(".{map}.weight")));
        match all.last_mut() {
            Some(last) if joins && map(&["k_proj", "v_proj", "up_proj"]) => *last += bytes,
            _ => all.push(bytes),
        }
        joins = map(&["q_proj", "k_proj", "gate_proj"]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_grows_by_pieces_and_gaps_are_filled() {
        let mut pool = Pool::default();
        let mib = |n: usize| n << 20;
        // 172 MiB leave 20, in which 10 and 8 find room, and 3 do not.
        for (bytes, total) in [(mib(172), mib(192)), (mib(10), mib(192)), (mib(8), mib(192)), (mib(3), mib(224))] {
            pool.take(bytes);
            assert_eq!(pool.total(), total, "{bytes}");
        }
        pool.take(1);
        assert_eq!(pool.free.iter().sum::<usize>(), mib(224 - 172 - 10 - 8 - 3) - ALIGNED);
    }

    #[test]
    fn joined_maps_are_one_tensor() {
        let names = ["a.q_proj.weight", "a.k_proj.weight", "a.v_proj.weight", "a.o_proj.weight", "m.gate_proj.weight"];
        let sizes = names.into_iter().chain(["m.up_proj.weight", "m.down_proj.weight"]).zip(1..);
        assert_eq!(joined(sizes), [1 + 2 + 3, 4, 5 + 6, 7]);
    }
}
