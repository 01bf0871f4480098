//! A simulated machine: its clock, its random numbers, its disk, and a store in memory, all of which can be told to
//! fail, to stop, or to be looked at in the middle of a call.

use bytes::Bytes;
use nacrefs::crypt::{DriveSecrets, KdfParams, Secret, SigningKey};
use nacrefs::drive::types::Space;
use nacrefs::drive::{Drive, Settings};
use nacrefs::error::Result;
use nacrefs::journal::Options;
use nacrefs::session::{Machine, Site, assemble, init_in, slots};
use nacrefs::store::faulty::{Call, Fault, Faulty};
use nacrefs::store::memory::Memory;
use nacrefs::store::{Counted, Created, HeadLink, Objects};
use nacrefs::sys::{Clock, Random, SimDisk, random};
use nacrefs::types::{DeviceId, Key, Time};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use crate::dice::Dice;

/// Random bytes by a seed.
pub struct SimRandom(Mutex<Dice>);

impl SimRandom {
    pub fn new(seed: u64) -> SimRandom {
        SimRandom(Mutex::new(Dice(seed)))
    }
}

impl Random for SimRandom {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        let mut dice = self.0.lock();
        out.iter_mut().for_each(|b| *b = dice.roll() as u8);
        Ok(())
    }
}

/// A clock that moves when it is told to: nanoseconds since 1970.
pub struct SimClock(AtomicU64);

impl SimClock {
    pub fn advance(&self, nanoseconds: u64) {
        self.0.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Time {
        let t = self.0.load(Ordering::Relaxed);
        Time { sec: (t / 1_000_000_000) as i64, nsec: (t % 1_000_000_000) as u32 }
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// What a test does to the calls of the store.
pub type Plan = Arc<dyn Fn(&Call) -> Fault + Send + Sync>;
/// Told of each change of the store: before it, and what it will be.
pub type Watcher = Arc<dyn Fn(&str, Option<&Bytes>) + Send + Sync>;

/// A store in memory that tells of every change before it happens.
struct Watched {
    memory: Memory,
    watcher: RwLock<Option<Watcher>>,
}

impl Watched {
    fn tell(&self, name: &str, bytes: Option<&Bytes>) {
        let watcher = self.watcher.read().clone();
        if let Some(watcher) = watcher {
            watcher(name, bytes);
        }
    }
}

impl Objects for Watched {
    fn get(&self, name: &str) -> Result<Bytes> {
        self.memory.get(name)
    }
    fn get_range(&self, name: &str, start: u64, len: usize) -> Result<Bytes> {
        self.memory.get_range(name, start, len)
    }
    fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.tell(name, Some(&bytes));
        self.memory.put(name, bytes)
    }
    fn create(&self, name: &str, bytes: Bytes) -> Result<Created> {
        self.tell(name, Some(&bytes));
        self.memory.create(name, bytes)
    }
    fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.memory.list(dir)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.tell(name, None);
        self.memory.delete(name)
    }
    fn size(&self, name: &str) -> Result<u64> {
        self.memory.size(name)
    }
}

/// The machine and the store. Opening gives a drive; opening again is what happens after a crash.
#[derive(Clone)]
pub struct World {
    pub secrets: Arc<DriveSecrets>,
    pub clock: Arc<SimClock>,
    pub disk: SimDisk,
    pub settings: Settings,
    device: DeviceId,
    local: Key,
    random: Arc<SimRandom>,
    watched: Arc<Watched>,
    objects: Arc<Counted>,
    plan: Arc<RwLock<Option<Plan>>>,
    /// The newest head that the machine remembers.
    known: Arc<Mutex<Option<HeadLink>>>,
}

/// A world as it stood in one moment.
pub struct Snapshot {
    pub disk: SimDisk,
    pub store: Memory,
    pub known: Option<HeadLink>,
}

/// The secret of simulated drives.
pub fn secret(key: [u8; 32]) -> Secret {
    Secret::KeyFile(Key(key))
}

/// Little memory, so that what can be let go is let go.
pub fn tight() -> Settings {
    Settings {
        cache: 32 << 10,
        written: 1 << 10,
        loaded_inodes: 0,
        remembered: 0,
        dirty_inodes: 100_000,
        timeout: Duration::from_secs(5),
        journal: Options {
            file_size: 256 << 10,
            limit: 64 << 20,
            frame_bytes: 16 << 10,
            ..Options::default()
        },
        read_only: false,
        noatime: false,
        sync_store: false,
        workers: 1,
    }
}

impl World {
    /// A new drive in a store of its own.
    pub fn new(seed: u64, settings: Settings) -> World {
        let store = Arc::new(Memory::new());
        let source = SimRandom::new(seed);
        let clock = SimClock(AtomicU64::new(1_600_000_000_000_000_000));
        let key = secret([7; 32]);
        init_in(store.clone(), &key, KdfParams::default(), (1000, 1000), false, &clock, &source).unwrap();
        let Ok(store) = Arc::try_unwrap(store) else { panic!("the store is held") };
        World::on(store, [7; 32], SimDisk::new(), seed ^ 0x5eed, settings)
    }

