//! `pc completions`, `pc man` and the help that they are made from.

use clap::CommandFactory;
use pc::cli::Cli;

use crate::common::Folder;

/// The names of all subcommands.
fn subcommands() -> Vec<String> {
    let command = Cli::command();
    let names = command.get_subcommands().map(|c| c.get_name().to_owned());
    names.collect()
}

#[test]
fn completions_name_every_subcommand() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = folder.run(&format!("completions {shell}"), 0).stdout;
        for name in subcommands() {
            assert!(script.contains(&name), "{shell}: {name}");
        }
        assert!(script.contains("skip-damaged"), "{shell}");
    }
    folder.run("completions tcsh", 2);
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn manual_pages_name_every_subcommand() {
    let folder = Folder::new();
    let page = folder.run("man", 0).stdout;
    assert!(page.contains(".TH pc 1"), "{page}");
    for name in subcommands() {
        assert!(
            page.contains(&format!("pc\\-{}", name.replace('-', "\\-"))),
            "{name}\n{page}"
        );
    }
    for _ in 0..2 {
        folder.run("man man1", 0);
    }
    assert_eq!(folder.read("man1/pc.1"), page.as_bytes());
    for name in subcommands() {
        let page = String::from_utf8(folder.read(&format!("man1/pc-{name}.1"))).unwrap();
        assert!(
            page.starts_with(".ie") && page.contains("Examples:"),
            "{name}\n{page}"
        );
        assert!(page.contains(&format!(".TH pc-{name} 1")), "{name}\n{page}");
    }
    folder.run("man some/where", 0);
    assert_eq!(folder.read("some/where/pc.1"), page.as_bytes());
    folder.write("file", b"");
    folder.fails("man file", "file: a file; expected a folder", "");
}

#[test]
fn the_help_of_every_subcommand_has_examples() {
    let folder = Folder::new();
    for name in subcommands() {
        let help = folder.run(&format!("{name} --help"), 0).stdout;
        assert!(help.contains(&format!("Usage: pc {name}")), "{help}");
        assert!(
            help.contains(&format!("Examples:\n  pc {name}"))
                || help.contains(&format!("  pc {name} ")),
            "{help}"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_is_not_an_error() {
    use std::process::Stdio;

    let folder = Folder::new();
    for arguments in ["completions zsh", "man"] {
        let mut child = folder
            .pc(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(output.stderr, b"");
    }
}
