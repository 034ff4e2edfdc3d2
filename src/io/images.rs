//! Images to predict on: `.npy` or IDX, in batches, so that memory does not grow with their number.

use std::fs::File;
use std::io::{BufRead, Cursor, Read, Seek, SeekFrom};
use std::ops::Range;

use super::npy::{self, Dtype, NpyHeader};
use super::{Error, gunzip_if_needed, idx, read_up_to};

/// A pixel of 0 to 255 as the network takes it: from 0 to 1. Pixels that are floats are taken as they are.
#[inline]
pub fn scale_u8(pixel: u8) -> f32 {
    f32::from(pixel) * (1.0 / 255.0)
}

/// Reads images, some at a time.
pub struct ImageReader {
    source: Source,
    dtype: Dtype,
    is_big_endian: bool,
    n_images: u64,
    n_pixels: usize,
    n_read: u64,
}

enum Source {
    /// Image after image.
    InOrder(Box<dyn BufRead + Send>),
    /// A file in Fortran order: all first pixels, then all second ones.
    ByPixel {
        file: File,
        /// Position of the data in the file.
        start: u64,
        /// Pixel (in C order) of each run of the file.
        pixels: Vec<usize>,
    },
}

impl ImageReader {
    /// Opens a file of images with `n_pixels` each, stored as (N, 784), (N, 28, 28), (N, 28, 28, 1) or
    /// (N, 1, 28, 28) if that is 784.
    ///
    /// # Errors
    /// [`Error::UnknownFormat`], [`Error::Shape`], [`Error::Dtype`], [`Error::ObjectArray`] and the
    /// other errors of the formats; [`Error::Truncated`] for a file shorter than its header says.
    pub fn open(file: File, n_pixels: usize) -> Result<Self, Error> {
        let (mut reader, is_gzipped) = gunzip_if_needed(file.try_clone()?)?;
        let mut start = [0; 8];
        let n_start = read_up_to(&mut reader, &mut start)?;
        let start = start[..n_start].to_vec();
        let mut reader = Cursor::new(start.clone()).chain(reader);
        if start.starts_with(&npy::MAGIC) {
            let header = NpyHeader::read_from(&mut reader)?;
            let is_plain = !is_gzipped && file.metadata()?.is_file();
            let file = is_plain.then_some(file);
            Self::from_npy(header, reader, file, n_pixels)
        } else if start.starts_with(&[0, 0]) {
            let shape = idx::read_dimensions(&mut reader, idx::IMAGES_MAGIC)?;
            check_shape(&shape, n_pixels)?;
            Ok(Self {
                source: Source::InOrder(Box::new(reader)),
                dtype: Dtype::U8,
                is_big_endian: false,
                n_images: shape[0],
                n_pixels,
                n_read: 0,
            })
        } else {
            Err(Error::UnknownFormat { found: start })
        }
    }

    fn from_npy(
        header: NpyHeader,
        reader: impl BufRead + Send + 'static,
        plain_file: Option<File>,
        n_pixels: usize,
    ) -> Result<Self, Error> {
        if !matches!(
            header.dtype,
            Dtype::U8 | Dtype::F16 | Dtype::F32 | Dtype::F64
        ) {
            return Err(Error::Dtype {
                found: format!("{:?}", header.dtype).to_lowercase(),
                expected: "u8 (scaled by 1/255), f16, f32 or f64",
            });
        }
        check_shape(&header.shape, n_pixels)?;
        if let Some(file) = &plain_file {
            let found = file.metadata()?.len().saturating_sub(header.n_bytes);
            let expected = header.n_data_bytes();
            if found < expected {
                return Err(Error::Truncated { expected, found });
            }
            if found > expected {
                return Err(Error::TooLong { expected });
            }
        }
        let source = match (header.is_fortran_order, plain_file) {
            (false, _) => Source::InOrder(Box::new(reader)),
            (true, None) => return Err(Error::FortranOrderStream),
            (true, Some(file)) => Source::ByPixel {
                file,
                start: header.n_bytes,
                pixels: fortran_pixels(&header.shape[1..]),
            },
        };
        Ok(Self {
            source,
            dtype: header.dtype,
            is_big_endian: header.is_big_endian,
            n_images: header.shape[0],
            n_pixels,
            n_read: 0,
        })
    }

    /// Checks that nothing follows the last image.
    fn check_end(&mut self) -> Result<(), Error> {
        // An array in Fortran order is a plain file, whose length was looked at when it was opened.
        let Source::InOrder(reader) = &mut self.source else {
            return Ok(());
        };
        match reader.fill_buf()?.is_empty() {
            true => Ok(()),
            false => Err(Error::TooLong {
                expected: self.n_images * (self.n_pixels * self.dtype.n_bytes()) as u64,
            }),
        }
    }

    /// Number of images in the file.
    pub fn n_images(&self) -> u64 {
        self.n_images
    }

    /// Bytes of an image in the file.
    pub fn n_image_bytes(&self) -> usize {
        self.n_pixels * self.dtype.n_bytes()
    }

