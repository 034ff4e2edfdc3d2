//! The Adam optimizer in one pass over the parameters.
//!
//! burn's own takes a dozen passes, each with memory of its own, which is as long as the network's backward
//! pass; it is the reference of the tests here.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
/// Keras' epsilon.
const EPSILON: f32 = 1e-7;

/// Parameters that one thread updates at a time.
const CHUNK: usize = 1 << 14;

/// Adam (Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, Algorithm 1) with the usual
/// decay rates of 0.9 and 0.999, and an epsilon of 1e-7. Weight decay is apart from the gradient (Loshchilov and
/// Hutter, "Decoupled Weight Decay Regularization", 2019, Algorithm 2).
#[derive(Debug, Clone, PartialEq)]
pub struct Adam {
    pub(super) n_steps: i32,
    /// For each parameter tensor, the running means of its gradient and of the gradient's square.
    pub(super) moments: Vec<[Vec<f32>; 2]>,
}

/// How far a step goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepSize {
    /// The learning rate.
    pub learning_rate: f32,
    /// What weights lose at a learning rate of 1, as a share of them. Biases lose nothing.
    pub weight_decay: f32,
}

/// A part's gradients, one for each parameter tensor.
#[derive(Debug, Clone)]
pub struct Gradients {
    /// What they count for in the mean.
    pub share: f32,
    /// Laid out as the parameters are.
    pub tensors: Vec<Vec<f32>>,
}

impl Adam {
    /// The optimizer before its first step, for parameters of these sizes.
    pub fn new(sizes: impl IntoIterator<Item = usize>) -> Self {
        Self {
            n_steps: 0,
            moments: sizes
                .into_iter()
                .map(|size| [vec![0.0; size], vec![0.0; size]])
                .collect(),
        }
    }

    /// Moves `parameters`, each layer's weights and then its biases, one step along the mean of `parts`.
    ///
    /// # Panics
    /// If the tensors are not those that the optimizer was made for.
    pub fn step(&mut self, size: StepSize, parameters: &mut [Vec<f32>], parts: &[Gradients]) {
        assert_eq!(parameters.len(), self.moments.len());
        self.n_steps += 1;
        let step = Step {
            learning_rate: size.learning_rate,
            kept: 1.0,
            // 1 - beta^t, of the means that begin at 0.
            correction_1: 1.0 / (1.0 - BETA_1.powi(self.n_steps)),
            correction_2: 1.0 / (1.0 - BETA_2.powi(self.n_steps)),
        };
        for (i, (parameters, [first, second])) in
            parameters.iter_mut().zip(&mut self.moments).enumerate()
        {
            assert_eq!(parameters.len(), first.len());
            let is_weight = i.is_multiple_of(2);
            let step = Step {
                kept: match is_weight {
                    true => 1.0 - size.learning_rate * size.weight_decay,
                    false => 1.0,
                },
                ..step
            };
            parameters
                .par_chunks_mut(CHUNK)
                .zip(first.par_chunks_mut(CHUNK))
                .zip(second.par_chunks_mut(CHUNK))
                .enumerate()
                .for_each(|(chunk, ((parameters, first), second))| {
                    let start = chunk * CHUNK;
                    let range = start..start + parameters.len();
                    let mut gradient = vec![0.0; parameters.len()];
                    pulp::Arch::new().dispatch(Update {
                        step,
                        gradient: &mut gradient,
                        parts: parts
                            .iter()
                            .map(|part| (part.share, &part.tensors[i][range.clone()])),
                        parameters,
                        first,
                        second,
                    });
                });
        }
    }
}

#[derive(Clone, Copy)]
struct Step {
    learning_rate: f32,
    /// What a parameter keeps of itself.
    kept: f32,
    correction_1: f32,
    correction_2: f32,
}

