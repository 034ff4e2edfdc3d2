//! Distorted copies of training images: shifts, small rotations, changes of size, elastic distortion, mirroring.
//!
//! Where each pixel comes from is found first; what is there is interpolated between four pixels of the image,
//! 0 outside of it.

use std::str::FromStr;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::io::images::scale_u8;

/// How much images are distorted, each by its own amount, drawn anew every time that it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Augmentation {
    /// Largest shift along either axis, in pixels.
    pub shift: f32,
    /// Largest rotation, in degrees.
    pub rotate: f32,
    /// Largest change of size, as a share of it.
    pub scale: f32,
    /// Strength of the elastic distortion: alpha of Simard, Steinkraus and Platt, "Best Practices for
    /// Convolutional Neural Networks", 2003, who take 34.
    pub elastic: f32,
    /// Whether every second image is mirrored, left to right.
    pub flip: bool,
}

impl Augmentation {
    /// What suits handwritten digits and 128 hidden units; wider networks learn from more.
    pub const DIGITS: &'static str = "shift=1,rotate=10,scale=0.1,elastic=18";
    /// The largest shift, rotation, change of size and elastic distortion.
    const MOST: [f32; 4] = [100.0, 180.0, 0.9, 1000.0];

    /// Whether its amounts are among those that can be given.
    pub(super) fn is_usable(&self) -> bool {
        [self.shift, self.rotate, self.scale, self.elastic]
            .iter()
            .zip(Self::MOST)
            .all(|(amount, most)| (0.0..=most).contains(amount))
    }
}

impl FromStr for Augmentation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut augmentation = Self::default();
        let [shift, rotate, scale, elastic] = Self::MOST;
        for item in text.split(',') {
            let (name, amount) = item.split_once('=').unwrap_or((item, ""));
            let up_to = |most: f32| match amount.parse() {
                Ok(amount) if (0.0..=most).contains(&amount) => Ok(amount),
                _ => Err(format!(
                    "{item:?}; expected {name}=N with N from 0 to {most}"
                )),
            };
            match name {
                "shift" => augmentation.shift = up_to(shift)?,
                "rotate" => augmentation.rotate = up_to(rotate)?,
                "scale" => augmentation.scale = up_to(scale)?,
                "elastic" => augmentation.elastic = up_to(elastic)?,
                "flip" if amount.is_empty() => augmentation.flip = true,
                _ => {
                    return Err(format!(
                        "{item:?}; expected some of shift=PIXELS, rotate=DEGREES, scale=SHARE, elastic=ALPHA and flip, separated by commas"
                    ));
                }
            }
        }
        Ok(augmentation)
    }
}

/// Elastic fields that are drawn once; each use shifts one of them around and turns its sign.
const N_FIELDS: usize = 128;
/// Width of the Gaussian that smooths them, in pixels, as Simard et al. have it.
const SIGMA: f32 = 4.0;

/// Distorts images of one size.
#[derive(Debug, Clone)]
pub struct Augmenter {
    augmentation: Augmentation,
    /// Pixels along an edge.
    side: usize,
    /// Displacements along one axis, `side * side` each, in units of alpha; they go on at the opposite edge.
    fields: Vec<Vec<f32>>,
}

/// Memory of a thread.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The image with a frame of zeros.
    framed: Vec<f32>,
    /// Where pixels come from, in the framed image.
    from: [Vec<f32>; 2],
}

impl Augmenter {
    /// For square images of `n_pixels`; `None` if they are not square.
    pub fn new(augmentation: Augmentation, n_pixels: usize, seed: u64) -> Option<Self> {
        let side = n_pixels.isqrt();
        let n_fields = match augmentation.elastic > 0.0 {
            true => N_FIELDS,
            false => 0,
        };
        let mut rng = StdRng::seed_from_u64(seed);
        (side * side == n_pixels).then(|| Self {
            augmentation,
            side,
            fields: (0..n_fields).map(|_| field(side, &mut rng)).collect(),
        })
    }

