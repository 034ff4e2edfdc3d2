//! Speed of prediction and training, in images a second: `cargo bench --bench model`.

use std::hint::black_box;
use std::sync::atomic::AtomicBool;

use burn::tensor::{Tensor, TensorData, activation};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use pc::model::dataset::Dataset;
use pc::model::inference::{Output, Predictor};
use pc::model::network::{Backend, Mlp};
use pc::model::training::{TrainingConfig, train};
use rand::SeedableRng;
use rand::rngs::StdRng;

const N_IMAGES: usize = 4096;

fn prediction(criterion: &mut Criterion) {
    let dataset = Dataset::bundled();
    let inputs: Vec<f32> = dataset.train.pixels[..N_IMAGES * 784]
        .iter()
        .map(|&pixel| f32::from(pixel) / 255.0)
        .collect();
    let mut group = criterion.benchmark_group("predict");
    group.throughput(Throughput::Elements(N_IMAGES as u64));
    for (name, backend) in Backend::NAMES.iter().zip([Backend::Ndarray, Backend::Flex]) {
        let device = backend.device().without_autodiff();
        let mlp = Mlp::init(&[784, 128, 100], &mut StdRng::seed_from_u64(1), &device);
        let predictor = Predictor::new(mlp.weights());
        let burn = || -> Vec<f32> {
            let images = TensorData::new(inputs.clone(), [N_IMAGES, 784]);
            let logits = mlp.forward(Tensor::from_data(images, &device));
            let data = activation::softmax(logits, 1).into_data();
            data.try_into_vec().expect("f32")
        };
        let own = || predictor.predict(&inputs, Output::Probabilities);
        for (a, b) in own().values().iter().zip(burn()) {
            assert!((a - b).abs() < 1e-5);
        }
        group.bench_function(format!("burn-{name}"), |b| b.iter(|| black_box(burn())));
        if backend == Backend::Flex {
            group.bench_function("own", |b| b.iter(|| black_box(own())));
        }
    }
    group.finish();
}

fn training(criterion: &mut Criterion) {
    let mut dataset = Dataset::bundled();
    dataset.test = None;
    let mut group = criterion.benchmark_group("train an epoch");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(dataset.train.len() as u64));
    for (name, backend) in Backend::NAMES.iter().zip([Backend::Ndarray, Backend::Flex]) {
        let config = TrainingConfig {
            hidden: vec![128],
            classes: 100,
            epochs: 1,
            batch_size: 128,
            learning_rate: 1e-3,
            seed: 42,
            backend,
            validation: 0.0,
        };
        group.bench_function(*name, |b| {
            b.iter(|| train(&config, &dataset, &AtomicBool::new(false), &mut |_| {}));
        });
    }
    group.finish();
}

criterion_group!(benches, prediction, training);
criterion_main!(benches);
