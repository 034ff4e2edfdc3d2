//! Where data come from: a file or standard input, gzipped or not.

use std::fs::File;
use std::io::{self, BufRead, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use super::{gunzip_if_needed, read_up_to};

/// The name of standard input and standard output on the command line.
pub const STANDARD: &str = "-";
/// First bytes that are enough to tell a format.
const N_START_BYTES: usize = 8;

/// Whether a path on the command line means standard input or output.
pub fn is_standard(path: &Path) -> bool {
    path.as_os_str() == STANDARD
}

/// Standard input as a file, which it is if it was redirected from one.
///
/// # Errors
/// If there is none.
pub fn stdin_file() -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
    }
    #[cfg(windows)]
    {
        use std::os::windows::io::AsHandle;
        Ok(File::from(io::stdin().as_handle().try_clone_to_owned()?))
    }
}

/// Whether a file can be read at any position; a pipe cannot, nor is one that was read already taken as one
/// that can.
///
/// # Errors
/// If the file cannot be looked at.
pub fn can_seek(file: &mut File) -> io::Result<bool> {
    Ok(file.metadata()?.is_file() && file.stream_position()? == 0)
}

/// Copies all that comes to an unnamed temporary file, which the system removes by itself.
///
/// # Errors
/// As the reader's; if no temporary file can be written.
pub fn spool(reader: &mut impl Read) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    io::copy(reader, &mut file)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Data on their way in, unpacked if they were gzipped.
pub struct Input {
    reader: Box<dyn BufRead + Send>,
    start: Vec<u8>,
    /// The file, if the data stand in it as they are.
    plain: Option<File>,
}

impl Input {
    /// Looks at the first bytes.
    ///
    /// # Errors
    /// As the file's.
    pub fn new(mut file: File) -> io::Result<Self> {
        let can_seek = can_seek(&mut file)?;
        let (mut reader, is_gzipped) = gunzip_if_needed(file.try_clone()?)?;
        let mut start = [0; N_START_BYTES];
        let n_start = read_up_to(&mut reader, &mut start)?;
        let start = start[..n_start].to_vec();
        Ok(Self {
            reader: Box::new(Cursor::new(start.clone()).chain(reader)),
            start,
            plain: (can_seek && !is_gzipped).then_some(file),
        })
    }

    /// The first bytes, at most eight.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// The number of bytes, if it is known.
    pub fn n_bytes(&self) -> Option<u64> {
        let metadata = self.plain.as_ref()?.metadata().ok()?;
        Some(metadata.len())
    }

    /// Another handle of the file, if the data stand in it as they are.
    ///
    /// # Errors
    /// If the system has no more of them.
    pub fn plain(&self) -> io::Result<Option<File>> {
        self.plain.as_ref().map(File::try_clone).transpose()
    }

    /// The data in order.
    pub fn into_reader(self) -> Box<dyn BufRead + Send> {
        self.reader
    }

    /// The data as a file that can be sought in, at its start; what comes out of gzip or a pipe is copied
    /// to a temporary file.
    ///
    /// # Errors
    /// As [`spool`]'s.
    pub fn into_file(mut self) -> io::Result<File> {
        match self.plain {
            Some(mut file) => {
                file.seek(SeekFrom::Start(0))?;
                Ok(file)
            }
            None => spool(&mut self.reader),
        }
    }
}
