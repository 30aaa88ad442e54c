//! The executable: everything is in the library.

/// Measured against glibc's and mimalloc: `docs/performance.md`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    pillion::cli::main()
}
