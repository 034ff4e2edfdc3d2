//! The formats that decoded predictions are written in.

use std::path::Path;
use std::str::FromStr;

/// A format for decoded predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `numpy.save`.
    Npy,
    /// `numpy.savez_compressed`.
    Npz,
    /// Comma-separated values, with a header if the classes have names.
    Csv,
    /// A JSON array a line.
    Jsonl,
    /// Parquet, with a column for each class.
    Parquet,
    /// An Arrow IPC file (Feather version 2), with a column for each class.
    Arrow,
}

impl Format {
    /// The names on the command line.
    pub const NAMES: [&str; 6] = ["npy", "npz", "csv", "jsonl", "parquet", "arrow"];

    const ALL: [Self; 6] = [
        Self::Npy,
        Self::Npz,
        Self::Csv,
        Self::Jsonl,
        Self::Parquet,
        Self::Arrow,
    ];

    /// The format's name, which is the extension of its files as well.
    pub fn name(self) -> &'static str {
        let position = Self::ALL.iter().position(|&format| format == self);
        position.map_or("", |position| Self::NAMES[position])
    }

    /// The format that a file's extension stands for; `.npy` for a file without.
    pub fn of_path(path: &Path) -> Option<Self> {
        let Some(extension) = path.extension() else {
            return Some(Self::Npy);
        };
        match extension.to_str()?.to_ascii_lowercase().as_str() {
            "ndjson" => Some(Self::Jsonl),
            "pq" => Some(Self::Parquet),
            "feather" | "ipc" => Some(Self::Arrow),
            name => name.parse().ok(),
        }
    }

    /// Whether a person can read it on a terminal.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Csv | Self::Jsonl)
    }

    /// Whether the number of rows stands before them.
    pub fn needs_n_rows(self) -> bool {
        matches!(self, Self::Npy | Self::Npz)
    }
}

/// The format that a file's extension promises, be it one that is read or written here or not.
pub fn promised(path: &Path) -> Option<&'static str> {
    const PROMISED: [(&str, &str); 20] = [
        ("npy", ".npy"),
        ("npz", ".npz"),
        ("csv", "CSV"),
        ("tsv", "TSV"),
        ("json", "JSON"),
        ("jsonl", "JSON lines"),
        ("ndjson", "JSON lines"),
        ("parquet", "Parquet"),
        ("pq", "Parquet"),
        ("arrow", "Arrow IPC"),
        ("feather", "Arrow IPC"),
        ("ipc", "Arrow IPC"),
        ("huff", ".huff"),
        ("safetensors", "safetensors"),
        ("svg", "SVG"),
        ("gz", "gzip"),
        ("zip", "zip"),
        ("h5", "HDF5"),
        ("pkl", "pickle"),
        ("pt", "PyTorch"),
    ];
    let extension = path.extension()?.to_str()?;
    let mut all = PROMISED.iter();
    all.find(|(known, _)| extension.eq_ignore_ascii_case(known))
        .map(|&(_, name)| name)
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let position = Self::NAMES.iter().position(|&known| known == name);
        match position {
            Some(position) => Ok(Self::ALL[position]),
            None => Err(format!("expected one of {}", Self::NAMES.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_stand_for_formats() {
        for (path, format) in [
            ("a.npy", Some(Format::Npy)),
            ("b/a.CSV", Some(Format::Csv)),
            ("a.ndjson", Some(Format::Jsonl)),
            ("a.pq", Some(Format::Parquet)),
            ("a.feather", Some(Format::Arrow)),
            ("a", Some(Format::Npy)),
            ("a.csv.gz", None),
            ("a.json", None),
        ] {
            assert_eq!(Format::of_path(Path::new(path)), format, "{path}");
        }
        for (path, format) in [
            ("a.CSV", Some("CSV")),
            ("a.npy.gz", Some("gzip")),
            ("a.v2", None),
            ("csv", None),
        ] {
            assert_eq!(promised(Path::new(path)), format, "{path}");
        }
        for name in Format::NAMES {
            assert!(promised(Path::new(&format!("a.{name}"))).is_some());
            assert_eq!(name.parse::<Format>().unwrap().name(), name);
        }
    }
}
