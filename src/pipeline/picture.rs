//! A picture on its way into a folder.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::make_folder;
use crate::io::output::{Error, OutputFile};

/// A picture that has a place and is yet to be drawn; dropped before that, it leaves nothing behind.
pub(super) struct Picture {
    path: PathBuf,
    output: OutputFile,
}

impl Picture {
    /// Begins a picture in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// If it is there already and not to be replaced, or cannot be written.
    pub fn create(folder: &Path, name: &str, force: bool) -> Result<Self> {
        make_folder(folder)?;
        let path = folder.join(name);
        match OutputFile::create(&path, force, &[]) {
            Ok(output) => Ok(Self { path, output }),
            Err(Error::Exists(path)) => bail!(
                "{} exists already; give another folder with --plots, or --force to replace it",
                path.display()
            ),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes it, and returns its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(mut self, svg: &str) -> Result<PathBuf> {
        self.output
            .write_all(svg.as_bytes())
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        self.output.finish()?;
        Ok(self.path)
    }
}
