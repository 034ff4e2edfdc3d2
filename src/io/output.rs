//! Output files that appear whole or not at all.
//!
//! Bytes go to a temporary file in the same folder, which is synced and renamed at the end. Whatever
//! happens before that, the name given holds what it held before. [`remove_partial_files`] is for
//! signal handlers, which end the process without running destructors.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::{NamedTempFile, TempPath};

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
    /// [`Error::IsInput`]; [`Error::Exists`] without `force`; [`Error::IsFolder`]; [`Error::Io`].
    pub fn create(path: &Path, force: bool, inputs: &[&Path]) -> Result<Self, Error> {
        if inputs
            .iter()
            .any(|input| same_file::is_same_file(input, path).unwrap_or(false))
        {
            return Err(Error::IsInput(path.to_owned()));
        }
        if path.is_dir() {
            return Err(Error::IsFolder(path.to_owned()));
        }
        if !force && path.symlink_metadata().is_ok() {
            return Err(Error::Exists(path.to_owned()));
        }
        let failed = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
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
            .tempfile_in(folder_of(path))
            .map(NamedTempFile::into_parts)
            .map_err(failed)?;
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

    /// The file itself, for seeking; what was written before is in it.
    ///
    /// # Errors
    /// [`Error::Io`] if writing fails.
    pub fn file(&mut self) -> Result<&mut File, Error> {
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
    /// [`Error::Exists`] if another process has taken the name meanwhile; [`Error::Io`].
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
        match renamed {
            Ok(()) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::Exists(path));
            }
            Err(error) => return Err(failed(error.error)),
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

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
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
        create(true, &[]).unwrap().finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn a_name_taken_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let output = OutputFile::create(&path, false, &[]).unwrap();
        fs::write(&path, "other").unwrap();
        assert!(matches!(output.finish(), Err(Error::Exists(_))));
        assert_eq!(fs::read(&path).unwrap(), b"other");
        assert_eq!(n_entries(folder.path()), 1);
    }
}
