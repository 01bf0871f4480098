//! A set of the pages of one segment.

use super::{PAGE, SEGMENT};
use crate::error::Result;
use crate::wire::{Reader, Writer};
use std::ops::Range;

const COUNT: u32 = SEGMENT / PAGE;
const WORDS: usize = (COUNT / 64) as usize;

/// Pages of 4 KiB, by number: one bit for each of the 256 of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages([u64; WORDS]);

impl Pages {
    pub fn contains(&self, page: u32) -> bool {
        self.0.get(page as usize / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    pub fn set(&mut self, page: u32, on: bool) {
        if let Some(word) = self.0.get_mut(page as usize / 64) {
            *word = *word & !(1 << (page % 64)) | u64::from(on) << (page % 64);
        }
    }

    /// Adds every page that these bytes touch.
    pub fn touch(&mut self, bytes: Range<u32>) {
        if bytes.start < bytes.end {
            (bytes.start / PAGE..bytes.end.div_ceil(PAGE)).for_each(|page| self.set(page, true));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// The first page from `from` on that is in the set, or that is not; 256 if there is none.
    pub fn next(&self, from: u32, wanted: bool) -> u32 {
        (from..COUNT).find(|&page| self.contains(page) == wanted).unwrap_or(COUNT)
    }

    /// Runs of neighbouring pages, ascending.
    pub fn runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = self.next(from, true);
            from = self.next(start, false);
            (start < COUNT).then_some(start..from)
        })
    }

    pub fn put(&self, w: &mut Writer) {
        self.0.iter().for_each(|&word| {
            w.u64(word);
        });
    }

    pub fn get(r: &mut Reader) -> Result<Pages> {
        let mut pages = Pages::default();
        for word in &mut pages.0 {
            *word = r.u64()?;
        }
        Ok(pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_edges() {
        let mut pages = Pages::default();
        assert!(pages.is_empty() && pages.runs().next().is_none());
        pages.touch(1..PAGE + 1);
        pages.touch(63 * PAGE..66 * PAGE);
        pages.touch(SEGMENT - 1..SEGMENT);
        pages.touch(5 * PAGE..5 * PAGE);
        assert_eq!(pages.runs().collect::<Vec<_>>(), [0..2, 63..66, 255..256]);
        assert_eq!(pages.count(), 6);
        assert_eq!((pages.next(2, true), pages.next(63, false), pages.next(255, false)), (63, 66, 256));
        assert!(!pages.contains(256) && !pages.contains(u32::MAX));
        pages.set(64, false);
        assert_eq!(pages.next(64, true), 65);
    }
}
