//! Labelled images to train on: a folder of IDX files with MNIST's names, a Keras-style `.npz`, or the
//! bundled digit pairs.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::io::npy::{self, Dtype, NpyHeader};
use crate::io::npz::NpzReader;
use crate::io::{self, gunzip_if_needed, idx};

/// Images of unsigned bytes and a label for each.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Samples {
    /// Pixels of one image.
    pub n_pixels: usize,
    /// Image after image, 0 = background.
    pub pixels: Vec<u8>,
    /// One label an image.
    pub labels: Vec<u32>,
}

impl Samples {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The pixels of image `i`.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.pixels[i * self.n_pixels..(i + 1) * self.n_pixels]
    }

    /// The samples at `indices`, in that order.
    pub fn select(&self, indices: &[usize]) -> Self {
        Self {
            n_pixels: self.n_pixels,
            pixels: indices
                .iter()
                .flat_map(|&i| self.image(i))
                .copied()
                .collect(),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
        }
    }
}

/// A data set: what to train on, and what to report on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dataset {
    /// The training part.
    pub train: Samples,
    /// The test part, if there is one.
    pub test: Option<Samples>,
    /// Names of the classes from 0 on, if a `classes.txt` gives them.
    pub class_names: Option<Vec<String>>,
}

/// Errors of data sets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// There is nothing at that path.
    #[error("{0}: no such file or folder")]
    NotFound(PathBuf),
    /// A file with one of MNIST's names is missing.
    #[error(
        "{folder}: no {name}, gzipped or not; expected a folder with MNIST's four files ({all}) or a .npz file",
        all = PARTS.map(|part| part.images).join(", ") + " and their labels"
    )]
    MissingFile {
        /// The folder looked into.
        folder: PathBuf,
        /// The name looked for.
        name: &'static str,
    },
    /// A file could not be used.
    #[error("{path}")]
    File {
        /// The file, or file and array.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Images and labels differ in number.
    #[error("{images}: {n_images} images, but {labels} has {n_labels} labels")]
    Counts {
        /// Where the images are.
        images: String,
        /// How many.
        n_images: u64,
        /// Where the labels are.
        labels: String,
        /// How many.
        n_labels: u64,
    },
    /// There is no image to train on.
    #[error("{0}: no images")]
    Empty(String),
    /// The test images have another size than the training images.
    #[error("test images have {test} pixels, training images {train}")]
    Pixels {
        /// Pixels of a training image.
        train: usize,
        /// Pixels of a test image.
        test: usize,
    },
    /// A label that the network has no output for.
    #[error(
        "{part} label {label} (sample {sample}) is beyond the {n_classes} classes 0..={}; give --classes {} or more",
        n_classes - 1,
        u64::from(*label) + 1
    )]
    Label {
        /// "training" or "test".
        part: &'static str,
        /// The label.
        label: u32,
        /// Which sample has it, counted from 0.
        sample: usize,
        /// Number of classes of the network.
        n_classes: usize,
    },
    /// A number that no class can have.
    #[error("{source_name}: label {label} (sample {sample}); expected whole numbers from 0 on")]
    NoLabel {
        /// File and array.
        source_name: String,
        /// The label.
        label: i64,
        /// Which sample has it, counted from 0.
        sample: usize,
    },
    /// More names than the network has outputs.
    #[error(
        "classes.txt names {n_names} classes; expected at most the {n_classes} of the network; give --classes {n_names} or more"
    )]
    TooManyNames {
        /// How many names there are.
        n_names: usize,
        /// Number of classes of the network.
        n_classes: usize,
    },
    /// A `classes.txt` that cannot be used.
    #[error("{path}: {what}")]
    ClassNames {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// File names of a part of the data set, without `.gz`.
#[derive(Clone, Copy)]
struct Part {
    images: &'static str,
    labels: &'static str,
    npz: [&'static str; 2],
}

const PARTS: [Part; 2] = [
    Part {
        images: "train-images-idx3-ubyte",
        labels: "train-labels-idx1-ubyte",
        npz: ["x_train", "y_train"],
    },
    Part {
        images: "t10k-images-idx3-ubyte",
        labels: "t10k-labels-idx1-ubyte",
        npz: ["x_test", "y_test"],
    },
];

impl Dataset {
    /// Reads a folder of IDX files, or a `.npz` file. The test part may be absent.
    ///
    /// # Errors
    /// Any [`DatasetError`] but those of [`check_classes`](Self::check_classes).
    pub fn open(path: &Path) -> Result<Self, DatasetError> {
        let mut dataset = match fs::metadata(path) {
            Err(_) => return Err(DatasetError::NotFound(path.to_owned())),
            Ok(metadata) if metadata.is_dir() => Self::from_folder(path)?,
            Ok(_) => Self::from_npz(path)?,
        };
        let folder = match path.is_dir() {
            true => path,
            false => path.parent().unwrap_or(Path::new("")),
        };
        let classes = folder.join("classes.txt");
        if classes.is_file() {
            dataset.class_names = Some(read_class_names(&classes)?);
        }
        dataset.checked()
    }

    /// The digit pairs that come with the program.
    ///
    /// # Panics
    /// If the bundled files are damaged; a test reads them.
    pub fn bundled() -> Self {
        macro_rules! file {
            ($name:literal) => {
                &include_bytes!(concat!("../../data/digit-pairs/", $name))[..]
            };
        }
        let samples = |images: &'static [u8], labels: &'static [u8]| {
            let source = |name: &str| format!("bundled digit pairs, {name}");
            samples_from_idx(images, source("images"), labels, source("labels"))
        };
        let read = || {
            Self {
                train: samples(
                    file!("train-images-idx3-ubyte.gz"),
                    file!("train-labels-idx1-ubyte.gz"),
                )?,
                test: Some(samples(
                    file!("t10k-images-idx3-ubyte.gz"),
                    file!("t10k-labels-idx1-ubyte.gz"),
                )?),
                class_names: None,
            }
            .checked()
        };
        read().expect("the bundled data set is whole")
    }

    fn from_folder(folder: &Path) -> Result<Self, DatasetError> {
        let read = |part: Part| -> Result<Samples, DatasetError> {
            let images = find_file(folder, part.images)?;
            let labels = find_file(folder, part.labels)?;
            samples_from_idx(
                open(&images)?,
                images.display().to_string(),
                open(&labels)?,
                labels.display().to_string(),
            )
        };
        let [train, test] = PARTS;
        let has_test = [test.images, test.labels]
            .iter()
            .any(|name| find_file(folder, name).is_ok());
        Ok(Self {
            train: read(train)?,
            test: has_test.then(|| read(test)).transpose()?,
            class_names: None,
        })
    }

    fn from_npz(path: &Path) -> Result<Self, DatasetError> {
        let failed = |source| DatasetError::File {
            path: path.display().to_string(),
            source,
        };
        let mut archive = NpzReader::new(open(path)?).map_err(failed)?;
        let [train, test] = PARTS;
        let has_test = test.npz.iter().any(|name| archive.contains(name));
        let mut read = |part: Part| -> Result<Samples, DatasetError> {
            let [images, labels] = part.npz.map(|name| format!("{}: {name}", path.display()));
            let mut array = |name: &str, source: &str| {
                archive.read(name).map_err(|error| DatasetError::File {
                    path: source.to_owned(),
                    source: error,
                })
            };
            let (header, pixels) = array(part.npz[0], &images)?;
            let (label_header, label_bytes) = array(part.npz[1], &labels)?;
            check_npz_images(&header).map_err(|source| DatasetError::File {
                path: images.clone(),
                source,
            })?;
            let label_values = npz_labels(&label_header, &label_bytes, &labels)?;
            samples(header.shape, pixels, images, label_values, labels)
        };
        Ok(Self {
            train: read(train)?,
            test: has_test.then(|| read(test)).transpose()?,
            class_names: None,
        })
    }

    fn checked(self) -> Result<Self, DatasetError> {
        if self.train.is_empty() {
            return Err(DatasetError::Empty("training part".to_owned()));
        }
        match &self.test {
            Some(test) if test.n_pixels != self.train.n_pixels => Err(DatasetError::Pixels {
                train: self.train.n_pixels,
                test: test.n_pixels,
            }),
            _ => Ok(self),
        }
    }

    /// Checks that a network of `n_classes` outputs has one for every label and every name.
    ///
    /// # Errors
    /// [`DatasetError::Label`] with the first label that is too large; [`DatasetError::TooManyNames`].
    pub fn check_classes(&self, n_classes: usize) -> Result<(), DatasetError> {
        let n_names = self.class_names.as_ref().map_or(0, Vec::len);
        if n_names > n_classes {
            return Err(DatasetError::TooManyNames { n_names, n_classes });
        }
        let parts = [
            ("training", Some(&self.train)),
            ("test", self.test.as_ref()),
        ];
        for (part, samples) in parts {
            let labels = samples.map_or(&[][..], |samples| &samples.labels);
            if let Some(sample) = labels.iter().position(|&l| l as usize >= n_classes) {
                return Err(DatasetError::Label {
                    part,
                    label: labels[sample],
                    sample,
                    n_classes,
                });
            }
        }
        Ok(())
    }
}

/// The files that [`Dataset::open`] would read at `path`, as far as they exist.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let names = PARTS.iter().flat_map(|part| [part.images, part.labels]);
    names
        .filter_map(|name| find_file(path, name).ok())
        .chain([path.join("classes.txt"), path.to_owned()])
        .filter(|path| path.is_file())
        .collect()
}

fn open(path: &Path) -> Result<File, DatasetError> {
    File::open(path).map_err(|error| DatasetError::File {
        path: path.display().to_string(),
        source: error.into(),
    })
}

/// Finds a file by MNIST's name for it, also as it is often unpacked (`train-images.idx3-ubyte`).
fn find_file(folder: &Path, name: &'static str) -> Result<PathBuf, DatasetError> {
    let dotted = name.replace("-idx", ".idx");
    [name, &dotted]
        .iter()
        .flat_map(|name| [format!("{name}.gz"), (*name).to_owned()])
        .map(|name| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| DatasetError::MissingFile {
            folder: folder.to_owned(),
            name,
        })
}

fn samples_from_idx(
    images: impl Read + Send,
    images_source: String,
    labels: impl Read + Send,
    labels_source: String,
) -> Result<Samples, DatasetError> {
    let (shape, pixels) = read_idx(images, &images_source, idx::IMAGES_MAGIC)?;
    let (_, labels) = read_idx(labels, &labels_source, idx::LABELS_MAGIC)?;
    let labels = labels.into_iter().map(u32::from).collect();
    samples(shape, pixels, images_source, labels, labels_source)
}

fn read_idx(
    reader: impl Read + Send,
    source: &str,
    magic: u32,
) -> Result<(Vec<u64>, Vec<u8>), DatasetError> {
    gunzip_if_needed(reader)
        .map_err(io::Error::from)
        .and_then(|(reader, _)| idx::read(reader, magic))
        .map_err(|error| DatasetError::File {
            path: source.to_owned(),
            source: error,
        })
}

/// Puts images and labels together; `pixels` fits `shape`.
fn samples(
    shape: Vec<u64>,
    pixels: Vec<u8>,
    images_source: String,
    labels: Vec<u32>,
    labels_source: String,
) -> Result<Samples, DatasetError> {
    if shape[0] != labels.len() as u64 {
        return Err(DatasetError::Counts {
            images: images_source,
            n_images: shape[0],
            labels: labels_source,
            n_labels: labels.len() as u64,
        });
    }
    if pixels.is_empty() {
        return Err(DatasetError::Empty(images_source));
    }
    Ok(Samples {
        n_pixels: pixels.len() / labels.len(),
        pixels,
        labels,
    })
}

fn check_npz_images(header: &NpyHeader) -> Result<(), io::Error> {
    if header.dtype != Dtype::U8 {
        return Err(io::Error::Dtype {
            found: format!("{:?}", header.dtype).to_lowercase(),
            expected: "u8 (pixels from 0 to 255)",
        });
    }
    if header.shape.len() < 2 || header.is_fortran_order {
        return Err(io::Error::Shape {
            found: header.shape.clone(),
            expected: "images in C order, such as (N, 28, 28)".to_owned(),
        });
    }
    Ok(())
}

/// Labels of any integer type, one a row: (N,) or (N, 1).
fn npz_labels(
    header: &NpyHeader,
    bytes: &[u8],
    source_name: &str,
) -> Result<Vec<u32>, DatasetError> {
    let failed = |source| DatasetError::File {
        path: source_name.to_owned(),
        source,
    };
    if matches!(header.dtype, Dtype::F16 | Dtype::F32 | Dtype::F64) {
        return Err(failed(io::Error::Dtype {
            found: format!("{:?}", header.dtype).to_lowercase(),
            expected: "integer labels",
        }));
    }
    if !matches!(header.shape[..], [_] | [_, 1]) {
        return Err(failed(io::Error::Shape {
            found: header.shape.clone(),
            expected: "one label an image: (N,) or (N, 1)".to_owned(),
        }));
    }
    bytes
        .chunks_exact(header.dtype.n_bytes())
        .enumerate()
        .map(|(sample, bytes)| {
            let label = npy::decode_i64(header.dtype, header.is_big_endian, bytes);
            u32::try_from(label).map_err(|_| DatasetError::NoLabel {
                source_name: source_name.to_owned(),
                label,
                sample,
            })
        })
        .collect()
}

/// Reads one name a line, in order, or `label <tab> name` lines, as Omniglot's are given.
fn read_class_names(path: &Path) -> Result<Vec<String>, DatasetError> {
    let failed = |what: String| DatasetError::ClassNames {
        path: path.to_owned(),
        what,
    };
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    text.lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .enumerate()
        .map(|(i, line)| match line.split_once('\t') {
            None => Ok(line.to_owned()),
            Some((label, name)) if label.parse() == Ok(i) => Ok(name.to_owned()),
            Some((label, _)) => Err(failed(format!(
                "line {}: label {label:?}; expected {i}, labels in order from 0",
                i + 1
            ))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idx(magic: u32, dimensions: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(dimensions.iter().flat_map(|d| d.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    fn folder(n_images: u32, labels: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let images = idx(idx::IMAGES_MAGIC, &[n_images, 1, 2], &[9, 8, 7, 6]);
        let labels = idx(idx::LABELS_MAGIC, &[labels.len() as u32], labels);
        fs::write(folder.path().join("train-images-idx3-ubyte"), images).unwrap();
        fs::write(folder.path().join("train-labels.idx1-ubyte"), labels).unwrap();
        folder
    }

    #[test]
    fn the_bundled_set_has_100_classes_evenly() {
        let dataset = Dataset::bundled();
        let test = dataset.test.as_ref().unwrap();
        assert_eq!((dataset.train.len(), test.len()), (8_000, 1_000));
        assert_eq!((dataset.train.n_pixels, test.n_pixels), (784, 784));
        for class in 0..100 {
            let count = |s: &Samples| s.labels.iter().filter(|&&l| l == class).count();
            assert_eq!((count(&dataset.train), count(test)), (80, 10));
        }
        dataset.check_classes(100).unwrap();
    }

    #[test]
    fn a_folder_without_a_test_part_is_read() {
        let folder = folder(2, &[3, 1]);
        let dataset = Dataset::open(folder.path()).unwrap();
        assert_eq!(dataset.train.labels, [3, 1]);
        assert_eq!(dataset.train.image(1), [7, 6]);
        assert_eq!(dataset.test, None);
        assert_eq!(dataset.train.select(&[1]).pixels, [7, 6]);
        dataset.check_classes(4).unwrap();
        assert_eq!(
            dataset.check_classes(3).unwrap_err().to_string(),
            "training label 3 (sample 0) is beyond the 3 classes 0..=2; give --classes 4 or more"
        );
    }

    #[test]
    fn counts_that_differ_are_named() {
        let message = Dataset::open(folder(2, &[3]).path())
            .unwrap_err()
            .to_string();
        assert!(message.contains("2 images, but"), "{message}");
        assert!(message.ends_with("has 1 labels"), "{message}");
    }

    #[test]
    fn missing_files_and_folders_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = Dataset::open(folder.path()).unwrap_err().to_string();
        assert!(message.contains("no train-images-idx3-ubyte"), "{message}");
        let nowhere = folder.path().join("nowhere");
        assert!(matches!(
            Dataset::open(&nowhere),
            Err(DatasetError::NotFound(_))
        ));
    }

    #[test]
    fn class_names_are_read_from_lines_and_from_numbered_lines() {
        let folder = folder(2, &[0, 1]);
        let path = folder.path().join("classes.txt");
        for text in ["cat\ndog\n", "0\tcat\n1\tdog\n\n"] {
            fs::write(&path, text).unwrap();
            let names = Dataset::open(folder.path()).unwrap().class_names;
            assert_eq!(names.unwrap(), ["cat", "dog"]);
        }
        fs::write(&path, "1\tcat\n").unwrap();
        let message = Dataset::open(folder.path()).unwrap_err().to_string();
        assert!(
            message.contains("line 1: label \"1\"; expected 0"),
            "{message}"
        );
    }
}
