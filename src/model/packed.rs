//! Fully connected layers on vector instructions: weights packed once, rows in tiles that stay in registers.

use pulp::{Arch, Simd, WithSimd};

use super::Layer;

/// Rows computed together: with two vectors of outputs each, their sums fill the registers of AVX2.
pub const TILE_ROWS: usize = 6;

/// A layer whose weights lie in the order in which they are needed.
#[derive(Debug, Clone)]
pub struct PackedLayer {
    n_inputs: usize,
    n_outputs: usize,
    /// Outputs of a panel: two vectors of this machine.
    panel_width: usize,
    /// For each panel, the weights of its outputs from the first input, then from the second, and so on;
    /// outputs that there are not have zeros.
    weights: Vec<f32>,
    /// Padded like the weights.
    bias: Vec<f32>,
    /// Whether an input of 0 adds nothing; infinite weights would make it NaN.
    is_finite: bool,
}

impl PackedLayer {
    /// Packs a layer for this machine.
    pub fn new(layer: &Layer) -> Self {
        Arch::new().dispatch(Pack(layer))
    }

    /// Number of outputs.
    pub fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    /// `output = input * weight^T + bias`, row by row; a row's result does not depend on the rows beside it.
    ///
    /// # Shapes
    /// - `input`: `[n, n_inputs]`
    /// - `output`: `[n, n_outputs]`
    ///
    /// # Panics
    /// If the slices have other shapes.
    pub fn forward(&self, input: &[f32], output: &mut [f32], activation: Activation) {
        let n_rows = input.len() / self.n_inputs;
        assert_eq!(input.len(), n_rows * self.n_inputs);
        assert_eq!(output.len(), n_rows * self.n_outputs);
        Arch::new().dispatch(Forward {
            layer: self,
            input,
            output,
            activation,
        });
    }
}

/// What becomes of a layer's sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// They stay as they are.
    None,
    /// Negative ones become 0. NaN stays: a bad pixel must not become a plausible number.
    Relu,
    /// Each row becomes its softmax, once multiplied with a number: the inverse of a temperature.
    Softmax {
        /// That number.
        factor: f32,
    },
}

struct Pack<'a>(&'a Layer);

impl WithSimd for Pack<'_> {
    type Output = PackedLayer;

    fn with_simd<S: Simd>(self, _: S) -> PackedLayer {
        let Layer {
            n_inputs,
            n_outputs,
            ref weight,
            ref bias,
        } = *self.0;
        let panel_width = 2 * S::F32_LANES;
        let n_padded = n_outputs.next_multiple_of(panel_width);
        let mut weights = vec![0.0; n_padded * n_inputs];
        for (output, row) in weight.chunks_exact(n_inputs).enumerate() {
            let start = output / panel_width * panel_width * n_inputs + output % panel_width;
            for (packed, &weight) in weights[start..].iter_mut().step_by(panel_width).zip(row) {
                *packed = weight;
            }
        }
        PackedLayer {
            n_inputs,
            n_outputs,
            panel_width,
            is_finite: weight.iter().all(|weight| weight.is_finite()),
            weights,
            // Adding 0 makes -0 a 0, which no product of 0 changes.
            bias: (0..n_padded)
                .map(|output| bias.get(output).map_or(0.0, |bias| bias + 0.0))
                .collect(),
        }
    }
}

struct Forward<'a> {
    layer: &'a PackedLayer,
    input: &'a [f32],
    output: &'a mut [f32],
    activation: Activation,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let PackedLayer {
            n_inputs,
            n_outputs,
            ..
        } = *self.layer;
        let mut live = Vec::with_capacity(n_inputs);
        for (input, output) in self
            .input
            .chunks(TILE_ROWS * n_inputs)
            .zip(self.output.chunks_mut(TILE_ROWS * n_outputs))
        {
            live_inputs(input, self.layer, &mut live);
            match output.len() == TILE_ROWS * n_outputs {
                true => tile::<S, TILE_ROWS>(simd, self.layer, &live, input, output),
                false => {
                    let rows = input.chunks_exact(n_inputs);
                    for (input, output) in rows.zip(output.chunks_exact_mut(n_outputs)) {
                        tile::<S, 1>(simd, self.layer, &live, input, output);
                    }
                }
            }
            match self.activation {
                Activation::None => {}
                Activation::Relu => relu(output),
                // A loop, since what a method like for_each calls is compiled apart, without `S`'s instructions.
                Activation::Softmax { factor } => {
                    for row in output.chunks_exact_mut(n_outputs) {
                        softmax(row, factor);
                    }
                }
            }
        }
    }
}

