//! The command line: what can be typed, and the checks that need no file.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use crate::huffman::frame::DEFAULT_MEMORY_LIMIT;
use crate::huffman::{Bound, Kind, Promise};
use crate::huffman::{MAX_KEEP_TOP, MAX_MAX_ERROR, MAX_MAX_KL, MIN_MAX_ERROR, MIN_MAX_KL};
use crate::io::format::Format;
use crate::io::source::SourceOptions;
use crate::model::augment::Augmentation;
use crate::model::inference::Output;
use crate::model::network::Backend;
use crate::model::schedule::Schedule;

/// The checkpoint that is written and read where none is named.
pub const DEFAULT_MODEL: &str = "model.safetensors";

/// The bound where none is given: half a step of 250 levels.
const DEFAULT_MAX_ERROR: f64 = 0.002;

/// Train a classifier and store its predictions in about a byte a row
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// Print errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Show no progress bars; they appear only on a terminal anyway
    #[arg(long, global = true)]
    pub no_progress: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
#[expect(missing_docs)]
pub enum Command {
    Train(TrainArgs),
    Predict(PredictArgs),
    PredictCompress(PredictCompressArgs),
    Compress(CompressArgs),
    Decode(DecodeArgs),
    Inspect(InspectArgs),
    Verify(VerifyArgs),
    Append(AppendArgs),
    Eval(EvalArgs),
    Demo(DemoArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Train a network on labelled images
///
/// The same seed gives the same model bit for bit, on one machine, for a given backend, whatever the number
/// of threads. Ctrl-C stops after the current batch and saves what there is. The test part of the data is
/// reported after each epoch, never used for choosing.
#[derive(Debug, Args)]
#[command(
    mut_arg("memory_limit", |limit| limit.requires("teacher")),
    after_help = "Examples:\n  pc train\n  pc train --data mnist/\n  pc train --data mnist.npz --hidden 300,100 --validation 0.1 -o lenet.safetensors"
)]
pub struct TrainArgs {
    /// Folder with MNIST's four IDX files, gzipped or not, or a .npz file with x_train, y_train,
    /// x_test and y_test; without it, the bundled digit pairs
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where to write the model
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_MODEL)]
    pub output: PathBuf,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
    /// How to train
    #[command(flatten)]
    pub options: TrainingOptions,
    /// Learn from the labels of another network as well: probabilities of the training images, in their
    /// order; a .huff file (which may hold logits), or any format that pc compress reads
    #[arg(long, value_name = "LABELS")]
    pub teacher: Option<PathBuf>,
    /// What divides the logits of both networks before their probabilities are compared
    #[arg(long, value_name = "T", default_value_t = 2.0, value_parser = temperature, allow_negative_numbers = true, requires = "teacher")]
    pub temperature: f64,
    /// Share of the loss that the teacher's labels make up
    #[arg(long, value_name = "SHARE", default_value_t = 0.9, value_parser = share_up_to_1, allow_negative_numbers = true, requires = "teacher")]
    pub mix: f64,
    /// How much memory the labels may ask for
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Write a line of JSON for each epoch; with --resume, after those of the epochs that are complete
    #[arg(long, value_name = "METRICS.jsonl")]
    pub log: Option<PathBuf>,
    /// Draw loss and accuracy by epoch into this folder, as SVG, and of the test part a confusion matrix and a
    /// reliability diagram
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
    /// Write what --resume needs into a file beside the model: its name with .state
    #[arg(long)]
    pub save_state: bool,
    /// Go on with a run whose state was saved, as it was started, to the same weights bit for bit; --epochs
    /// says where it ends, if it is to be later
    #[arg(long, value_name = "MODEL", conflicts_with_all = [
        "batch_size", "learning_rate", "hidden", "classes", "validation", "seed", "backend", "schedule",
        "weight_decay", "label_smoothing", "dropout", "augment", "standardize", "average", "patience",
        "calibrate", "temperature", "mix",
    ])]
    pub resume: Option<PathBuf>,
}

