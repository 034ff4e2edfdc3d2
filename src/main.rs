//! The `pc` binary: parse, run, print the error, exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use pc::cli::Cli;
use pc::pipeline;

/// Training and prediction ask for many blocks of a megabyte, which the system's allocator maps and clears
/// anew each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match pipeline::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Unlike eprintln, no panic if nobody can read it.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