/// The inputs that are not 0 in all rows: of images, half of the pixels and fewer.
#[inline(always)]
fn live_inputs(rows: &[f32], layer: &PackedLayer, live: &mut Vec<u32>) {
    let n_inputs = layer.n_inputs;
    live.clear();
    live.resize(n_inputs, u32::from(!layer.is_finite));
    for row in rows.chunks_exact(n_inputs) {
        for (live, &value) in live.iter_mut().zip(row) {
            // All bits but the sign.
            *live |= value.to_bits() << 1;
        }
    }
    // Without branches: the place of an input that is not live is written again by the next.
    let mut n_live = 0;
    for i in 0..n_inputs {
        let is_live = live[i] != 0;
        live[n_live] = i as u32;
        n_live += usize::from(is_live);
    }
    live.truncate(n_live);
}

/// The sums of `N_ROWS` rows, panel by panel.
#[inline(always)]
fn tile<S: Simd, const N_ROWS: usize>(
    simd: S,
    layer: &PackedLayer,
    live: &[u32],
    input: &[f32],
    output: &mut [f32],
) {
    let PackedLayer {
        n_inputs,
        n_outputs,
        panel_width,
        ..
    } = *layer;
    assert_eq!(panel_width, 2 * S::F32_LANES);
    let rows: [&[f32]; N_ROWS] =
        std::array::from_fn(|row| &input[row * n_inputs..(row + 1) * n_inputs]);
    let panels = layer.weights.chunks_exact(panel_width * n_inputs);
    let mut sums_of_row = [0.0; 64];
    let sums_of_row = &mut sums_of_row[..panel_width];
    for ((panel, bias), first) in panels
        .zip(layer.bias.chunks_exact(panel_width))
        .zip((0..).step_by(panel_width))
    {
        let (panel, _) = S::as_simd_f32s(panel).0.as_chunks::<2>();
        let panel = &panel[..n_inputs];
        let (bias, _) = S::as_simd_f32s(bias);
        let mut sums = [[bias[0], bias[1]]; N_ROWS];
        for &i in live {
            let i = i as usize;
            let weights = panel[i];
            for (sums, row) in sums.iter_mut().zip(rows) {
                let value = simd.splat_f32s(row[i]);
                sums[0] = simd.mul_add_e_f32s(value, weights[0], sums[0]);
                sums[1] = simd.mul_add_e_f32s(value, weights[1], sums[1]);
            }
        }
        let n = panel_width.min(n_outputs - first);
        for (output, sums) in output.chunks_exact_mut(n_outputs).zip(sums) {
            S::as_mut_simd_f32s(sums_of_row).0.copy_from_slice(&sums);
            output[first..first + n].copy_from_slice(&sums_of_row[..n]);
        }
    }
}

#[inline(always)]
fn relu(values: &mut [f32]) {
    for value in values {
        *value = if *value < 0.0 { 0.0 } else { *value };
    }
}

/// Turns logits into probabilities, in place; the largest is subtracted first, so nothing overflows.
#[inline(always)]
fn softmax(row: &mut [f32], factor: f32) {
    let largest = crate::matrix::largest(row);
    for value in row.iter_mut() {
        *value = exp((*value - largest) * factor);
    }
    let scale = 1.0 / sum(row);
    for value in row.iter_mut() {
        *value *= scale;
    }
}

/// The sum of a row, in lanes that the compiler turns into vectors.
#[inline(always)]
fn sum(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<16>();
    let mut lanes = [0.0; 16];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    let mut sum = 0.0;
    for value in lanes.iter().chain(rest) {
        sum += value;
    }
    sum
}

