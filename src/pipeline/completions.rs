//! `pc completions` and `pc man`: what a shell and `man` need to know of the command line, made from its
//! own description.

use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::make_folder;
use super::progress::Progress;
use crate::cli::{Cli, CompletionsArgs, ManArgs};
use crate::io::output::OutputFile;

/// Runs `pc completions`.
///
/// # Errors
/// If standard output cannot be written.
pub fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pc", &mut script);
    print(&script)
}

/// Runs `pc man`.
///
/// # Errors
/// If standard output or the pages cannot be written.
pub fn run_man(args: &ManArgs, progress: &Progress) -> Result<()> {
    let pages = pages();
    let Some(folder) = &args.folder else {
        let (_, page) = &pages[0];
        return print(page);
    };
    make_folder(folder)?;
    for (name, page) in &pages {
        let path = folder.join(format!("{name}.1"));
        let mut output = OutputFile::create(&path, true, &[])?;
        output
            .write_all(page)
            .with_context(|| format!("cannot write {}", path.display()))?;
        output.finish()?;
    }
    progress.result(format_args!(
        "wrote {} pages to {}; man -l {} shows the first",
        pages.len(),
        folder.display(),
        folder.join("pc.1").display()
    ))
}

/// Name and text of all pages, that of `pc` itself first.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut command = Cli::command().disable_help_subcommand(true);
    // Fills in what subcommands have from above: options of all, and names as `pc train`.
    command.build();
    let subcommands: Vec<Command> = command.get_subcommands().cloned().collect();
    [command].into_iter().chain(subcommands).map(page).collect()
}

fn page(command: Command) -> (String, Vec<u8>) {
    let name = match command.get_name() {
        "pc" => "pc".to_owned(),
        name => format!("pc-{name}"),
    };
    // Man takes the title from the name, and the synopsis from the display name.
    let mut page = Vec::new();
    Man::new(command)
        .title(name.clone())
        .render(&mut page)
        .expect("memory can be written");
    (name, page)
}

/// Writes to standard output. That nobody reads it to its end, as after `| head`, is not an error.
fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}