/// How to train.
#[derive(Debug, Args)]
pub struct TrainingOptions {
    /// Times that every training image is seen [default: 10, or on a set below 32,000 images as many as
    /// make 2,500 batches of 128]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub epochs: Option<usize>,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = count, allow_negative_numbers = true)]
    pub batch_size: usize,
    /// Step size of Adam (its other settings: 0.9, 0.999, 1e-7)
    #[arg(long, value_name = "RATE", default_value_t = 1e-3, value_parser = learning_rate, allow_hyphen_values = true)]
    pub learning_rate: f64,
    /// Units of each hidden layer, separated by commas
    #[arg(long, value_name = "N,...", default_value = "128", value_delimiter = ',', value_parser = count, allow_negative_numbers = true)]
    pub hidden: Vec<usize>,
    /// Number of classes, the width of the output
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = count, allow_negative_numbers = true)]
    pub classes: usize,
    /// Share of the training part to hold out; the epoch with the least loss on it is kept
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, allow_negative_numbers = true)]
    pub validation: f64,
    /// Seed of the initial weights and of the order of images
    #[arg(
        long,
        value_name = "N",
        default_value_t = 42,
        allow_negative_numbers = true
    )]
    pub seed: u64,
    /// Where burn computes
    #[arg(long, default_value = "ndarray", value_parser = PossibleValuesParser::new(Backend::NAMES).try_map(|name| name.parse::<Backend>()))]
    pub backend: Backend,
    /// How the learning rate changes: cosine lets it fall to 0
    #[arg(long, default_value = "constant", value_parser = PossibleValuesParser::new(Schedule::NAMES).try_map(|name| name.parse::<Schedule>()))]
    pub schedule: Schedule,
    /// What weights (not biases) lose at each step, as a share of them and of the learning rate (AdamW)
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = weight_decay, allow_hyphen_values = true)]
    pub weight_decay: f64,
    /// Take this share from each label and spread it over the classes that occur
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, allow_negative_numbers = true)]
    pub label_smoothing: f64,
    /// Leave out this share of the hidden units at each step
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, allow_negative_numbers = true)]
    pub dropout: f64,
    /// Distort each image anew every time: some of shift=PIXELS, rotate=DEGREES, scale=SHARE, elastic=ALPHA and
    /// flip, separated by commas; without a value, what suits digits
    #[arg(long, value_name = "KINDS", num_args = 0..=1, default_missing_value = Augmentation::DIGITS)]
    pub augment: Option<Augmentation>,
    /// Train on pixels scaled to mean 0 and variance 1; the model takes them as they are
    #[arg(long)]
    pub standardize: bool,
    /// Keep a running mean of the weights, which retains this share of itself at each step (such as 0.999)
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = retained, allow_negative_numbers = true)]
    pub average: f64,
    /// End after so many epochs without a lower validation loss
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub patience: Option<usize>,
    /// Fit a temperature on the validation part, which predictions then divide logits by for probabilities
    #[arg(long)]
    pub calibrate: bool,
    /// Number of threads; as many as there are processors if not given
    #[arg(long, value_name = "N", value_parser = n_threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

/// Predict on images and write the probabilities
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pc predict images.npy -o probs.npy\n  pc predict t10k-images-idx3-ubyte.gz -o logits.npy --logits"
)]
pub struct PredictArgs {
    /// Images and model
    #[command(flatten)]
    pub input: PredictInput,
    /// Where to write the predictions (.npy, float32); - is standard output
    #[arg(short, long, value_name = "PROBS.npy")]
    pub output: PathBuf,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
}

/// Predict on images and write the probabilities, compressed
///
/// By default, every probability comes back within 0.002 of what the model said, and every row with the same
/// most probable class. All that is promised is checked while writing, by decoding what is written.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pc predict-compress images.npy -o out.huff\n  pc predict-compress images.npy -o out.huff --max-error 1e-4 --keep-top 5\n  pc predict-compress images.npy -o out.huff --max-kl 1e-3\n  pc predict-compress images.npy -o out.huff --logits --max-error 0.1"
)]
pub struct PredictCompressArgs {
    /// Images and model
    #[command(flatten)]
    pub input: PredictInput,
    /// Where to write the compressed predictions; - is standard output
    #[arg(short, long, value_name = "OUT.huff")]
    pub output: PathBuf,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
    /// What to promise
    #[command(flatten)]
    pub promise: PromiseOptions,
}

