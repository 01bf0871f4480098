//! A store that fails where it is told to: for the simulator and for tests.

use super::objects::{Created, Objects};
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which operation is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Get,
    Range,
    Put,
    Create,
    List,
    Delete,
    Size,
}

/// One call of a store.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub op: Op,
    pub name: &'a str,
    /// The number of the call among all calls to this store, from 0.
    pub nth: u64,
}

/// What is to happen to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Pass,
    /// Nothing is done, and the call fails.
    FailBefore(Kind),
    /// All is done, and the call fails: a lost reply.
    FailAfter(Kind),
    /// Of what is to be written only so many bytes are, and the call succeeds. Other calls pass.
    Tear(usize),
    /// The object is as if it were not there. What is written is lost, and the call succeeds.
    Hide,
}

/// Decides what happens to each call.
pub type Plan = dyn Fn(&Call) -> Fault + Send + Sync;

/// A store that does to each call what its plan says.
pub struct Faulty {
    inner: Arc<dyn Objects>,
    calls: AtomicU64,
    plan: Box<Plan>,
}

impl Faulty {
    pub fn new(inner: Arc<dyn Objects>, plan: impl Fn(&Call) -> Fault + Send + Sync + 'static) -> Faulty {
        Faulty { inner, calls: AtomicU64::new(0), plan: Box::new(plan) }
    }

    /// How many calls there have been.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Runs one call; `run` is given how many bytes of its input to write, `hidden` answers for `Hide`.
    fn call<T>(
        &self,
        op: Op,
        name: &str,
        hidden: impl FnOnce() -> Result<T>,
        run: impl FnOnce(usize) -> Result<T>,
    ) -> Result<T> {
        let nth = self.calls.fetch_add(1, Ordering::Relaxed);
        let failed = |kind| Error::new(kind, format!("{op:?} of {name}: made to fail (call {nth})"));
        match (self.plan)(&Call { op, name, nth }) {
            Fault::Pass => run(usize::MAX),
            Fault::FailBefore(kind) => Err(failed(kind)),
            Fault::FailAfter(kind) => run(usize::MAX).and(Err(failed(kind))),
            Fault::Tear(bytes) => run(bytes),
            Fault::Hide => hidden(),
        }
    }
}

fn not_found<T>(name: &str) -> Result<T> {
    Err(Error::new(Kind::NotFound, format!("there is no {name} in the store (hidden)")))
}

impl Objects for Faulty {
    fn get(&self, name: &str) -> Result<Bytes> {
        self.call(Op::Get, name, || not_found(name), |_| self.inner.get(name))
    }

    fn get_range(&self, name: &str, start: u64, len: usize) -> Result<Bytes> {
        self.call(Op::Range, name, || not_found(name), |_| self.inner.get_range(name, start, len))
    }

    fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        let run = |most: usize| self.inner.put(name, bytes.slice(..most.min(bytes.len())));
        self.call(Op::Put, name, || Ok(()), run)
    }

    fn create(&self, name: &str, bytes: Bytes) -> Result<Created> {
        let run = |most: usize| self.inner.create(name, bytes.slice(..most.min(bytes.len())));
        self.call(Op::Create, name, || Ok(Created::Created), run)
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.call(Op::List, dir, || Ok(Vec::new()), |_| self.inner.list(dir))
    }

    fn list_after(&self, dir: &str, name: &str) -> Result<Vec<String>> {
        self.call(Op::List, dir, || Ok(Vec::new()), |_| self.inner.list_after(dir, name))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.call(Op::Delete, name, || Ok(()), |_| self.inner.delete(name))
    }

    fn size(&self, name: &str) -> Result<u64> {
        self.call(Op::Size, name, || not_found(name), |_| self.inner.size(name))
    }

    fn is_there(&self, name: &str) -> Result<bool> {
        self.call(Op::Size, name, || Ok(false), |_| self.inner.is_there(name))
    }

    fn settle(&self, name: &str) -> Result<()> {
        self.inner.settle(name)
    }
}
