//! When the pages of the program's file are given back that only some work needed which has been done.

/// In looks of the keeper: at the first one after a start or a reload, and ten seconds after it, when the companions have done
/// their first work, such as writing the files that they keep.
const DUE: [u32; 2] = [1, 20];

/// The looks since the last start or reload. `None`: it has not ended yet, or pages were given back since.
#[derive(Debug, Default)]
pub(super) struct Tidying(Option<u32>);

impl Tidying {
    /// The start has ended, or a reload has begun: a look waits until it has ended.
    pub(super) const fn begin(&mut self) {
        self.0 = Some(0);
    }

    /// Whether pages are to be given back at this look.
    pub(super) fn is_due(&mut self) -> bool {
        self.0 = self.0.map(|looks| looks + 1).filter(|looks| *looks <= DUE[1]);
        self.0.is_some_and(|looks| DUE.contains(&looks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_given_back_after_the_start_and_when_companions_have_done_their_first_work() {
        let mut tidying = Tidying::default();
        assert!(!tidying.is_due(), "the start goes on");
        tidying.begin();
        let due: Vec<usize> = (1..100).filter(|_| tidying.is_due()).collect();
        assert_eq!(due, [1, 20]);
        tidying.begin();
        assert!(tidying.is_due(), "a reload has ended");
    }
}