struct Update<'a, P> {
    step: Step,
    gradient: &'a mut [f32],
    parts: P,
    parameters: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl<'a, P: Iterator<Item = (f32, &'a [f32])>> WithSimd for Update<'_, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self {
            step,
            gradient,
            parts,
            parameters,
            first,
            second,
        } = self;
        for (share, part) in parts {
            for (gradient, &of_part) in gradient.iter_mut().zip(part) {
                *gradient += share * of_part;
            }
        }
        let moments = first.iter_mut().zip(second);
        for ((parameter, &mut g), (first, second)) in
            parameters.iter_mut().zip(gradient).zip(moments)
        {
            *first = BETA_1 * *first + (1.0 - BETA_1) * g;
            *second = BETA_2 * *second + (1.0 - BETA_2) * (g * g);
            let mean = *first * step.correction_1;
            let root = (*second * step.correction_2).sqrt();
            *parameter = step.kept * *parameter - step.learning_rate * mean / (root + EPSILON);
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::module::{Module, Param};
    use burn::optim::{AdamConfig, GradientsParams};
    use burn::tensor::{Tensor, TensorData};

    use super::*;
    use crate::model::network::Backend;

    #[derive(Module, Debug)]
    struct Parameters {
        tensor: Param<Tensor<1>>,
    }

    #[test]
    fn steps_are_those_of_burn() {
        const N: usize = 1000;
        const SIZE: StepSize = StepSize {
            learning_rate: 0.01,
            weight_decay: 0.0,
        };
        let number = |i: usize| (i * 7919 % 1009) as f32 / 1009.0 - 0.5;
        let device = Backend::Ndarray.device();
        let start: Vec<f32> = (0..N).map(number).collect();
        let tensor =
            |values: &[f32]| Tensor::<1>::from_data(TensorData::new(values.to_vec(), [N]), &device);
        let mut theirs = Parameters {
            tensor: Param::from_tensor(tensor(&start)),
        };
        let mut reference = AdamConfig::new().with_epsilon(1e-7).init();
        let mut ours = vec![start];
        let mut adam = Adam::new([N]);
        for step in 1..30 {
            // Gradients of all sizes, in two parts, of which the second counts for a quarter.
            let gradient = |part: usize| -> Vec<f32> {
                (0..N)
                    .map(|i| number(i * step + part) * 10f32.powi(-((i % 8) as i32)))
                    .collect()
            };
            let parts = [0.75, 0.25].map(|share| Gradients {
                share,
                tensors: vec![gradient((share * 4.0) as usize)],
            });
            let mean: Vec<f32> = parts[0].tensors[0]
                .iter()
                .zip(&parts[1].tensors[0])
                .map(|(a, b)| 0.75 * a + 0.25 * b)
                .collect();
            adam.step(SIZE, &mut ours, &parts);
            // The gradient of this sum is the mean.
            let sum = (theirs.tensor.val() * tensor(&mean)).sum();
            let gradients = GradientsParams::from_grads(sum.backward(), &theirs);
            theirs = reference.step(0.01, theirs, gradients);
        }
        let theirs: Vec<f32> = theirs.tensor.val().into_data().try_into_vec().unwrap();
        for (a, b) in ours[0].iter().zip(theirs) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn weight_decay_shrinks_weights_and_leaves_biases() {
        let part = Gradients {
            share: 1.0,
            tensors: vec![vec![0.3, -0.2], vec![0.1]],
        };
        let after = |weight_decay: f32| {
            let mut parameters = vec![vec![1.0, -2.0], vec![3.0]];
            let size = StepSize {
                learning_rate: 0.1,
                weight_decay,
            };
            let parts = std::slice::from_ref(&part);
            Adam::new([2, 1]).step(size, &mut parameters, parts);
            parameters
        };
        let (plain, decayed) = (after(0.0), after(0.5));
        // 0.1 * 0.5 of the weight before the step.
        assert!((plain[0][0] - decayed[0][0] - 0.05).abs() < 1e-6);
        assert!((plain[0][1] - decayed[0][1] + 0.10).abs() < 1e-6);
        assert_eq!(plain[1], decayed[1]);
    }
}