    /// Appends a distorted copy of `image` to `pixels`, scaled to 0 to 1.
    pub fn distort(
        &self,
        image: &[u8],
        rng: &mut impl Rng,
        scratch: &mut Scratch,
        pixels: &mut Vec<f32>,
    ) {
        let (side, width) = (self.side, self.side + 3);
        scratch.framed.clear();
        scratch.framed.resize(width * width, 0.0);
        let mirrored = self.augmentation.flip && rng.random();
        let rows = scratch.framed.chunks_exact_mut(width).skip(1);
        for (framed, row) in rows.zip(image.chunks_exact(side)) {
            let framed = &mut framed[1..=side];
            for (framed, &pixel) in framed.iter_mut().zip(row) {
                *framed = scale_u8(pixel);
            }
            if mirrored {
                framed.reverse();
            }
        }
        self.places(rng, &mut scratch.from);
        let start = pixels.len();
        pixels.resize(start + side * side, 0.0);
        pulp::Arch::new()
            .dispatch(|| interpolate(&scratch.framed, width, &scratch.from, &mut pixels[start..]));
    }

    /// Where each pixel of a distorted image comes from, within the frame.
    #[inline(always)]
    fn places(&self, rng: &mut impl Rng, from: &mut [Vec<f32>; 2]) {
        let Augmentation {
            shift,
            rotate,
            scale,
            elastic,
            ..
        } = self.augmentation;
        let mut within = |bound: f32| bound * (2.0 * rng.random::<f32>() - 1.0);
        let (sin, cos) = within(rotate).to_radians().sin_cos();
        let size = 1.0 / (1.0 + within(scale));
        let (sin, cos) = (sin * size, cos * size);
        let side = self.side;
        let center = (side as f32 - 1.0) / 2.0;
        // The frame is one pixel wide.
        let starts = [within(shift), within(shift)].map(|shift| center + shift + 1.0);
        let by_axis = [(cos, -sin), (sin, cos)];
        for ((from, start), (along_x, along_y)) in from.iter_mut().zip(starts).zip(by_axis) {
            from.resize(side * side, 0.0);
            let field = (!self.fields.is_empty()).then(|| {
                let field = &self.fields[rng.random_range(0..self.fields.len())];
                let alpha = if rng.random() { elastic } else { -elastic };
                (field, alpha, [side, side].map(|n| rng.random_range(0..n)))
            });
            for (y, from) in from.chunks_exact_mut(side).enumerate() {
                let at_y = start + along_y * (y as f32 - center);
                for (x, from) in from.iter_mut().enumerate() {
                    *from = at_y + along_x * (x as f32 - center);
                }
                if let Some((field, alpha, [down, right])) = field {
                    let row = &field[(y + down) % side * side..][..side];
                    let (end, start) = row.split_at(right);
                    let (from_start, from_end) = from.split_at_mut(start.len());
                    for (from, row) in [(from_start, start), (from_end, end)] {
                        for (from, displacement) in from.iter_mut().zip(row) {
                            *from += alpha * displacement;
                        }
                    }
                }
                // One pixel beyond the image, all is 0.
                for from in from {
                    *from = from.clamp(0.0, side as f32 + 1.0);
                }
            }
        }
    }
}

/// A random field of -1 to 1, smoothed by a Gaussian.
fn field(side: usize, rng: &mut impl Rng) -> Vec<f32> {
    let kernel: Vec<f32> = (0..side)
        .map(|i| {
            // The field goes on at its opposite edge, so distances are around the circle.
            let distance = i.min(side - i) as f32 / SIGMA;
            (-0.5 * distance * distance).exp()
        })
        .collect();
    let sum: f32 = kernel.iter().sum();
    let mut field: Vec<f32> = (0..side * side)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    // Each pass smooths the rows and exchanges them with the columns.
    for _ in 0..2 {
        field = (0..side * side)
            .map(|i| {
                let (column, row) = (i / side, &field[i % side * side..][..side]);
                let weights = (0..side).map(|j| kernel[(j + side - column) % side]);
                row.iter().zip(weights).map(|(x, w)| x * w).sum::<f32>() / sum
            })
            .collect();
    }
    field
}