/// Compress predictions of any model
///
/// All that is promised is checked while writing, by decoding what is written.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pc compress probs.npy -o probs.huff --max-kl 1e-3\n  pc compress logits.npy -o logits.huff --max-error 0.01 --kind logits\n  pc compress probs.npy -o small.huff --size 2MB\n  pc compress scored.parquet -o scored.huff --columns 'p_*' --labels-file y.npy\n  pc compress new.npy -o new.huff --reference old.huff\n  zcat probs.csv.gz | pc compress - -o - > probs.huff"
)]
pub struct CompressArgs {
    /// Predictions, a row a sample and a column a class: .npy, .npz, CSV, Parquet or Arrow IPC of floats,
    /// found out by their content; gzipped ones are unpacked; - is standard input
    #[arg(value_name = "PROBS")]
    pub input: PathBuf,
    /// Where to write the compressed predictions; - is standard output
    #[arg(short, long, value_name = "OUT.huff")]
    pub output: PathBuf,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
    /// Where in the input the matrix is
    #[command(flatten)]
    pub source: SourceArgs,
    /// What the numbers are [default: probabilities if those of the first rows are from 0 to 1 and sum to 0.98
    /// to 1.02, else values]
    #[arg(long, value_parser = PossibleValuesParser::new(["probabilities", "logits", "values"]).map(kind))]
    pub kind: Option<Kind>,
    /// Names of the classes, one a line; if not given, those of the input, if it has them
    #[arg(long, value_name = "FILE")]
    pub class_names: Option<PathBuf>,
    /// The true class of each row, counted from 0: one a line, a .npy vector of integers or IDX labels;
    /// tells what compression does to accuracy, log loss and calibration
    #[arg(long, value_name = "FILE")]
    pub labels_file: Option<PathBuf>,
    /// Draw what other bounds would cost, bytes a row against error and divergence, into this folder, as SVG;
    /// compresses the input some 20 times more
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
    /// What others take, to be drawn beside it: a CSV file with the columns name, bound (max_error or max_kl),
    /// value and bytes_a_row
    #[arg(long, value_name = "FILE", requires = "plots")]
    pub peers: Option<PathBuf>,
    /// What to promise
    #[command(flatten)]
    pub promise: PromiseOptions,
    /// Instead of a bound: the size that the file may have, as in 2MB; the smallest largest error is found under
    /// which it fits, by bisection, in about 14 runs. kB, MB and GB are powers of 1000; K, M and G, or KiB, MiB
    /// and GiB, of 1024
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true, conflicts_with_all = ["max_error", "max_kl", "exact"])]
    pub size: Option<u64>,
    /// Compress the rows against earlier predictions on the same inputs, as of the model before it was
    /// trained again: the output is smaller, and reading it takes the same file, a .huff or any that is read as
    /// the input is. Where that has a reference itself, name this one too, after it
    #[arg(long, value_name = "OLD")]
    pub reference: Vec<PathBuf>,
    /// How much memory files may ask for
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Number of threads; as many as there are processors if not given
    #[arg(long, value_name = "N", value_parser = n_threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

/// Where in an input the matrix is.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// The array of a .npz archive that is meant, if it holds several
    #[arg(long, value_name = "NAME")]
    pub array: Option<String>,
    /// The columns of a table that are classes, by name or prefix*; all of them if not given
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Whether the first line of a CSV file is a header [default: if it is no row of numbers, or counts the columns
    /// from 0]
    #[arg(long, value_name = "yes|no", value_parser = PossibleValuesParser::new(["yes", "no"]).map(|word| word == "yes"))]
    pub csv_header: Option<bool>,
}

impl SourceArgs {
    /// The same for the readers.
    pub fn options(&self) -> SourceOptions {
        SourceOptions {
            array: self.array.clone(),
            columns: self.columns.clone(),
            has_header: self.csv_header,
            takes_non_finite: false,
        }
    }
}

