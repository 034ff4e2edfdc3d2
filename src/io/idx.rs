//! IDX, the format of MNIST: two zero bytes, the type (08: unsigned byte), the number of dimensions,
//! each dimension as a big-endian u32, then the data, last index fastest.

use std::io::Read;

use super::{Error, read_header, read_vec};

/// Magic number of images: unsigned bytes in three dimensions (image, row, column).
pub const IMAGES_MAGIC: u32 = 0x0000_0803;
/// Magic number of labels: unsigned bytes in one dimension.
pub const LABELS_MAGIC: u32 = 0x0000_0801;

/// Reads the dimensions of an IDX file whose magic number must be `expected_magic`.
///
/// # Errors
/// [`Error::IdxMagic`], [`Error::Io`].
pub fn read_dimensions(reader: &mut impl Read, expected_magic: u32) -> Result<Vec<u64>, Error> {
    let mut word = [0; 4];
    read_header(reader, &mut word)?;
    let magic = u32::from_be_bytes(word);
    if magic != expected_magic {
        return Err(Error::IdxMagic {
            found: magic,
            expected: expected_magic,
            meaning: match expected_magic {
                IMAGES_MAGIC => "images of unsigned bytes",
                _ => "labels of unsigned bytes",
            },
        });
    }
    (0..magic & 0xFF)
        .map(|_| {
            read_header(reader, &mut word)?;
            Ok(u64::from(u32::from_be_bytes(word)))
        })
        .collect()
}

/// Reads a whole IDX file of unsigned bytes: its dimensions and its data.
///
/// # Errors
/// As [`read_dimensions`]; [`Error::Truncated`] and [`Error::TooLong`] if the data do not fit them.
pub fn read(mut reader: impl Read, expected_magic: u32) -> Result<(Vec<u64>, Vec<u8>), Error> {
    let dimensions = read_dimensions(&mut reader, expected_magic)?;
    // Three u32 may multiply beyond u64; no file holds that much.
    let n_bytes = dimensions
        .iter()
        .try_fold(1u64, |product, &dimension| product.checked_mul(dimension))
        .unwrap_or(u64::MAX);
    let data = read_vec(&mut reader, n_bytes)?;
    if reader.read(&mut [0])? > 0 {
        return Err(Error::TooLong { expected: n_bytes });
    }
    Ok((dimensions, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [u8; 10] = [0, 0, 8, 1, 0, 0, 0, 2, 7, 9];

    #[test]
    fn labels_are_read() {
        let (dimensions, data) = read(&LABELS[..], LABELS_MAGIC).unwrap();
        assert_eq!((dimensions, data), (vec![2], vec![7, 9]));
    }

    #[test]
    fn wrong_magic_and_wrong_sizes_are_errors() {
        let magic = read(&LABELS[..], IMAGES_MAGIC).unwrap_err().to_string();
        assert_eq!(
            magic,
            "IDX magic number 0x00000801; expected 0x00000803 (images of unsigned bytes)"
        );
        assert!(matches!(
            read(&LABELS[..9], LABELS_MAGIC),
            Err(Error::Truncated {
                expected: 2,
                found: 1
            })
        ));
        let long = [&LABELS[..], &[0]].concat();
        assert!(matches!(
            read(&long[..], LABELS_MAGIC),
            Err(Error::TooLong { expected: 2 })
        ));
        assert!(matches!(
            read(&LABELS[..7], LABELS_MAGIC),
            Err(Error::HeaderTruncated)
        ));
        let huge = [&[0, 0, 8, 3][..], &[0xFF; 12], &[1, 2, 3]].concat();
        assert!(matches!(
            read(&huge[..], IMAGES_MAGIC),
            Err(Error::Truncated { found: 3, .. })
        ));
    }
}
