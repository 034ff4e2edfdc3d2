//! What a person sees while a command runs: results on stdout, progress bars on stderr.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::io::output::Output;

/// Where results and progress go, by what was asked for.
#[derive(Debug)]
pub struct Progress {
    quiet: bool,
    has_bars: bool,
    /// Whether results go to stderr, because data go to stdout.
    is_beside: bool,
}

impl Progress {
    /// Bars only on a terminal, nothing at all if `quiet`.
    pub fn new(quiet: bool, no_progress: bool) -> Self {
        Self {
            quiet,
            has_bars: !quiet && !no_progress && io::stderr().is_terminal(),
            is_beside: false,
        }
    }

    /// The same, with results on stderr if the output is standard output.
    pub fn beside(&self, output: &Output) -> Self {
        self.beside_data(matches!(output, Output::Stdout(_)))
    }

    /// The same, with results on stderr if standard output is for data.
    pub fn beside_data(&self, is_beside: bool) -> Self {
        Self { is_beside, ..*self }
    }

    /// Prints a line of results. That nobody reads it any more, as after `| head`, is not an error.
    ///
    /// # Errors
    /// If stdout cannot be written for another reason, such as a full disk.
    pub fn result(&self, line: impl std::fmt::Display) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        if self.is_beside {
            // Nobody may be there to read it.
            let _ = writeln!(io::stderr(), "{line}");
            return Ok(());
        }
        match writeln!(io::stdout(), "{line}") {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(error).context("cannot write to standard output")
            }
            _ => Ok(()),
        }
    }

    /// Prints a warning on stderr, even if nothing else is wanted.
    pub fn warn(&self, line: impl std::fmt::Display) {
        // Nobody may be there to read it.
        let _ = writeln!(std::io::stderr(), "warning: {line}");
    }

    /// A bar over `n` things called `unit`.
    pub fn bar(&self, n: u64, unit: &str) -> ProgressBar {
        let target = match self.has_bars {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let style = format!(
            "{{msg}} {{bar:30}} {{human_pos}}/{{human_len}} {unit}, {{per_sec}}, {{eta}} left"
        );
        let bar = ProgressBar::with_draw_target(Some(n), target);
        bar.set_style(
            ProgressStyle::with_template(&style)
                .expect("the template is valid")
                .with_key(
                    "per_sec",
                    |state: &indicatif::ProgressState, w: &mut dyn std::fmt::Write| {
                        let _ = write!(w, "{}/s", thousands(state.per_sec() as u64));
                    },
                ),
        );
        if self.has_bars {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        bar
    }
}

/// A number with its thousands set apart.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let texts = [0, 999, 1000, 12_345, 1_234_567].map(thousands);
        assert_eq!(texts, ["0", "999", "1,000", "12,345", "1,234,567"]);
    }
}