/// What a compressed file promises of its rows.
#[derive(Debug, Args)]
pub struct PromiseOptions {
    /// Largest absolute error of any number, of probabilities 1e-6 to 0.5 [default: 0.002]
    #[arg(long, value_name = "BOUND", value_parser = max_error_of_any, allow_hyphen_values = true, group = "bound")]
    pub max_error: Option<f64>,
    /// Instead: the largest Kullback-Leibler divergence of any row, in bits; decoded rows sum to 1 and
    /// have no zeros
    #[arg(long, value_name = "BITS", value_parser = max_kl, allow_hyphen_values = true, group = "bound")]
    pub max_kl: Option<f64>,
    /// Instead: every bit comes back; of text, nan and inf are taken as well
    #[arg(long, group = "bound")]
    pub exact: bool,
    /// Keep the order of the K most probable classes of each row
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = keep_top, allow_negative_numbers = true)]
    pub keep_top: usize,
}

impl PromiseOptions {
    /// The promise for numbers of a kind.
    pub fn promise(&self, kind: Kind) -> Promise {
        let bound = match (self.max_kl, self.exact) {
            (Some(max_kl), _) => Bound::MaxKl(max_kl),
            (None, true) => Bound::Exact,
            (None, false) => Bound::MaxError(self.max_error.unwrap_or(DEFAULT_MAX_ERROR)),
        };
        Promise {
            kind,
            bound,
            keep_top: self.keep_top,
        }
    }
}

/// Images to predict on, and with what.
#[derive(Debug, Args)]
pub struct PredictInput {
    /// Images: .npy of u8 (scaled by 1/255), f16, f32 or f64, of shape (N, 784), (N, 28, 28),
    /// (N, 28, 28, 1) or (N, 1, 28, 28); or an IDX file, gzipped or not; - is standard input
    #[arg(value_name = "INPUT")]
    pub images: PathBuf,
    /// The model: a safetensors file written by pc train or by PyTorch
    #[arg(long, value_name = "FILE", default_value = DEFAULT_MODEL)]
    pub model: PathBuf,
    /// Write logits, not probabilities
    #[arg(long)]
    pub logits: bool,
    /// Number of threads; as many as there are processors if not given
    #[arg(long, value_name = "N", value_parser = n_threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

impl PredictInput {
    /// What to write.
    pub fn output(&self) -> Output {
        match self.logits {
            true => Output::Logits,
            false => Output::Probabilities,
        }
    }
}

/// Decode a .huff file
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pc decode out.huff\n  pc decode out.huff -o probs.npy\n  pc decode out.huff -o some.npy --rows 1000..2000\n  pc decode out.huff -o probs.parquet\n  pc decode out.huff -o - --format csv --top 3 | head"
)]
pub struct DecodeArgs {
    /// The compressed predictions; - is standard input
    #[arg(value_name = "FILE.huff")]
    pub input: PathBuf,
    /// Where to write them, in the format of the extension; if not given, the input's name with .npy, or
    /// standard output, which is - as well, if the input is -
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// The format to write, of float32: npy and npz in C order, csv with a header if the classes have names,
    /// jsonl with an array a line, parquet and arrow with a column a class [default: by the extension]
    #[arg(long, value_parser = PossibleValuesParser::new(Format::NAMES).try_map(|name| name.parse::<Format>()))]
    pub format: Option<Format>,
    /// Write the number of the most probable class of each row only, counted from 0; -1 for damaged rows
    #[arg(long, conflicts_with = "top")]
    pub labels: bool,
    /// Write the K most probable classes of each row only, and their values: as columns class_1, p_1 and so
    /// on, in jsonl as pairs, in npz as the arrays classes and values
    #[arg(long, value_name = "K", value_parser = keep_top, allow_negative_numbers = true)]
    pub top: Option<usize>,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
    /// Decode these rows only, counted from 0, the last one excluded; A.. and ..B are fine too
    #[arg(long, value_name = "A..B", value_parser = rows, allow_hyphen_values = true)]
    pub rows: Option<RowRange>,
    /// Scale the rows so that they sum to 1; probabilities may then be off by more than the bound
    #[arg(long)]
    pub normalize: bool,
    /// Write NaN for the rows of damaged blocks, name these, and go on; from a pipe, or if the index at the
    /// end is damaged, all from the first damage on is lost
    #[arg(long)]
    pub skip_damaged: bool,
    /// The reference, if the input has been compressed with --reference; may be repeated
    #[arg(long, value_name = "OLD")]
    pub reference: Vec<PathBuf>,
    /// How much memory files may ask for
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Number of threads; as many as there are processors if not given
    #[arg(long, value_name = "N", value_parser = n_threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

/// Some rows: from `start` to before `end`, or to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowRange {
    /// The first row.
    pub start: u64,
    /// The first row no longer meant.
    pub end: Option<u64>,
}

