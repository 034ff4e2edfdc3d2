//! Output files that appear whole or not at all.
//!
//! [`Output`] is such a file or standard output.
//!
//! Bytes go to a temporary file in the same folder, which is synced and renamed at the end. Whatever
//! happens before that, the name given holds what it held before. [`remove_partial_files`] is for
//! signal handlers, which end the process without running destructors.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Stdout, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use same_file::Handle;
use tempfile::{NamedTempFile, TempPath};

use super::input::is_standard;

/// Whether nobody reads standard output any more.
static IS_STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// Temporary files that a signal would leave behind.
static PARTIAL_FILES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Errors of output files; each names its path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something stands where the output should go.
    #[error("{0} exists already; give another name with -o, or --force to replace it")]
    Exists(PathBuf),
    /// The output would replace what is read.
    #[error("{0} is the input as well as the output; give another name with -o")]
    IsInput(PathBuf),
    /// What the output names is neither a file nor free: a device, a pipe.
    #[error("{0} is not a regular file; name a file with -o")]
    IsSpecial(PathBuf),
    /// The folder of the output does not exist.
    #[error("cannot write {path}: there is no folder {folder}; make it first")]
    NoFolder {
        /// The output's path.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// The file is complete, but could not be given its name.
    #[error("cannot write {path}: {reason}; what was to be written is kept in {kept}")]
    Kept {
        /// The output's path.
        path: PathBuf,
        /// Where the bytes are.
        kept: PathBuf,
        /// Why it has not its name.
        reason: io::Error,
    },
    /// Bytes that no terminal can show.
    #[error(
        "standard output is a terminal, which cannot show binary data; send it to a file or a pipe, or name a file with -o"
    )]
    Terminal,
    /// The output names a folder.
    #[error("{0} is a folder; name a file in it with -o")]
    IsFolder(PathBuf),
    /// Writing failed.
    #[error("cannot write {path}")]
    Io {
        /// The output's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A file being written; dropped before [`finish`](Self::finish), it leaves nothing behind.
#[derive(Debug)]
pub struct OutputFile {
    writer: BufWriter<File>,
    temporary: TempPath,
    path: PathBuf,
    force: bool,
}

impl OutputFile {
    /// Starts the file that will be `path`; `inputs` are the files it must not replace.
    ///
    /// # Errors
    /// [`Error::IsInput`]; [`Error::Exists`] without `force`; [`Error::IsFolder`];
    /// [`Error::IsSpecial`]; [`Error::NoFolder`]; [`Error::Io`].
    pub fn create(path: &Path, force: bool, inputs: &[&Path]) -> Result<Self, Error> {
        let failed = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let folder = folder_of(path);
        // Looked at before it is opened, since opening a pipe waits for its other end.
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => return Err(Error::IsFolder(path.to_owned())),
            Ok(metadata) if !metadata.is_file() => return Err(Error::IsSpecial(path.to_owned())),
            Ok(_) => {
                let handle = Handle::from_path(path).ok();
                let is_output = |input: &&Path| {
                    let input = input_handle(input).ok();
                    input.is_some() && input == handle
                };
                if inputs.iter().any(is_output) {
                    return Err(Error::IsInput(path.to_owned()));
                }
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Err(_) if !folder.is_dir() => {
                return Err(Error::NoFolder {
                    path: path.to_owned(),
                    folder: folder.to_owned(),
                });
            }
            Err(_) if path.as_os_str().as_encoded_bytes().ends_with(b"/") => {
                return Err(Error::IsFolder(path.to_owned()));
            }
            Err(_) => {}
        }
        if !force && path.symlink_metadata().is_ok() {
            return Err(Error::Exists(path.to_owned()));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".pc-").suffix(".tmp");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As any program's output: readable as the umask allows, not only by its owner.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut partial_files = PARTIAL_FILES.lock().expect("no panic holds the lock");
        let (file, temporary) = builder
            .tempfile_in(folder)
            .map(NamedTempFile::into_parts)
            .map_err(|error| failed(without_path(error)))?;
        partial_files.push(temporary.to_path_buf());
        Ok(Self {
            writer: BufWriter::with_capacity(1 << 16, file),
            temporary,
            path: path.to_owned(),
            force,
        })
    }

    /// The name that the file will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself; what was written before is in it.
    fn file(&mut self) -> Result<&mut File, Error> {
        match self.writer.flush() {
            Ok(()) => Ok(self.writer.get_mut()),
            Err(source) => Err(Error::Io {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// [`Error::Kept`] if the name cannot be given, because another process has taken it meanwhile, say;
    /// [`Error::Io`] if the bytes cannot be written.
    pub fn finish(mut self) -> Result<(), Error> {
        let path = self.path.clone();
        let failed = |source| Error::Io {
            path: path.clone(),
            source,
        };
        self.file()?.sync_all().map_err(failed)?;
        let temporary = self.temporary.to_path_buf();
        let renamed = match self.force {
            true => self.temporary.persist(&path),
            false => self.temporary.persist_noclobber(&path),
        };
        forget(&temporary);
        if let Err(error) = renamed {
            return Err(match error.path.keep() {
                Ok(kept) => Error::Kept {
                    path,
                    kept,
                    reason: error.error,
                },
                Err(_) => failed(error.error),
            });
        }
        // The new name must survive a crash as well; not every system can sync a folder.
        if let Ok(folder) = File::open(folder_of(&path)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// What a path on the command line names to read from, standard input included.
fn input_handle(path: &Path) -> io::Result<Handle> {
    match is_standard(path) {
        true => Handle::stdin(),
        false => Handle::from_path(path),
    }
}

/// A file being written, or standard output.
#[derive(Debug)]
pub enum Output {
    /// A file that appears whole or not at all.
    File(OutputFile),
    /// Standard output.
    Stdout(BufWriter<ToStdout>),
}

impl Output {
    /// Starts the file that will be `path`, as [`OutputFile::create`] does, or standard output if it is `-`.
    ///
    /// # Errors
    /// As [`OutputFile::create`]; [`Error::Terminal`] for what is no text; [`Error::IsInput`] if standard
    /// output goes to one of the `inputs`.
    pub fn create(
        path: &Path,
        force: bool,
        inputs: &[&Path],
        is_text: bool,
    ) -> Result<Self, Error> {
        if !is_standard(path) {
            return OutputFile::create(path, force, inputs).map(Self::File);
        }
        let stdout = io::stdout();
        if stdout.is_terminal() && !is_text {
            return Err(Error::Terminal);
        }
        // A device, such as a terminal or /dev/null, may well be both.
        if let Ok(handle) = Handle::stdout()
            && handle
                .as_file()
                .metadata()
                .is_ok_and(|metadata| metadata.is_file())
            && inputs
                .iter()
                .any(|input| input_handle(input).is_ok_and(|input| input == handle))
        {
            return Err(Error::IsInput(path.to_owned()));
        }
        Ok(Self::Stdout(BufWriter::with_capacity(
            1 << 16,
            ToStdout(stdout),
        )))
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// As [`OutputFile::finish`].
    pub fn finish(self) -> Result<(), Error> {
        match self {
            Self::File(file) => file.finish(),
            Self::Stdout(mut stdout) => stdout.flush().map_err(|source| Error::Io {
                path: "standard output".into(),
                source,
            }),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Stdout(stdout) => stdout.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Stdout(stdout) => stdout.flush(),
        }
    }
}

/// Standard output, which notes when nobody reads it any more.
#[derive(Debug)]
pub struct ToStdout(Stdout);

impl ToStdout {
    fn note<T>(result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() == ErrorKind::BrokenPipe
        {
            IS_STDOUT_CLOSED.store(true, Ordering::SeqCst);
        }
        result
    }
}

impl Write for ToStdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::note(self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::note(self.0.flush())
    }
}

/// Whether writing to standard output has failed because nobody reads it any more, as after `| head`: no
/// error to tell.
pub fn is_stdout_closed() -> bool {
    IS_STDOUT_CLOSED.load(Ordering::SeqCst)
}

/// Whether two paths name one file or folder, be it there already or not.
pub fn is_same_place(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| {
        let to_come = || {
            let folder = folder_of(path).canonicalize().ok()?;
            Some(folder.join(path.file_name()?))
        };
        let place = path.canonicalize().ok().or_else(to_come);
        place.unwrap_or_else(|| path.to_owned())
    };
    place(a) == place(b)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// The error itself: tempfile's has the path of the temporary file in it, which tells nobody anything.
fn without_path(error: io::Error) -> io::Error {
    error
        .get_ref()
        .and_then(|inner| inner.source())
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
        .map_or(error, io::Error::from_raw_os_error)
}

fn forget(temporary: &Path) {
    if let Ok(mut partial_files) = PARTIAL_FILES.lock() {
        partial_files.retain(|path| path != temporary);
    }
}

/// Removes the temporary files of all outputs that are not finished.
pub fn remove_partial_files() {
    if let Ok(partial_files) = PARTIAL_FILES.lock() {
        for path in partial_files.iter() {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn n_entries(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn the_name_appears_only_when_the_file_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut output = OutputFile::create(&path, false, &[]).unwrap();
        output.write_all(b"hello").unwrap();
        assert!(!path.exists());
        output.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"hello");
        assert_eq!(n_entries(folder.path()), 1);
    }

    #[test]
    fn a_dropped_output_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "old").unwrap();
        let mut output = OutputFile::create(&path, true, &[]).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(n_entries(folder.path()), 1);
    }

    #[test]
    fn existing_files_inputs_and_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "old").unwrap();
        let create = |force, inputs: &[&Path]| OutputFile::create(&path, force, inputs);
        assert!(matches!(create(false, &[]), Err(Error::Exists(_))));
        let alias = folder.path().join(".").join("out");
        assert!(matches!(create(true, &[&alias]), Err(Error::IsInput(_))));
        assert!(matches!(
            OutputFile::create(folder.path(), true, &[]),
            Err(Error::IsFolder(_))
        ));
        let nowhere = folder.path().join("nowhere/out");
        assert!(matches!(
            OutputFile::create(&nowhere, false, &[]),
            Err(Error::NoFolder { .. })
        ));
        let slash = folder.path().join("new/");
        assert!(matches!(
            OutputFile::create(&slash, false, &[]),
            Err(Error::IsFolder(_))
        ));
        let long = folder.path().join("x".repeat(300));
        assert!(matches!(
            OutputFile::create(&long, false, &[]),
            Err(Error::Io { .. })
        ));
        create(true, &[]).unwrap().finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn a_name_taken_meanwhile_is_not_replaced_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut output = OutputFile::create(&path, false, &[]).unwrap();
        output.write_all(b"mine").unwrap();
        fs::write(&path, "other").unwrap();
        let Err(Error::Kept { kept, .. }) = output.finish() else {
            panic!("the name was taken");
        };
        assert_eq!(fs::read(&path).unwrap(), b"other");
        assert_eq!(fs::read(&kept).unwrap(), b"mine");
    }
}
