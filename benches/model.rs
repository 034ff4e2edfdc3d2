//! Speed of prediction and training, in images a second: `cargo bench --bench model [-- "predict, pc"]` for
//! all cases or those whose names begin so.
//!
//! All ways are timed in turn, so that they meet the same machine; medians count. The peers in other languages
//! are timed by `benches/frameworks.py`, which runs this bench among them.

use std::hint::black_box;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use burn::tensor::{Tensor, TensorData, activation};
use pc::model::dataset::Dataset;
use pc::model::inference::{Output, Predictor};
use pc::model::network::{Backend, Mlp, Parameters};
use pc::model::training::{Task, TrainingConfig, train};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const N_TURNS: usize = 7;

/// Something that takes `n_images` in one call.
struct Case<'a> {
    name: String,
    n_images: usize,
    run: Box<dyn Fn() + 'a>,
}

fn main() {
    let dataset = Dataset {
        test: None,
        ..Dataset::bundled()
    };
    let inputs: Vec<f32> = dataset
        .train
        .pixels
        .iter()
        .map(|&pixel| f32::from(pixel) / 255.0)
        .collect();
    let mut cases = Vec::new();
    for (name, backend) in Backend::NAMES.iter().zip([Backend::Ndarray, Backend::Flex]) {
        predictions(name, backend, (&dataset.train.pixels, &inputs), &mut cases);
        let (dataset, n_images) = (&dataset, dataset.train.len());
        let config = TrainingConfig {
            epochs: 1,
            backend,
            ..TrainingConfig::default()
        };
        cases.push(Case {
            name: format!("train an epoch, {name}"),
            n_images,
            run: Box::new(move || {
                let task = Task::new(&config, dataset);
                black_box(train(task, &AtomicBool::new(false), &mut |_| {}).expect("it converges"));
            }),
        });
    }

    let wanted = std::env::args()
        .skip(1)
        .find(|argument| argument != "--bench");
    if let Some(start) = wanted {
        cases.retain(|case| case.name.starts_with(&start));
    }

    let mut seconds = vec![Vec::new(); cases.len()];
    for _ in 0..N_TURNS {
        for (case, seconds) in cases.iter().zip(&mut seconds) {
            let start = Instant::now();
            (case.run)();
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    println!("| | images/s, median of {N_TURNS} |");
    println!("| --- | --- |");
    for (case, seconds) in cases.iter().zip(&mut seconds) {
        seconds.sort_by(f64::total_cmp);
        let rate = case.n_images as f64 / seconds[N_TURNS / 2];
        println!("| {} | {rate:.0} |", case.name);
    }
}

/// burn's forward and ours on the same weights, compared before they are timed.
fn predictions<'a>(
    name: &str,
    backend: Backend,
    (pixels, inputs): (&'a [u8], &'a [f32]),
    cases: &mut Vec<Case<'a>>,
) {
    let device = backend.device().without_autodiff();
    let parameters = Parameters::init(&[784, 128, 100], &mut StdRng::seed_from_u64(1));
    let mlp = Mlp::new(&parameters, &device);
    let predictor = Predictor::new(parameters.weights());
    let n_images = inputs.len() / 784;
    let burn = move || -> Vec<f32> {
        let images = TensorData::new(inputs.to_vec(), [n_images, 784]);
        let logits = mlp.forward(Tensor::from_data(images, &device));
        let data = activation::softmax(logits, 1).into_data();
        data.try_into_vec().expect("f32")
    };
    let own = {
        let predictor = predictor.clone();
        move || predictor.predict(inputs, Output::Probabilities)
    };
    for (a, b) in own().values().iter().zip(burn()) {
        assert!((a - b).abs() < 1e-5);
    }
    if backend == Backend::Ndarray {
        cases.push(Case {
            name: "predict, pc, f32".to_owned(),
            n_images,
            run: Box::new(move || drop(black_box(own()))),
        });
        cases.push(Case {
            name: "predict, pc, u8".to_owned(),
            n_images,
            run: Box::new(move || {
                drop(black_box(predictor.predict(pixels, Output::Probabilities)))
            }),
        });
    }
    cases.push(Case {
        name: format!("predict, burn {name}"),
        n_images,
        run: Box::new(move || drop(black_box(burn()))),
    });
}