/// Say what .huff files hold and where their bytes go
///
/// Only headers, indexes and a few bytes of each block are read, however large the file is. Of a file that is
/// damaged or not whole, what can be said is said; the exit code is then 1.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pc inspect out.huff\n  pc inspect --entropy out.huff\n  pc inspect --json *.huff | jq -r '[.file, .rows, .bytes] | @tsv'",
    after_long_help = "Examples:\n  pc inspect out.huff\n  pc inspect --entropy out.huff\n  pc inspect --json *.huff | jq -r '[.file, .rows, .bytes] | @tsv'\n\nMembers of the JSON object, null where there is nothing to say:\n  file, bytes, version, kind, rows, classes, class_names\n  promises       what is promised, as headers say it; mostly one\n  exact_rows     rows stored bit for bit because a promise would have been broken\n  largest_error, largest_kl, mean_kl\n                 as measured while writing; divergences in bits\n  frames, blocks, rows_a_block (of the largest)\n  models         how many blocks each model of rows codes, those of rANS named so\n  models_sha256, producers\n  references     hash and rows of what the rows are compressed against\n  bits           of each part of the file; their sum is 8 times bytes:\n                 headers; payloads; block_framing, what is around payloads; indexes;\n                 no_whole_frame, what follows the last one. With --entropy, in place of\n                 payloads: codebooks, all that is before the rows; codes of the top_class\n                 (heads, and which row comes again), of other_classes (ranks), of levels and\n                 other numbers, of the order (of block-sorted rows that of the top class\n                 is among other numbers); exact_rows; extra_bits, which follow codes as they are; padding\n  entropy_bits, code_bits\n                 with --entropy: the least that the codes could take, and what they take\n                 (of rANS perhaps 16 bits a block less, which its first state holds)\n  error          what is wrong with the file"
)]
pub struct InspectArgs {
    /// The files
    #[arg(value_name = "FILE.huff", required = true)]
    pub files: Vec<PathBuf>,
    /// Print one JSON object for each file, on a line of its own
    #[arg(long)]
    pub json: bool,
    /// Decode all rows to tell the parts of the blocks, and the entropy of their symbols
    #[arg(long)]
    pub entropy: bool,
    /// The reference, if a file has been compressed with --reference; may be repeated
    #[arg(long, value_name = "OLD", requires = "entropy")]
    pub reference: Vec<PathBuf>,
    /// How much memory files may ask for
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Number of threads; as many as there are processors if not given
    #[arg(long, value_name = "N", value_parser = n_threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

/// Check that a .huff file is whole, or that it keeps its promises of the original
///
/// Without the original: that all checksums are right, all blocks decode, and the figures of the index are
/// those of the blocks. With it: that every row is what is promised of it. The first row that is not is named.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pc verify out.huff\n  pc verify probs.huff probs.npy\n  cat shard-*.huff | pc verify /dev/stdin"
)]
pub struct VerifyArgs {
    /// The compressed predictions
    #[arg(value_name = "FILE.huff")]
    pub input: PathBuf,
    /// What was compressed, in any format that pc compress reads
    #[arg(value_name = "ORIGINAL")]
    pub original: Option<PathBuf>,
    /// Where in the original the matrix is
    #[command(flatten)]
    pub source: SourceArgs,
    /// The reference, if the file has been compressed with --reference; may be repeated
    #[arg(long, value_name = "OLD")]
    pub reference: Vec<PathBuf>,
    /// How much memory files may ask for
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Number of threads; as many as there are processors if not given
    #[arg(long, value_name = "N", value_parser = n_threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

/// Append rows to a .huff file
///
/// They get the promise of the rows before, but no --reference. Whatever happens, the rows before stay readable: if an append is
/// cut short, as by a loss of power, pc decode --skip-damaged gives them, and the next append drops what was
/// left of the other. Each append adds a frame with a header of its own, so a few hundred rows at a time take
/// less space than a few.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pc compress monday.npy -o log.huff && pc append log.huff tuesday.npy\n  pc append log.huff wednesday.npy"
)]
pub struct AppendArgs {
    /// The file to append to
    #[arg(value_name = "FILE.huff")]
    pub file: PathBuf,
    /// The rows, in any format that pc compress reads; - is standard input
    #[arg(value_name = "MORE")]
    pub rows: PathBuf,
    /// Where in the input the matrix is
    #[command(flatten)]
    pub source: SourceArgs,
    /// How much memory files may ask for
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Number of threads; as many as there are processors if not given
    #[arg(long, value_name = "N", value_parser = n_threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

/// Print what a shell needs to complete pc's command line
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pc completions bash > ~/.local/share/bash-completion/completions/pc\n  pc completions zsh > ~/.zfunc/_pc\n  pc completions fish > ~/.config/fish/completions/pc.fish"
)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// Print the manual page of pc, or write the pages of all its commands
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pc man | man -l -\n  pc man ~/.local/share/man/man1")]
pub struct ManArgs {
    /// The folder to write pc.1, pc-train.1 and so on to, replacing those of before; made if it is not there
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// Tell how good predictions are: accuracy, log loss, bits a label, calibration, confusions
///
/// Either a model's, on a data set, or those in a file, compressed or not, beside the true classes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pc eval --data mnist/\n  pc eval out.huff --labels-file labels.npy\n  pc eval probs.npy --labels-file labels.txt --json\n  pc eval --data mnist/ --plots pictures/"
)]
pub struct EvalArgs {
    /// Predictions: a .huff file, or any format that pc compress reads; without them, the model is run
    #[arg(value_name = "PREDICTIONS", conflicts_with_all = ["data", "part", "model"])]
    pub predictions: Option<PathBuf>,
    /// The true class of each row of the predictions, counted from 0: one a line, a .npy vector of integers
    /// or IDX labels
    #[arg(long, value_name = "FILE", requires = "predictions")]
    pub labels_file: Option<PathBuf>,
    /// Where in the predictions the matrix is
    #[command(flatten)]
    pub source: SourceArgs,
    /// The reference, if a .huff file has been compressed with --reference; may be repeated
    #[arg(long, value_name = "OLD", requires = "predictions")]
    pub reference: Vec<PathBuf>,
    /// What the predictions are [default: what a .huff file says; else as pc compress finds it, logits if there
    /// are numbers beyond 0 to 1]
    #[arg(long, requires = "predictions", value_parser = PossibleValuesParser::new(["probabilities", "logits"]).map(kind))]
    pub kind: Option<Kind>,
    /// Data set to run the model on, as pc train takes it; if not given, the bundled digit pairs
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Which part of the data set
    #[arg(long, value_name = "PART", default_value = "test")]
    pub part: Part,
    /// The model: a safetensors file written by pc train or by PyTorch
    #[arg(long, value_name = "FILE", default_value = DEFAULT_MODEL)]
    pub model: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Write a confusion matrix and a reliability diagram into this folder, as SVG
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
    /// Replace pictures if they exist
    #[arg(long, requires = "plots")]
    pub force: bool,
    /// How much memory files may ask for
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Number of threads; as many as there are processors if not given
    #[arg(long, value_name = "N", value_parser = n_threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// What a model was trained on.
    Train,
    /// What it has not seen.
    Test,
}

