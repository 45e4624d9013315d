//! The program `telltale`: a thin shell around the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    telltale::cli::main()
}
