//! The executable: everything is in the library.

use tikv_jemalloc_ctl::{Access as _, AsName as _, arenas};

/// Measured against glibc's and mimalloc: `docs/performance.md`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    pillion::give_memory_back_by(give_back);
    pillion::cli::main()
}

/// Gives the pages that jemalloc keeps for later back to the kernel. An arena that may keep pages for no time gives them
/// back at once; after that each arena gets its former time again. An arena that is not in use yet refuses both.
fn give_back() {
    for arena in 0..arenas::narenas::read().unwrap_or(0) {
        let name = format!("arena.{arena}.dirty_decay_ms\0");
        let keeps_for: Result<isize, _> = name.as_str().name().read();
        if let Ok(keeps_for) = keeps_for
            && name.as_str().name().write(0_isize).is_ok()
        {
            name.as_str().name().write(keeps_for).unwrap_or_default(); // else the arena keeps no pages, which is slower
        }
    }
}