/// Each pixel from the four around the place that it comes from.
#[inline(always)]
fn interpolate(framed: &[f32], width: usize, [xs, ys]: &[Vec<f32>; 2], pixels: &mut [f32]) {
    for ((pixel, &x), &y) in pixels.iter_mut().zip(xs).zip(ys) {
        let (column, row) = (x as u32, y as u32);
        let (right, down) = (x - column as f32, y - row as f32);
        let corner = row as usize * width + column as usize;
        let (above, below) = (&framed[corner..][..2], &framed[corner + width..][..2]);
        let above = above[0] + right * (above[1] - above[0]);
        let below = below[0] + right * (below[1] - below[0]);
        *pixel = above + down * (below - above);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 28;

    fn image() -> Vec<u8> {
        (0..SIDE * SIDE)
            .map(
                |i| match (8..20).contains(&(i / SIDE)) && (10..16).contains(&(i % SIDE)) {
                    true => 200 + (i % 50) as u8,
                    false => 0,
                },
            )
            .collect()
    }

    fn distorted(text: &str, seed: u64) -> Vec<f32> {
        let augmenter = Augmenter::new(text.parse().unwrap(), SIDE * SIDE, 1).unwrap();
        let mut pixels = vec![7.0];
        let mut rng = StdRng::seed_from_u64(seed);
        augmenter.distort(&image(), &mut rng, &mut Scratch::default(), &mut pixels);
        assert_eq!(pixels[0], 7.0, "what is there stays");
        pixels[1..].to_vec()
    }

    #[test]
    fn no_distortion_gives_the_image_itself() {
        let plain: Vec<f32> = image().into_iter().map(scale_u8).collect();
        let same = distorted("shift=0", 1);
        assert!(same.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-5));
        for seed in 0..4 {
            let flipped = distorted("flip", seed);
            let mirrored: Vec<f32> = plain
                .chunks(SIDE)
                .flat_map(|row| row.iter().rev().copied())
                .collect();
            let is = |other: &[f32]| flipped.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(is(&plain) || is(&mirrored));
        }
    }

    #[test]
    fn each_kind_moves_ink_and_keeps_most_of_it() {
        let ink: f32 = image().into_iter().map(scale_u8).sum();
        for text in [
            "shift=2",
            "rotate=15",
            "scale=0.2",
            "elastic=34",
            Augmentation::DIGITS,
        ] {
            let (first, again, other) =
                (distorted(text, 1), distorted(text, 1), distorted(text, 2));
            assert_eq!(first, again);
            assert_ne!(first, other, "{text}");
            assert_ne!(first, distorted("shift=0", 1), "{text}");
            let sum: f32 = first.iter().sum();
            assert!((0.5 * ink..2.0 * ink).contains(&sum), "{text}: {sum} {ink}");
            assert!(first.iter().all(|pixel| (-1e-6..=1.0).contains(pixel)));
        }
    }

    #[test]
    fn shifts_stay_within_their_bound_and_use_it() {
        let center = |pixels: &[f32]| {
            let sum: f32 = pixels.iter().sum();
            let moment: f32 = pixels
                .iter()
                .enumerate()
                .map(|(i, p)| (i % SIDE) as f32 * p)
                .sum();
            moment / sum
        };
        let from = center(&distorted("shift=0", 0));
        let shifts: Vec<f32> = (0..100)
            .map(|seed| center(&distorted("shift=2", seed)) - from)
            .collect();
        assert!(shifts.iter().all(|shift| shift.abs() <= 2.0 + 1e-3));
        assert!(
            shifts.iter().any(|&shift| shift > 1.5) && shifts.iter().any(|&shift| shift < -1.5)
        );
    }

    #[test]
    fn fields_have_the_spread_of_smoothed_noise() {
        // Uniform noise of variance 1/3 under a Gaussian of width s keeps 1 / (4 pi s^2) of it.
        let mut rng = StdRng::seed_from_u64(1);
        let values: Vec<f32> = (0..100).flat_map(|_| field(SIDE, &mut rng)).collect();
        let variance = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
        let expected = 1.0 / 3.0 / (4.0 * std::f32::consts::PI * SIGMA * SIGMA);
        assert!(
            (variance / expected - 1.0).abs() < 0.1,
            "{variance} {expected}"
        );
    }

    #[test]
    fn huge_amounts_and_odd_sizes_do_no_harm() {
        let text = "shift=100,rotate=180,scale=0.9,elastic=1000,flip";
        assert!(distorted(text, 3).iter().all(|pixel| pixel.is_finite()));
        assert!(Augmenter::new(text.parse().unwrap(), 2, 1).is_none());
        let one = Augmenter::new(text.parse().unwrap(), 1, 1).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        one.distort(&[9], &mut rng, &mut Scratch::default(), &mut Vec::new());
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for text in [
            "",
            "shear=1",
            "shift",
            "shift=-1",
            "scale=1",
            "flip=1",
            "elastic=nan",
        ] {
            assert!(text.parse::<Augmentation>().is_err(), "{text}");
        }
    }
}
