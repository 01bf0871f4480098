//! The `nacrefs` binary: the command line over the drives.

use std::process::ExitCode;

fn main() -> ExitCode {
    nacrefs::cli::main(&nacrefs::cli::Drives, std::env::args_os())
}
