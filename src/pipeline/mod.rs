//! One file for each subcommand; only here do model and codec meet.

pub mod append;
pub mod completions;
pub mod compress;
pub mod decode;
pub mod demo;
pub mod eval;
pub mod inspect;
mod log;
mod picture;
pub mod predict;
pub mod predict_compress;
pub mod progress;
mod rate;
pub mod reference;
mod row_labels;
mod rows;
mod scores;
pub mod size;
mod summary;
mod teacher;
pub mod train;
pub mod verify;

use std::fs::{self, File};
use std::io::{self, ErrorKind, IsTerminal};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::cli::{Cli, Command, DEFAULT_MODEL};
use crate::huffman::{self, Bound, Promise};
use crate::io::format;
use crate::io::input::{is_standard, stdin_file};
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
    let result = match cli.command {
        Command::Train(args) => train::run(&args, &progress),
        Command::Predict(args) => predict::run(&args, &progress),
        Command::PredictCompress(args) => predict_compress::run(&args, &progress),
        Command::Compress(args) => compress::run(&args, &progress),
        Command::Decode(args) => decode::run(&args, &progress),
        Command::Inspect(args) => inspect::run(&args, &progress),
        Command::Verify(args) => verify::run(&args, &progress),
        Command::Append(args) => append::run(&args, &progress),
        Command::Eval(args) => eval::run(&args, &progress),
        Command::Demo(args) => demo::run(&args, &progress),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => completions::run_man(&args, &progress),
    };
    match result {
        // Whoever read the output has seen enough.
        Err(_) if output::is_stdout_closed() => Ok(()),
        result => result,
    }
}

/// Some of what comes next, such as blocks, enough for all threads; none at the end.
///
/// # Errors
/// Those of `next`.
fn next_batch<T>(
    mut next: impl FnMut() -> Result<Option<T>, huffman::Error>,
) -> Result<Vec<T>, huffman::Error> {
    let n_wanted = 2 * rayon::current_num_threads();
    std::iter::from_fn(|| next().transpose())
        .take(n_wanted)
        .collect()
}

/// On SIGINT, SIGTERM and SIGHUP: ends training after the current batch the first time, anything else
/// at once, without leaving partial files behind. A signal that was ignored when the program started, as
/// under `nohup`, stays ignored.
#[cfg(unix)]
fn install_signal_handler() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    let ignored = ignored_signals();
    let handled = [SIGINT, SIGTERM, SIGHUP]
        .into_iter()
        .filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = Signals::new(handled).context("cannot handle signals")?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if STOPS_GRACEFULLY.load(Ordering::SeqCst) && !STOP.swap(true, Ordering::SeqCst) {
                continue;
            }
            output::remove_partial_files();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn install_signal_handler() -> Result<()> {
    Ok(())
}

/// The signals that the program was started to ignore, signal `n` in bit `n - 1`; none where the system
/// does not tell.
#[cfg(unix)]
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Sets the number of threads for all that follows.
fn set_threads(n_threads: Option<usize>) -> Result<()> {
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(n_threads) = n_threads {
        pool = pool.num_threads(n_threads);
    }
    // The error's text has its cause in it already.
    pool.build_global()
        .map_err(|error| anyhow!("cannot start threads: {error}"))
}

/// What messages call an input.
fn input_name(path: &Path) -> String {
    match is_standard(path) {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

/// What messages call an output.
fn output_name(path: &Path) -> String {
    match is_standard(path) {
        true => "standard output".to_owned(),
        false => path.display().to_string(),
    }
}

/// Opens a file to read, or standard input if it is `-`; a folder is refused here, since opening one
/// succeeds.
fn open_input(path: &Path) -> Result<File> {
    if is_standard(path) {
        if io::stdin().is_terminal() {
            bail!("standard input is a terminal; pipe data in, or name a file");
        }
        return stdin_file().context("cannot open standard input");
    }
    let file = File::open(path).map_err(|error| unreadable(path, "open", error))?;
    if file
        .metadata()
        .with_context(|| format!("cannot look at {}", path.display()))?
        .is_dir()
    {
        bail!("{}: a folder; expected a file", path.display());
    }
    Ok(file)
}

/// Refuses an output whose extension is that of another format than `format`, which `command` writes.
fn check_extension(output: &Path, command: &str, format: &str) -> Result<()> {
    match format::promised(output) {
        Some(promised) if promised != format => bail!(
            "{}: the extension is that of {promised}, but {command} writes {format}; name a {format} file with -o",
            output.display()
        ),
        _ => Ok(()),
    }
}

/// Refuses to keep the order of more classes than there are.
fn check_keep_top(keep_top: usize, n_classes: usize) -> Result<()> {
    ensure!(
        keep_top <= n_classes,
        "--keep-top {keep_top} of {n_classes} {}; expected as many or fewer",
        if n_classes == 1 { "class" } else { "classes" }
    );
    Ok(())
}

/// Makes a folder if it is not there.
fn make_folder(folder: &Path) -> Result<()> {
    ensure!(
        folder.is_dir() || !folder.exists(),
        "{}: a file; expected a folder",
        folder.display()
    );
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// Why a file cannot be opened or read.
fn unreadable(path: &Path, what: &str, error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::NotFound => anyhow!("{}: no such file or folder", path.display()),
        _ => anyhow::Error::new(error).context(format!("cannot {what} {}", path.display())),
    }
}

/// Opens a file to look at places in it, which a pipe does not allow.
fn open_to_seek(path: &Path) -> Result<File> {
    let file = open_input(path)?;
    // Opened again, standard input would go on from where it stands.
    if is_standard(path) {
        bail!("standard input: it can be read only once; name a file");
    }
    let metadata = file
        .metadata()
        .with_context(|| format!("cannot look at {}", path.display()))?;
    if !metadata.is_file() {
        bail!(
            "{}: not a regular file; write what comes from it to a file first",
            path.display()
        );
    }
    Ok(file)
}

/// What is promised, for a person.
fn promise_text(promise: &Promise) -> String {
    let bound = match promise.bound {
        Bound::MaxError(max_error) => format!("each within {max_error:e} of the original"),
        Bound::MaxKl(max_kl) => format!("each row within {max_kl:e} bits of the original"),
        Bound::Exact => return "bit for bit the original".to_owned(),
    };
    match promise.keep_top {
        1 => format!("{bound}; argmax kept"),
        n => format!("{bound}; order of the first {n} classes kept"),
    }
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
            return Err(unreadable(path, "read", error));
        }
    };
    let checkpoint = Checkpoint::from_bytes(&bytes).with_context(|| path.display().to_string())?;
    Ok((checkpoint, checkpoint::sha256(&bytes)))
}