    /// A machine, by its seed, at a store that has a drive.
    pub fn on(store: Memory, key: [u8; 32], disk: SimDisk, seed: u64, settings: Settings) -> World {
        let source = SimRandom::new(seed);
        let secrets = Arc::new(slots::unlock(&store, &secret(key)).unwrap().0);
        let watched = Arc::new(Watched { memory: store, watcher: RwLock::default() });
        let plan: Arc<RwLock<Option<Plan>>> = Arc::default();
        let ask = plan.clone();
        let objects = Faulty::new(watched.clone(), move |call| {
            let plan = ask.read().clone();
            plan.map_or(Fault::Pass, |plan| plan(call))
        });
        // As under a mount: it also knows who waits for it with what locks.
        let (objects, _) = Counted::new(Arc::new(objects));
        World {
            secrets,
            clock: Arc::new(SimClock(AtomicU64::new(1_700_000_000_000_000_000))),
            disk,
            settings,
            device: DeviceId(random(&source).unwrap()),
            local: Key(random(&source).unwrap()),
            random: Arc::new(source),
            watched,
            objects: Arc::new(objects),
            plan,
            known: Arc::default(),
        }
    }

    pub fn set_plan(&self, plan: impl Fn(&Call) -> Fault + Send + Sync + 'static) {
        *self.plan.write() = Some(Arc::new(plan));
    }

    pub fn clear_plan(&self) {
        *self.plan.write() = None;
    }

    pub fn watch(&self, watcher: impl Fn(&str, Option<&Bytes>) + Send + Sync + 'static) {
        *self.watched.watcher.write() = Some(Arc::new(watcher));
    }

    /// Stops watching and failing.
    pub fn quiet(&self) {
        *self.watched.watcher.write() = None;
        self.clear_plan();
        self.disk.clear_fault();
    }

    pub fn store(&self) -> Memory {
        self.watched.memory.copy()
    }

    pub fn known(&self) -> Option<HeadLink> {
        *self.known.lock()
    }

    pub fn site(&self) -> Site {
        Site::new(self.objects.clone(), self.secrets.clone()).unwrap()
    }

    /// Opens the drive, as a mount does.
    pub fn open(&self) -> Result<Arc<Drive>> {
        let site = self.site();
        let newest = site.newest(self.known())?;
        if let Some(opened) = &newest.opened {
            *self.known.lock() = Some(opened.head.link());
        }
        let known = self.known.clone();
        let machine = Machine {
            newest,
            device: self.device,
            signing: SigningKey::from_bytes(&self.local),
            incarnation: nacrefs::types::Incarnation(random(&*self.random)?),
            journal_disk: Arc::new(self.disk.clone()),
            journal_key: self.local.clone(),
            index: None,
            over: None,
            disk_cache: None,
            clock: self.clock.clone(),
            random: self.random.clone(),
            remember: Box::new(move |version, hash| {
                *known.lock() = Some(HeadLink { version, hash });
                Ok(())
            }),
            space: Box::new(|| Space { total: 1 << 40, free: 1 << 40, files: 0 }),
        };
        Ok(assemble(&site, machine, self.settings.clone())?.0)
    }

    /// The same machine and drive in another world, which begins as the snapshot was.
    pub fn at(&self, snapshot: Snapshot) -> World {
        let mut world = World::on(snapshot.store, [7; 32], snapshot.disk, 1, self.settings.clone());
        world.device = self.device;
        world.local = self.local.clone();
        // Never the same random bytes twice, as a real machine's are not.
        world.random = Arc::new(SimRandom::new(self.random.0.lock().roll()));
        let now = self.clock.0.load(Ordering::Relaxed);
        world.clock = Arc::new(SimClock(AtomicU64::new(now)));
        world.known = Arc::new(Mutex::new(snapshot.known));
        world
    }

    /// The same machine with random bytes by a seed: the same ones for each machine that has this, as in a virtual machine
    /// that is restored twice.
    #[cfg(debug_assertions)]
    pub fn with_random(mut self, seed: u64) -> World {
        self.random = Arc::new(SimRandom::new(seed));
        self
    }

    /// Another machine that has nothing but the store and the key.
    pub fn elsewhere(&self) -> World {
        World::on(self.store(), [7; 32], SimDisk::new(), 99, self.settings.clone())
    }

    /// Everything in the store is whole.
    pub fn check(&self) {
        let site = self.site();
        let newest = site.newest(self.known()).unwrap().opened.unwrap();
        let store = site.chunk_store(newest.commit.runs.clone(), None);
        let options = nacrefs::commit::check::Options { all: false, read_data: true, subset: None };
        let report =
            nacrefs::commit::check::check(&site.versions, &store, &newest, options, &mut |_| {}).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
}
