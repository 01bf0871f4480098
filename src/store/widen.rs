//! Reads of parts of objects, widened to whole grains: who serves them learns which region is read, and not where the
//! chunks in it begin and end (TRUST.md 5). What is read beyond a chunk is kept for a while, for what stands beside it is
//! often read next.

use super::memory::too_short;
use crate::error::Result;
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::time::{Duration, Instant};

/// The grain, in bytes (256 KiB). With 30 ms for a request and 50 MB/s, what `widen_tests.rs` reads takes 3.6 s (a file),
/// 1.2 s (small objects) and 3.0 s (random chunks); exact ranges 12, 45 and 3.1 s, grains of 64 KiB 12, 19 and 3.3 s.
/// Larger grains would ask less often, and cost memory, and bytes where nothing beside a chunk is wanted.
pub(super) const GRAIN: u64 = 256 << 10;
/// How many grains are kept: as much as a pack is long (16 MiB), for the small objects of a commit are all over theirs.
pub(super) const KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);
/// For how long: what is mended in the store is seen after so long.
pub(super) const AGE: Duration = Duration::from_secs(60);

/// Widens reads of objects that never change, and keeps what was read too much.
pub(super) struct Widened {
    grain: u64,
    age: Duration,
    /// By the object's name and the number of the grain in it. The last grain of an object may be shorter than others.
    kept: Mutex<LruCache<(String, u64), (Bytes, Instant)>>,
}

impl Default for Widened {
    fn default() -> Widened {
        Widened::new(GRAIN, KEPT, AGE)
    }
}

impl Widened {
    pub fn new(grain: u64, kept: NonZeroUsize, age: Duration) -> Widened {
        Widened { grain, age, kept: Mutex::new(LruCache::sparse(kept)) }
    }

    /// `len` bytes of an object from `start` on; `Damage` where it ends before. `read` asks for a range, once at most, and
    /// gives what there is of it.
    ///
    /// What begins at 0 is read as it is and not kept: the header of an object, a whole object, or the hint that changes.
    pub fn get(
        &self,
        name: &str,
        start: u64,
        len: usize,
        read: impl FnOnce(Range<u64>) -> Result<Bytes>,
    ) -> Result<Bytes> {
        let short = || too_short(name, start, len);
        let end = start.checked_add(len as u64).ok_or_else(short)?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let first = start / self.grain;
        let (from, bytes) = match start {
            0 => (0, read(0..end)?),
            _ => (first * self.grain, self.grains(name, first..=(end - 1) / self.grain, start..end, read)?),
        };
        let at = (start - from) as usize;
        if bytes.len() < at + len { Err(short()) } else { Ok(bytes.slice(at..at + len)) }
    }

    /// Whole grains, of which a range is wanted.
    fn grains(
        &self,
        name: &str,
        grains: std::ops::RangeInclusive<u64>,
        wanted: Range<u64>,
        read: impl FnOnce(Range<u64>) -> Result<Bytes>,
    ) -> Result<Bytes> {
        let mut known: Vec<Bytes> = grains.clone().map_while(|n| self.find(name, n)).collect();
        let (next, last) = (grains.start() + known.len() as u64, *grains.end());
        if next <= last {
            let place = |n: u64| n.saturating_mul(self.grain)..(n + 1).saturating_mul(self.grain);
            let from = place(next).start;
            let fetched = read(from..place(last).end)?;
            for n in [next, last] {
                let Range { start, end } = place(n);
                if start < wanted.start || wanted.end < end {
                    let upto = fetched.len().min((end - from) as usize);
                    // A copy: a slice would hold on to all that was fetched.
                    let bytes = fetched.get((start - from) as usize..upto).map(Bytes::copy_from_slice);
                    let bytes = bytes.unwrap_or_default();
                    self.kept.lock().put((name.to_owned(), n), (bytes, Instant::now()));
                }
            }
            known.push(fetched);
        }
        Ok(match &known[..] {
            [one] => one.clone(),
            several => several.concat().into(),
        })
    }

    fn find(&self, name: &str, grain: u64) -> Option<Bytes> {
        let mut kept = self.kept.lock();
        let (bytes, since) = kept.get(&(name.to_owned(), grain))?;
        (since.elapsed() < self.age).then(|| bytes.clone())
    }

    /// An object is put anew, or deleted.
    pub fn forget(&self, name: &str) {
        let mut kept = self.kept.lock();
        let gone: Vec<_> = kept.iter().map(|(at, _)| at).filter(|(of, _)| of == name).cloned().collect();
        for at in gone {
            kept.pop(&at);
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use std::cell::RefCell;

    const LEN: u64 = 1050;

    /// An object of 1,050 bytes in grains of 100, and the ranges that were asked for.
    struct Far {
        widened: Widened,
        asked: RefCell<Vec<Range<u64>>>,
    }

    fn far(age: Duration) -> Far {
        let widened = Widened::new(100, NonZeroUsize::MIN.saturating_add(3), age);
        Far { widened, asked: RefCell::default() }
    }

    impl Far {
        fn get(&self, start: u64, len: usize) -> Result<Bytes> {
            self.widened.get("o", start, len, |range| {
                self.asked.borrow_mut().push(range.clone());
                Ok((range.start..range.end.min(LEN)).map(|n| n as u8).collect())
            })
        }

        /// Reads a range, and tells what was asked for meanwhile.
        fn asked(&self, start: u64, len: usize) -> Vec<Range<u64>> {
            let want: Vec<u8> = (start..start + len as u64).map(|n| n as u8).collect();
            assert_eq!(self.get(start, len).unwrap(), want, "{len} at {start}");
            self.asked.take()
        }
    }

    /// TRUST 5: range reads are widened.
    #[test]
    fn only_whole_grains_are_asked_for() {
        let hour = Duration::from_secs(3600);
        for start in (1..LEN).step_by(7) {
            for len in [1, 50, 99, 100, 101, 350].into_iter().filter(|len| start + len <= LEN) {
                let asked = far(hour).asked(start, len as usize);
                assert_eq!(asked, [start / 100 * 100..(start + len).div_ceil(100) * 100]);
            }
        }
        // Nothing is told by where a header is.
        assert_eq!(far(hour).asked(0, 16), [0..16]);
    }

    #[test]
    fn what_was_read_too_much_is_used() {
        let far = far(Duration::from_secs(3600));
        assert_eq!(far.asked(130, 40), [100..200]);
        assert_eq!(far.asked(170, 30), []);
        assert_eq!(far.asked(180, 340), [200..600]);
        assert_eq!(far.asked(520, 80), []);
        // What was taken whole is not kept, and only the newest of the rest are.
        assert_eq!(far.asked(320, 10), [300..400]);
        assert_eq!(far.asked(1040, 10), [1000..1100]);
        assert_eq!(far.asked(1010, 30), []);
        assert_eq!(far.asked(710, 10), [700..800]);
        assert_eq!(far.asked(130, 10), [100..200]);
        far.widened.forget("o");
        assert_eq!(far.asked(130, 10), [100..200]);
    }

    #[test]
    fn what_is_not_there_is_damage_and_what_is_old_is_asked_for_again() {
        let far = far(Duration::ZERO);
        for (start, len) in [(1040, 11), (1050, 1), (5000, 10), (0, 1051), (990, 200), (u64::MAX, 1)] {
            assert_eq!(far.get(start, len).unwrap_err().kind(), Kind::Damage, "{len} at {start}");
        }
        assert_eq!(far.get(u64::MAX, 0).unwrap(), "");
        far.asked.take();
        assert_eq!([far.asked(130, 10), far.asked(130, 10)], [[100..200], [100..200]]);
    }
}
