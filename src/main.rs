//! The `pc` binary: parse, run, print the error, exit code.

use std::process::ExitCode;

use clap::Parser;
use pc::cli::Cli;
use pc::pipeline;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match pipeline::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if pipeline::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