/// Do the whole road once on the bundled digit pairs: train, predict, compress, decode, check
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pc demo\n  pc demo --epochs 5 --max-error 0.01")]
pub struct DemoArgs {
    /// How to train
    #[command(flatten)]
    pub options: TrainingOptions,
    /// Largest absolute error of any probability
    #[arg(long, value_name = "BOUND", default_value_t = DEFAULT_MAX_ERROR, value_parser = max_error, allow_hyphen_values = true)]
    pub max_error: f64,
}

/// How much memory `.huff` files may ask for.
#[derive(Debug, Args)]
pub struct MemoryArgs {
    /// Refuse .huff files whose sizes ask for more memory than this at once (a thread has some blocks at hand); kB, MB
    /// and GB are powers of 1000; K, M and G, or KiB, MiB and GiB, of 1024
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_MEMORY_LIMIT, value_parser = size, allow_hyphen_values = true)]
    pub memory_limit: u64,
}

/// A number of things, at least one and few enough to be held in memory.
fn count(text: &str) -> Result<usize, String> {
    const MAX: usize = 1 << 20;
    match text.parse() {
        Ok(n) if (1..=MAX).contains(&n) => Ok(n),
        _ => Err(format!("expected a whole number from 1 to {MAX}")),
    }
}

fn n_threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=1024).contains(&n) => Ok(n),
        _ => Err("expected a whole number from 1 to 1024".to_owned()),
    }
}

