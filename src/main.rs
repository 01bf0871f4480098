//! The `nacrefs` binary: the command line over the drives.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(nacrefs::cli::run(&nacrefs::cli::Drives, std::env::args_os()))
}
