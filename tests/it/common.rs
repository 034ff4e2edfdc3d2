//! What the tests of the command line share: a folder of their own, and files to put there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The binary under test.
pub const PC: &str = env!("CARGO_BIN_EXE_pc");

/// An empty folder in which `pc` is run.
pub struct Folder(TempDir);

/// `pc`, which heeds the signals that a run of tests in the background ignores, and leaves its children to ignore.
#[cfg(unix)]
fn heeding_signals() -> Command {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
    const INTERRUPT: u64 = 1 << 1;
    if ignored & INTERRUPT == 0 {
        return Command::new(PC);
    }
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", PC]);
    command
}

/// What a command said.
pub struct Said {
    pub stdout: String,
    pub stderr: String,
}

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A folder with a small `model.safetensors`, 784 -> 8 -> 10.
    pub fn with_model() -> Self {
        let folder = Self::new();
        folder.write("model.safetensors", &small_model());
        folder
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.join(name), bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.join(name)).unwrap()
    }

    /// Names of all entries, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// `pc` with arguments separated by spaces.
    pub fn pc(&self, arguments: &str) -> Command {
        let mut command = Command::new(PC);
        command
            .current_dir(self.path())
            .args(arguments.split_whitespace());
        command
    }

    /// Runs `pc`, which must exit with `code`.
    #[track_caller]
    pub fn run(&self, arguments: &str, code: i32) -> Said {
        let output = self.pc(arguments).output().unwrap();
        let said = Said {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        assert_eq!(
            output.status.code(),
            Some(code),
            "pc {arguments}\nin {:?}\nstdout: {}\nstderr: {}",
            self.names(),
            said.stdout,
            said.stderr
        );
        said
    }

    /// Starts `pc` and returns once it has begun an output, under a temporary name.
    #[cfg(unix)]
    pub fn start(&self, arguments: &str) -> std::process::Child {
        use std::process::Stdio;
        use std::time::{Duration, Instant};

        let n_before = self.names().len();
        let child = heeding_signals()
            .current_dir(self.path())
            .args(arguments.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.names().len() == n_before {
            assert!(
                Instant::now() < deadline,
                "pc {arguments} has begun nothing"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    /// Runs `pc`, which must fail with one line that begins and ends as given, and leave no file
    /// behind.
    #[track_caller]
    pub fn fails(&self, arguments: &str, start: &str, end: &str) {
        let before = self.names();
        let said = self.run(arguments, 1);
        let line = said.stderr.strip_suffix('\n').unwrap_or(&said.stderr);
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(
            line.starts_with(&format!("error: {start}")) && line.ends_with(end),
            "{line}"
        );
        let mut causes: Vec<&str> = line.split(": ").collect();
        causes.sort_unstable();
        causes.dedup();
        assert_eq!(causes.len(), line.split(": ").count(), "said twice: {line}");
        assert_eq!(self.names(), before, "files were left behind");
    }
}

/// A `.npy` file of a type, shape and data.
pub fn npy(descr: &str, is_fortran_order: bool, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let order = if is_fortran_order { "True" } else { "False" };
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let text = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({sizes}), }}\n")
        .replace(", )", ",)");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.extend(data);
    bytes
}

/// The float32 values of a `.npy` file that `pc` wrote, and its number of rows and columns.
pub fn read_npy(bytes: &[u8]) -> (usize, usize, Vec<f32>) {
    let header = std::str::from_utf8(&bytes[10..128]).unwrap();
    let shape = header.split("'shape': (").nth(1).unwrap();
    let mut sizes = shape.split(&[',', ')', ' '][..]).filter(|s| !s.is_empty());
    let mut size = || sizes.next().unwrap().parse().unwrap();
    let (n_rows, n_columns) = (size(), size());
    let values: Vec<f32> = bytes[128..]
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(values.len(), n_rows * n_columns);
    (n_rows, n_columns, values)
}

/// An IDX file.
pub fn idx(magic: u32, sizes: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(data);
    bytes
}

/// `n` images of 784 pixels that differ from each other.
pub fn pixels(n: usize) -> Vec<u8> {
    (0..n * 784)
        .map(|i| {
            let (image, pixel) = (i / 784, i % 784);
            match (pixel * (image + 3)) % 11 {
                0..3 => (pixel * 7 + image * 13) as u8,
                _ => 0,
            }
        })
        .collect()
}

/// Writes `mnist/` with `n` training and `n` test images of ten classes: class `c` is a bar in the
/// `c`-th column, so that it can be learned.
pub fn write_toy_mnist(folder: &Folder, n: usize) {
    fs::create_dir_all(folder.join("mnist")).unwrap();
    let labels: Vec<u8> = (0..n).map(|i| (i % 10) as u8).collect();
    let images: Vec<u8> = (0..n * 784)
        .map(|i| {
            let (image, column) = (i / 784, i % 28);
            match column / 2 == labels[image] as usize {
                true => 200 + (image % 50) as u8,
                false => (i * 31 % 40) as u8,
            }
        })
        .collect();
    for part in ["train", "t10k"] {
        let images = idx(0x803, &[n as u32, 28, 28], &images);
        folder.write(&format!("mnist/{part}-images-idx3-ubyte"), &images);
        let labels = idx(0x801, &[n as u32], &labels);
        folder.write(&format!("mnist/{part}-labels-idx1-ubyte"), &labels);
    }
}

/// A checkpoint of a 784 -> 8 -> 10 network with fixed weights, which makes peaked predictions.
fn small_model() -> Vec<u8> {
    let weight = |n: usize, scale: f32| -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 2_654_435_761 % 1000) as f32 / 500.0 - 1.0) * scale)
            .collect()
    };
    let tensors = [
        ("0.bias", vec![8], weight(8, 0.1)),
        ("0.weight", vec![8, 784], weight(8 * 784, 0.2)),
        ("2.bias", vec![10], weight(10, 0.1)),
        ("2.weight", vec![10, 8], weight(80, 2.0)),
    ];
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        header.insert(
            name.to_owned(),
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}