fn learning_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 10.0 => Ok(rate),
        _ => Err("expected a number above 0 and at most 10".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=0.9).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 0.9".to_owned()),
    }
}

fn share_up_to_1(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

fn retained(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to below 1".to_owned()),
    }
}

fn weight_decay(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(decay) if (0.0..=10.0).contains(&decay) => Ok(decay),
        _ => Err("expected a number from 0 to 10".to_owned()),
    }
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(temperature) if (0.1..=100.0).contains(&temperature) => Ok(temperature),
        _ => Err("expected a number from 0.1 to 100".to_owned()),
    }
}

fn max_error(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(bound) if (MIN_MAX_ERROR..=MAX_MAX_ERROR).contains(&bound) => Ok(bound),
        _ => Err(format!(
            "expected a number from {MIN_MAX_ERROR:e} to {MAX_MAX_ERROR}"
        )),
    }
}

/// For probabilities, the codec has a narrower range.
fn max_error_of_any(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(bound) if bound > 0.0 && f64::is_finite(bound) => Ok(bound),
        _ => Err("expected a number above 0".to_owned()),
    }
}

fn kind(name: String) -> Kind {
    match name.as_str() {
        "probabilities" => Kind::Probabilities,
        "logits" => Kind::Logits,
        _ => Kind::Values,
    }
}

fn max_kl(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(bound) if (MIN_MAX_KL..=MAX_MAX_KL).contains(&bound) => Ok(bound),
        _ => Err(format!(
            "expected a number of bits from {MIN_MAX_KL:e} to {MAX_MAX_KL}"
        )),
    }
}

fn keep_top(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=MAX_KEEP_TOP).contains(&n) => Ok(n),
        _ => Err(format!("expected a whole number from 1 to {MAX_KEEP_TOP}")),
    }
}

fn rows(text: &str) -> Result<RowRange, String> {
    let range = text.split_once("..").and_then(|(start, end)| {
        let number = |text: &str| text.parse::<u64>().ok();
        Some(RowRange {
            start: if start.is_empty() { 0 } else { number(start)? },
            end: if end.is_empty() {
                None
            } else {
                Some(number(end)?)
            },
        })
    });
    match range {
        Some(range) if range.end.is_none_or(|end| range.start <= end) => Ok(range),
        _ => Err("expected two row numbers, as in 1000..2000".to_owned()),
    }
}