/// The exponential of a number that is not positive, within two units in the last place; below the
/// smallest normal number, 0.
///
/// `x = n ln 2 + r` with a whole `n`, `|r| <= ln 2 / 2`; the polynomial for `exp(r)` is that of Cephes' `expf`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to a whole number, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5e-1,
    ] {
        p = p * r + coefficient;
    }
    let exp_r = p * (r * r) + r + 1.0;
    // The exponent of 2^n.
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    let value = exp_r * scale;
    if x < -87.0 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of -0.5 to 0.5, the same each time.
    fn numbers(n: usize) -> Vec<f32> {
        (0..n)
            .map(|i| (i as u32).wrapping_mul(2_654_435_761) as f32 / 2f32.powi(32) - 0.5)
            .collect()
    }

    fn layer(n_inputs: usize, n_outputs: usize) -> Layer {
        Layer {
            n_inputs,
            n_outputs,
            weight: numbers(n_inputs * n_outputs),
            bias: numbers(n_outputs),
        }
    }

    #[test]
    fn sums_are_those_of_the_definition_for_all_shapes() {
        for (n_inputs, n_outputs) in [(1, 1), (3, 100), (784, 17), (50, 16), (20, 33)] {
            let layer = layer(n_inputs, n_outputs);
            let packed = PackedLayer::new(&layer);
            for n_rows in 0..14 {
                let input: Vec<f32> = numbers(n_rows * n_inputs)
                    .into_iter()
                    .map(|x| x.max(0.0))
                    .collect();
                let mut output = vec![f32::NAN; n_rows * n_outputs];
                packed.forward(&input, &mut output, Activation::None);
                for (row, sums) in output.chunks(n_outputs).enumerate() {
                    let input = &input[row * n_inputs..(row + 1) * n_inputs];
                    for (o, &sum) in sums.iter().enumerate() {
                        let weights = &layer.weight[o * n_inputs..(o + 1) * n_inputs];
                        let products = input
                            .iter()
                            .zip(weights)
                            .map(|(&x, &w)| f64::from(x) * f64::from(w));
                        let expected = products.clone().sum::<f64>() + f64::from(layer.bias[o]);
                        let size = 1.0 + products.map(f64::abs).sum::<f64>();
                        assert!((f64::from(sum) - expected).abs() < 1e-6 * size);
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_every_tile() {
        let mut layer = layer(40, 20);
        layer.bias[3] = -0.0;
        let packed = PackedLayer::new(&layer);
        let mut input = numbers(TILE_ROWS * 40);
        for (i, x) in input.iter_mut().enumerate() {
            // Some inputs are 0 in a row, in all rows, or -0.
            *x *= [1.0, 0.0, -0.0, 1.0, 1.0][(i + i / 40 * (i % 2)) % 5];
        }
        let mut together = vec![0.0; TILE_ROWS * 20];
        packed.forward(&input, &mut together, Activation::None);
        for (input, expected) in input.chunks(40).zip(together.chunks(20)) {
            let mut alone = [0.0; 20];
            packed.forward(input, &mut alone, Activation::None);
            assert_eq!(
                alone.map(f32::to_bits),
                *expected.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn what_is_not_finite_is_not_lost() {
        let mut layer = layer(8, 4);
        let mut output = [0.0; 4];
        PackedLayer::new(&layer).forward(
            &[0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            &mut output,
            Activation::Relu,
        );
        assert!(output.iter().all(|x| x.is_nan()));
        layer.weight[5] = f32::INFINITY;
        PackedLayer::new(&layer).forward(&[0.0; 8], &mut output, Activation::None);
        assert!(output[0].is_nan() && output[1].is_finite());
        softmax(&mut output, 1.0);
        assert!(output.iter().all(|x| x.is_nan()));
    }

    #[test]
    fn exponentials_are_within_two_units_in_the_last_place() {
        for i in 0..870_000 {
            let x = i as f32 * -1e-4;
            let expected = f64::from(x).exp();
            let unit = f64::from((expected as f32).next_up()) - f64::from(expected as f32);
            assert!((f64::from(exp(x)) - expected).abs() <= 2.0 * unit, "{x}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-100.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn probabilities_sum_to_1_and_survive_huge_logits() {
        let mut row = [1000.0, 999.0, -1000.0];
        softmax(&mut row, 1.0);
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((row[0] - 0.731_058_6).abs() < 1e-6);
        assert_eq!(row[2], 0.0);
        let mut flat = [1000.0, 999.0, -1000.0];
        softmax(&mut flat, 0.5);
        assert!((flat[0] - 0.622_459_3).abs() < 1e-6);
    }
}