    /// Replaces `batch` by the next images, at most `max_images`; it is empty at the end.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::TooLong`], [`Error::Io`].
    pub fn read_batch(&mut self, max_images: usize, batch: &mut ImageBatch) -> Result<(), Error> {
        let n_left = self.n_images - self.n_read;
        if n_left == 0 {
            self.check_end()?;
        }
        let n_images = max_images.min(usize::try_from(n_left).unwrap_or(usize::MAX));
        let n_number_bytes = self.dtype.n_bytes();
        let n_image_bytes = self.n_image_bytes();
        batch.n_pixels = self.n_pixels;
        batch.dtype = self.dtype;
        batch.is_big_endian = self.is_big_endian;
        batch.bytes.resize(n_images * n_image_bytes, 0);

        match &mut self.source {
            Source::InOrder(reader) => {
                let n_found = read_up_to(reader, &mut batch.bytes)? as u64;
                if n_found < batch.bytes.len() as u64 {
                    let n_image_bytes = n_image_bytes as u64;
                    return Err(Error::Truncated {
                        expected: self.n_images.saturating_mul(n_image_bytes),
                        found: self.n_read * n_image_bytes + n_found,
                    });
                }
            }
            Source::ByPixel {
                file,
                start,
                pixels: order,
            } => {
                let mut run_bytes = vec![0; n_images * n_number_bytes];
                for (run, &pixel) in order.iter().enumerate() {
                    let first = run as u64 * self.n_images + self.n_read;
                    file.seek(SeekFrom::Start(*start + first * n_number_bytes as u64))?;
                    file.read_exact(&mut run_bytes)?;
                    let numbers = run_bytes.chunks_exact(n_number_bytes);
                    for (image, number) in batch.bytes.chunks_exact_mut(n_image_bytes).zip(numbers)
                    {
                        image[pixel * n_number_bytes..][..n_number_bytes].copy_from_slice(number);
                    }
                }
            }
        }
        self.n_read += n_images as u64;
        Ok(())
    }
}

/// Images as they were read: bytes, which become numbers where these are needed.
#[derive(Debug)]
pub struct ImageBatch {
    bytes: Vec<u8>,
    n_pixels: usize,
    dtype: Dtype,
    is_big_endian: bool,
}

/// No images.
impl Default for ImageBatch {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            n_pixels: 1,
            dtype: Dtype::U8,
            is_big_endian: false,
        }
    }
}

impl ImageBatch {
    /// Number of images.
    pub fn n_images(&self) -> usize {
        self.bytes.len() / (self.n_pixels * self.dtype.n_bytes())
    }

    /// Replaces `pixels` by those of some of the images, in C order: unsigned bytes as numbers from 0 to 1,
    /// floats as they are.
    pub fn pixels(&self, images: Range<usize>, pixels: &mut Vec<f32>) {
        let n_image_bytes = self.n_pixels * self.dtype.n_bytes();
        let bytes = &self.bytes[images.start * n_image_bytes..images.end * n_image_bytes];
        pixels.clear();
        match self.dtype {
            Dtype::U8 => pixels.extend(bytes.iter().map(|&pixel| scale_u8(pixel))),
            dtype => {
                let numbers = bytes.chunks_exact(dtype.n_bytes());
                pixels
                    .extend(numbers.map(|bytes| npy::decode_f32(dtype, self.is_big_endian, bytes)));
            }
        }
    }
}

fn check_shape(shape: &[u64], n_pixels: usize) -> Result<(), Error> {
    let side = n_pixels.isqrt();
    let is_square = |h: u64, w: u64| h == w && h == side as u64 && side * side == n_pixels;
    let fits = match *shape {
        [_, n] => n == n_pixels as u64,
        [_, h, w] | [_, h, w, 1] | [_, 1, h, w] => is_square(h, w),
        _ => false,
    };
    match fits {
        true => Ok(()),
        false => Err(Error::Shape {
            found: shape.to_vec(),
            expected: match side * side == n_pixels {
                true => format!(
                    "(N, {n_pixels}), (N, {side}, {side}), (N, {side}, {side}, 1) or (N, 1, {side}, {side}), which is what the model takes"
                ),
                false => format!("(N, {n_pixels}), which is what the model takes"),
            },
        }),
    }
}

/// The pixel in C order of each pixel in Fortran order, for images of a shape.
fn fortran_pixels(shape: &[u64]) -> Vec<usize> {
    let sizes: Vec<usize> = shape.iter().map(|&size| size as usize).collect();
    (0..sizes.iter().product())
        .map(|mut position| {
            // The first index runs fastest.
            let indices: Vec<usize> = sizes
                .iter()
                .map(|size| {
                    let index = position % size;
                    position /= size;
                    index
                })
                .collect();
            indices
                .iter()
                .zip(&sizes)
                .fold(0, |pixel, (index, size)| pixel * size + index)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fortran_order_maps_pixels() {
        assert_eq!(fortran_pixels(&[4]), [0, 1, 2, 3]);
        assert_eq!(fortran_pixels(&[2, 3]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(fortran_pixels(&[2, 3, 1]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(fortran_pixels(&[1, 2, 3]), [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn shapes_that_hold_the_pixels_are_taken() {
        for shape in [
            &[5, 784][..],
            &[5, 28, 28],
            &[5, 28, 28, 1],
            &[5, 1, 28, 28],
            &[0, 784],
        ] {
            check_shape(shape, 784).unwrap();
        }
        for shape in [&[784][..], &[28, 28], &[5, 14, 56], &[5, 3, 28, 28], &[]] {
            assert!(check_shape(shape, 784).is_err());
        }
        check_shape(&[5, 6], 6).unwrap();
        assert!(check_shape(&[5, 2, 3], 6).is_err());
    }
}
