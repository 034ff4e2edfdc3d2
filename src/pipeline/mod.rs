//! One file for each subcommand; only here do model and codec meet.

pub mod decode;
pub mod demo;
pub mod predict;
pub mod predict_compress;
pub mod progress;
pub mod train;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use crate::cli::{Cli, Command, DEFAULT_MODEL};
use crate::io::output;
use crate::model::checkpoint::{self, Checkpoint};
use progress::Progress;

/// Set by Ctrl-C while training, which then ends on its own.
static STOP: AtomicBool = AtomicBool::new(false);
/// Whether Ctrl-C sets [`STOP`] rather than ending the process.
static STOPS_GRACEFULLY: AtomicBool = AtomicBool::new(false);

/// Runs a command.
///
/// # Errors
/// Whatever went wrong, with the file's name; nothing is left half-written.
pub fn run(cli: Cli) -> Result<()> {
    install_signal_handler()?;
    let progress = Progress::new(cli.quiet, cli.no_progress);
    match cli.command {
        Command::Train(args) => train::run(&args, &progress),
        Command::Predict(args) => predict::run(&args, &progress),
        Command::PredictCompress(args) => predict_compress::run(&args, &progress),
        Command::Decode(args) => decode::run(&args, &progress),
        Command::Demo(args) => demo::run(&args, &progress),
    }
}

/// Whether an error only says that the reader of our output has gone, as `head` does.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    })
}

/// On SIGINT, SIGTERM and SIGHUP: ends training after the current batch the first time, anything else
/// at once, without leaving partial files behind.
fn install_signal_handler() -> Result<()> {
    ctrlc::set_handler(|| {
        if STOPS_GRACEFULLY.load(Ordering::SeqCst) && !STOP.swap(true, Ordering::SeqCst) {
            return;
        }
        output::remove_partial_files();
        std::process::exit(130);
    })
    .context("cannot handle Ctrl-C")
}

/// Sets the number of threads for all that follows.
fn set_threads(n_threads: Option<usize>) -> Result<()> {
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(n_threads) = n_threads {
        pool = pool.num_threads(n_threads);
    }
    pool.build_global().context("cannot start threads")
}

/// Opens a file to read; a folder is refused here, since opening one succeeds.
fn open_input(path: &Path) -> Result<File> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    if file
        .metadata()
        .with_context(|| format!("cannot look at {}", path.display()))?
        .is_dir()
    {
        bail!("{}: a folder; expected a file", path.display());
    }
    Ok(file)
}

/// Reads a checkpoint; also returns the SHA-256 of its bytes.
fn read_checkpoint(path: &Path) -> Result<(Checkpoint, String)> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound && path == Path::new(DEFAULT_MODEL) => {
            bail!(
                "no model: there is no {DEFAULT_MODEL} in this folder; make one with pc train, or name one with --model"
            );
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    let checkpoint = Checkpoint::from_bytes(&bytes).with_context(|| path.display().to_string())?;
    Ok((checkpoint, checkpoint::sha256(&bytes)))
}
