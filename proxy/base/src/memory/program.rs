//! Gives back the memory of those pages of the program's file that only the start or a reload needed.
//!
//! The kernel maps up to 64 KiB around each page of the program that is used. A start uses most parts of the program, and
//! serving uses few of them. Pages that are given back stay in the kernel's page cache, from which they are mapped again
//! without a read when they are used.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// Unmaps the unchanged pages of the program's file. Costs some 100 page faults, spread over the requests that follow.
pub fn give_back() {
    match unchanged_of_self() {
        Ok(mappings) => mappings.into_iter().for_each(unmap),
        Err(error) => tracing::debug!(%error, "pages of the program stay mapped"),
    }
}

fn unchanged_of_self() -> io::Result<Vec<Range<usize>>> {
    let program = fs::read_link("/proc/self/exe")?;
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    Ok(program.to_str().map(|program| unchanged(&smaps, program)).unwrap_or_default())
}

#[expect(
    unsafe_code,
    reason = "only the kernel can unmap pages, and the call is safe for unchanged pages of the program's file"
)]
fn unmap(pages: Range<usize>) {
    let Some(start) = NonZeroUsize::new(pages.start) else { return };
    let start = NonNull::without_provenance(start);
    // SAFETY: the range is one private mapping of the program's file that is not writable and has no page of its own (see
    // `unchanged`). So each of its pages equals the file, which the kernel reads again when the page is next used. Nothing
    // makes such a mapping writable after the loader has relocated the program, which it has done before `main`.
    let done = unsafe { madvise(start, pages.len(), MmapAdvise::MADV_DONTNEED) };
    if let Err(error) = done {
        tracing::debug!(%error, "pages of the program stay mapped");
    }
}

/// The mappings in `/proc/self/smaps` of the file `program` that cannot be written and equal the file. A mapping that the
/// loader has relocated differs from the file: it has pages of its own, which are anonymous, in memory or in swap.
fn unchanged(smaps: &str, program: &str) -> Vec<Range<usize>> {
    let mut found: Vec<(Range<usize>, usize)> = Vec::new();
    let mut is_of_program = false;
    for line in smaps.lines() {
        if let Some((pages, permissions, file)) = mapping(line) {
            is_of_program = file == program && matches!(permissions, "r-xp" | "r--p");
            found.extend(is_of_program.then_some((pages, 0)));
        } else if let (true, Some((_, facts))) = (is_of_program, found.last_mut()) {
            *facts += usize::from(is_nothing(line, "Anonymous:") || is_nothing(line, "Swap:"));
        }
    }
    found.into_iter().filter(|(_, facts)| *facts == 2).map(|(pages, _)| pages).collect()
}

/// The addresses, permissions and file of the first line of a mapping. `None`: the line tells more of the mapping before.
fn mapping(line: &str) -> Option<(Range<usize>, &str, &str)> {
    let mut words = line.splitn(3, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (pages, permissions) = (address(start)?..address(end)?, words.next()?);
    let rest = words.next().unwrap_or_default();
    Some((pages, permissions, rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default()))
}

/// Whether a line says that there is nothing of `what`.
fn is_nothing(line: &str, what: &str) -> bool {
    line.strip_prefix(what).is_some_and(|size| size.trim() == "0 kB")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mapping at page `nth`, with the sizes that decide.
    fn entry(nth: usize, permissions: &str, file: &str, anonymous: usize, swap: usize) -> String {
        let (start, end) = (nth * 4096, (nth + 1) * 4096);
        format!(
            "{start:012x}-{end:012x} {permissions} 00275000 fe:00 10013145                   {file}\nSize:   4 kB\n\
             Rss:   4 kB\nPrivate_Dirty:   4 kB\nAnonymous: {anonymous:>8} kB\nAnonHugePages:   0 kB\n\
             Swap: {swap:>8} kB\nSwapPss:   0 kB\nVmFlags: rd ex mr mw me\n"
        )
    }

    #[test]
    fn only_pages_of_the_program_that_equal_its_file_are_given_back() {
        let program = "/opt/my mesh/pillion";
        let smaps = [
            entry(1, "r--p", program, 0, 0),
            entry(2, "r-xp", program, 0, 0),
            entry(3, "r--p", program, 4, 4), // relocated
            entry(4, "r--p", program, 0, 4), // relocated, and swapped out
            entry(5, "r-xp", program, 4, 0), // with a debugger's breakpoint
            entry(6, "rw-p", program, 0, 0),
            entry(7, "r--s", program, 0, 0),
            entry(8, "rwxp", program, 0, 0),
            entry(9, "r-xp", "/lib/libc.so.6", 0, 0),
            entry(10, "r-xp", "/opt/my mesh/pillion (deleted)", 0, 0),
            entry(11, "rw-p", "", 0, 0),
            entry(12, "r-xp", "[vdso]", 0, 0),
            entry(13, "r--p", program, 0, 0),
        ]
        .concat();
        let page = |nth: usize| nth * 4096..(nth + 1) * 4096;
        assert_eq!(unchanged(&smaps, program), [page(1), page(2), page(13)]);
    }

    #[test]
    fn a_mapping_whose_sizes_are_not_told_is_kept() {
        let whole = entry(1, "r-xp", "/p", 0, 0);
        for missing in ["Anonymous:", "Swap:"] {
            let lines: Vec<_> = whole.lines().filter(|line| !line.starts_with(missing)).collect();
            assert!(unchanged(&lines.join("\n"), "/p").is_empty(), "{missing}");
        }
        assert!(unchanged("nonsense\n\nffff\n1-2\n", "/p").is_empty());
    }

    #[test]
    fn a_program_runs_on_after_its_pages_were_given_back() {
        assert!(!unchanged_of_self().expect("/proc").is_empty());
        give_back();
        assert!(!unchanged_of_self().expect("/proc").is_empty());
    }
}
