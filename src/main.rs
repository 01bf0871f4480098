//! The `nacrefs` binary: the command line over the drive.

use nacrefs::cli::backend::{
    Backend, CheckOptions, CheckReport, Closed, Created, InitOptions, KeySlot, MountRequest, Running,
};
use nacrefs::cli::control::{Progress, Reply, Request};
use nacrefs::cli::secrets::Given;
use nacrefs::error::{Error, Kind, Result};
use nacrefs::types::DriveId;
use std::process::ExitCode;
use std::sync::Arc;

/// Stands in for the drive until that layer is joined: there is no drive anywhere.
struct NoDrive;

fn none<T>(store: &str) -> Result<T> {
    Err(Error::new(Kind::NotADrive, format!("{store}: this build opens no drives")))
}

impl Backend for NoDrive {
    fn init(&self, store: &str, _: &Given, _: &InitOptions) -> Result<Created> {
        none(store)
    }
    fn drive_id(&self, store: &str) -> Result<DriveId> {
        none(store)
    }
    fn mount(&self, request: MountRequest) -> Result<Arc<dyn Running>> {
        none(&request.store)
    }
    fn answer(&self, drive: &Closed, _: Request, _: &mut dyn Reply) -> Result<()> {
        none(&drive.store)
    }
    fn check(
        &self,
        drive: &Closed,
        _: &CheckOptions,
        _: &mut dyn FnMut(&Progress) -> Result<()>,
    ) -> Result<CheckReport> {
        none(&drive.store)
    }
    fn keys(&self, drive: &Closed) -> Result<Vec<KeySlot>> {
        none(&drive.store)
    }
}

fn main() -> ExitCode {
    ExitCode::from(nacrefs::cli::run(&NoDrive, std::env::args_os()))
}
