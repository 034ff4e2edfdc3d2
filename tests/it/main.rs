//! The one integration binary: every extra one would link burn again.

mod cli_append;
mod cli_completions;
mod cli_decode;
mod cli_eval;
mod cli_formats;
mod cli_inspect;
mod cli_plots;
mod cli_predict;
mod cli_recipes;
mod cli_reference;
mod cli_size;
mod cli_train;
mod cli_verify;
mod common;
mod damage;
mod frames;
mod fuzz_corpus;
mod golden;
mod real_data;
mod reference;