/// A number of bytes, with a unit or without.
fn size(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match text[number.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "kb" => Some(1000),
        "mb" => Some(1_000_000),
        "gb" => Some(1_000_000_000),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        "g" | "gib" => Some(1 << 30),
        _ => None,
    };
    let n_bytes = factor.and_then(|factor: u64| match number.trim_end().parse::<u64>() {
        Ok(number) => number.checked_mul(factor),
        Err(_) => {
            let n_bytes = number.trim_end().parse::<f64>().ok()? * factor as f64;
            (0.0..1e18).contains(&n_bytes).then_some(n_bytes as u64)
        }
    });
    n_bytes.ok_or_else(|| {
        "expected a number of bytes, alone or with kB, MB, GB (powers of 1000), K, M, G, KiB, MiB or GiB (powers of 1024), as in 2MB"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for arguments in [
            "train --epochs 0",
            "train --batch-size 0",
            "train --hidden 128,0",
            "train --classes 9999999999",
            "train --learning-rate nan",
            "train --learning-rate 0",
            "train --validation 1",
            "train --threads 100000",
            "train --backend cuda",
            "train --schedule step",
            "train --weight-decay -1",
            "train --label-smoothing 1",
            "train --dropout 1",
            "train --augment shear=1",
            "train --average 1",
            "train --patience 0",
            "train --temperature 2",
            "train --memory-limit 1G",
            "train --teacher a.huff --temperature 0",
            "train --teacher a.huff --mix 1.5",
            "train --resume a --seed 3",
            "train --resume a --augment",
            "predict-compress a.npy",
            "predict-compress a.npy -o b --max-error 0",
            "demo --max-error 0.6",
            "compress a.npy -o b --kind integers",
            "predict-compress a.npy -o b --max-error nan",
            "predict-compress a.npy -o b --max-kl 2",
            "predict-compress a.npy -o b --max-kl 0.1 --exact",
            "predict-compress a.npy -o b --max-error 0.1 --max-kl 0.1",
            "predict-compress a.npy -o b --keep-top 0",
            "predict-compress a.npy -o b --keep-top 256",
            "decode",
            "decode a.huff --rows 5",
            "decode a.huff --rows 5..4",
            "decode a.huff --rows -1..4",
            "decode a.huff --memory-limit 1T",
            "decode a.huff --memory-limit 99999999999G",
            "compress a.npy -o b --size 2MB --max-error 0.1",
            "compress a.npy -o b --size 2MB --exact",
        ] {
            let words = ["pc"].into_iter().chain(arguments.split(' '));
            let error = Cli::try_parse_from(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments}");
        }
    }

    #[test]
    fn negative_numbers_are_values_and_no_options() {
        for (arguments, message) in [
            ("compress a.npy -o b --max-error -1", "a number above 0"),
            ("compress a.npy -o b --max-kl -1e-3", "a number of bits"),
            ("compress a.npy -o b --keep-top -1", "a whole number"),
            ("compress a.npy -o b --size -2MB", "a number of bytes"),
            ("decode a.huff --rows -5..", "two row numbers"),
            ("decode a.huff --rows -5..-1", "two row numbers"),
            ("decode a.huff --top -1", "a whole number"),
            ("decode a.huff --memory-limit -1", "a number of bytes"),
            ("decode a.huff --threads -1", "a whole number"),
            ("train --learning-rate -0.1", "a number above 0"),
            ("demo --max-error -1", "a number from"),
        ] {
            let words = ["pc"].into_iter().chain(arguments.split(' '));
            let error = Cli::try_parse_from(words).unwrap_err().to_string();
            assert!(
                error.contains(&format!("expected {message}")),
                "{arguments}: {error}"
            );
        }
    }

    #[test]
    fn ranges_and_sizes_are_understood() {
        let range = |start, end| Ok(RowRange { start, end });
        assert_eq!(rows("3..8"), range(3, Some(8)));
        assert_eq!(rows("3.."), range(3, None));
        assert_eq!(rows("..8"), range(0, Some(8)));
        assert_eq!(rows(".."), range(0, None));
        for (text, n_bytes) in [
            ("100", 100),
            ("77B", 77),
            ("3K", 3072),
            ("3k", 3072),
            ("3KiB", 3072),
            ("3kB", 3000),
            ("3KB", 3000),
            ("1.5kb", 1500),
            ("512M", 512 << 20),
            ("0.5m", 1 << 19),
            ("512MiB", 512 << 20),
            ("2MB", 2_000_000),
            ("2G", 2 << 30),
            ("2gib", 2 << 30),
            ("2 GB", 2_000_000_000),
        ] {
            assert_eq!(size(text), Ok(n_bytes), "{text}");
        }
        for text in [
            "", "B", "MB", "-1MB", "nan", "nanMB", "inf", "1TB", "1e30GB", "é", "1KK", "1,5MB",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
        let options = ["--size 1MB", "--memory-limit 1MB"];
        for (command, option) in ["compress a -o b", "decode a"].into_iter().zip(options) {
            let words = format!("pc {command} {option}");
            Cli::try_parse_from(words.split(' ')).unwrap();
        }
    }

    #[test]
    fn hidden_layers_are_a_list() {
        let cli = Cli::try_parse_from(["pc", "train", "--hidden", "300,100"]).unwrap();
        let Command::Train(train) = cli.command else {
            panic!("not train");
        };
        assert_eq!(train.options.hidden, [300, 100]);
    }
}
