//! The translator of guest code to native code.
//!
//! A hart interprets until some code is warm; then it asks [`Jit`] for native code. What is translated is a region of a page:
//! everything that is reached from one entry by branches and jumps. The instructions' semantics are those of the interpreter,
//! recorded instead of done. There are two translators:
//!
//! - [`quick`] writes machine code instruction by instruction, at once, on the thread that asks.
//! - Cranelift ([`translate`], [`emit`]) compiles what the host has not got the instructions for that quick code needs: a region as a
//!   whole, when it is hot, on a thread of its own, while the hart goes on.
//!
//! - Native code belongs to the bytes of a page of physical memory, so address spaces and harts share it.
//! - Code is never changed. From one region to the next it goes through a data word (inside a page) or the hart's cache of
//!   jumps by virtual address (elsewhere).
//! - No page of memory is writable and executable at one address.
//! - When there is no room any more, a new generation begins, and the old one's memory is given back when the last hart has
//!   left it.
#![allow(unsafe_code)] // UNSAFETY: memory for code, calls of code that was made, and calls back from it with raw pointers

mod arena;
mod emit;
mod helpers;
mod host_fp;
mod quick;
mod region;
mod report;
mod translate;

use arena::Arena;
use isa_riscv::engine::{CodeBytes, Engine, Left, Translation};
use isa_riscv::insn::Ext;
use isa_riscv::{Cpu, SLOTS};
use parking_lot::{Condvar, Mutex};
use quick::{Quick, QuickCode, Thunks};
use region::Region;
use report::Reports;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use translate::{Isas, Translator};

/// How native code is made.
#[derive(Clone, Copy, Debug)]
pub struct JitOptions {
    /// The most bytes of native code.
    pub size: usize,
    /// Threads that translate; 0: whoever asks does it at once.
    pub threads: usize,
    /// Code is translated quickly where that is possible, instead of by Cranelift only.
    pub quick: bool,
    /// How often code is to be asked for before Cranelift translates it.
    pub patience: u32,
    /// Writes `/tmp/perf-PID.map`.
    pub perf_map: bool,
    /// Writes `jit-PID.dump` in the current directory.
    pub jit_dump: bool,
}

/// The most bytes of native code that anybody gets.
const MOST_BYTES: usize = 2 << 30;

impl Default for JitOptions {
    fn default() -> JitOptions {
        JitOptions {
            size: 256 << 20,
            threads: 1,
            quick: true,
            patience: 32,
            perf_map: false,
            jit_dump: false,
        }
    }
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JitInfo {
    /// Regions that were translated.
    pub regions: u64,
    /// Their guest instructions.
    pub instructions: u64,
    /// Bytes of guest code of all, and of the longest.
    pub guest_bytes: u64,
    /// See above.
    pub longest: u64,
    /// Bytes of native code of all.
    pub native_bytes: u64,
    /// Bytes of native code of the present generation.
    pub used: u64,
    /// Bytes that there is room for.
    pub size: u64,
    /// Times that everything was forgotten for lack of room.
    pub flushes: u64,
}

/// A translation that was asked for.
struct Request {
    page: Arc<CodeBytes>,
    generation: Arc<Generation>,
    slot: usize,
    ext: Ext,
    /// The slot was inside of native code already, and yet control came to it from elsewhere.
    insists: bool,
}

/// Native code that goes all at once.
pub(crate) struct Generation {
    pub(crate) arena: Arena,
    pub(crate) thunks: Thunks,
    /// `None`: this host has not got what quick code needs, or nobody wants it.
    quick: Option<Mutex<Quick>>,
}

impl Generation {
    fn new(size: usize, quick: bool) -> Result<Generation, String> {
        let arena = Arena::new(size).map_err(|e| format!("allocate {size} bytes for jit buffer: {e}"))?;
        let (code, thunks) = Thunks::make(arena.start());
        arena.add(code.len(), |_| &code).ok_or("the code that enters native code does not fit")?;
        let quick = (quick && quick::is_possible()).then(|| Mutex::new(Quick::new(thunks)));
        Ok(Generation { arena, thunks, quick })
    }

    /// Puts code there; where it is. `None`: there is no room.
    fn add(&self, code: &mut QuickCode) -> Option<u64> {
        let at = self.arena.add(code.made.code.len(), |at| {
            code.place(at);
            &code.made.code
        })?;
        for (link, offset) in &code.links {
            self.arena.with_link(*link, |l| l.store(at + u64::from(*offset), Ordering::Release));
        }
        Some(at)
    }
}

/// The most pages of code that are known at a time: each is copied, and the guest may go through all of its memory.
const MOST_PAGES: usize = 8192;

/// The translator of a machine, for all its harts.
pub struct Jit {
    options: JitOptions,
    isas: Isas,
    state: Mutex<State>,
    /// Enters native code.
    entry: extern "C" fn(*mut Cpu, u64, u64) -> u64,
    /// Keeps that function.
    _entry: Generation,
    generation: AtomicU64,
    done: Mutex<JitInfo>,
    reports: Reports,
    queue: Arc<Queue>,
}

struct State {
    current: Arc<Generation>,
    /// By their number.
    pages: HashMap<u64, Arc<CodeBytes>>,
}

#[derive(Default)]
struct Queue {
    requests: Mutex<Option<VecDeque<Request>>>,
    more: Condvar,
}

impl Jit {
    /// A translator; `None` if this host is not one that native code can be made for.
    ///
    /// # Errors
    /// One line: memory or files that the options ask for are not to be had.
    pub fn new(options: JitOptions) -> Result<Option<Arc<Jit>>, String> {
        let Some(isas) = Isas::of_host().filter(|_| cfg!(target_arch = "x86_64")) else { return Ok(None) };
        let options = JitOptions { size: options.size.min(MOST_BYTES), ..options };
        let own = Generation::new(4096, false)?;
        // SAFETY: the code is a function of that type, and the generation lives as long as the translator.
        let entry: extern "C" fn(*mut Cpu, u64, u64) -> u64 =
            unsafe { std::mem::transmute(own.thunks.enter) };
        let current = Arc::new(Generation::new(options.size, options.quick)?);
        let reports = Reports::new(&options)?;
        let queue = Arc::new(Queue { requests: Mutex::new(Some(VecDeque::new())), ..Queue::default() });
        let jit = Arc::new(Jit {
            options,
            isas,
            state: Mutex::new(State { current, pages: HashMap::new() }),
            entry,
            _entry: own,
            generation: AtomicU64::new(0),
            done: Mutex::default(),
            reports,
            queue,
        });
        for _ in 0..options.threads {
            let (weak, queue) = (Arc::downgrade(&jit), jit.queue.clone());
            let work = move || work(&weak, &queue);
            let thread = std::thread::Builder::new().name("rhea-jit".into()).spawn(work);
            thread.map_err(|e| format!("cannot start the thread that translates: {e}"))?;
        }
        Ok(Some(jit))
    }

    /// What was done so far.
    pub fn info(&self) -> JitInfo {
        JitInfo {
            used: self.state.lock().current.arena.used() as u64,
            size: self.options.size as u64,
            flushes: self.generation.load(Ordering::Relaxed),
            ..*self.done.lock()
        }
    }

    fn make(&self, translator: &mut Translator, r: &Request) {
        if !r.insists && r.page.is_inside(r.slot) {
            // It has got native code meanwhile, which is entered somewhere else. Let us see whether that is enough.
            r.page.set_translation(r.slot, Translation::None);
            return;
        }
        let found = match Region::find(&r.page.halves, r.slot, r.ext, false) {
            None => Translation::Never,
            Some(region) => {
                match translator.region(&region, r.slot, &r.generation, self.reports.want_places()) {
                    Ok(made) => match r.generation.arena.add(made.code.len(), |_| &made.code) {
                        Some(at) => {
                            r.page.add_inside(region.blocks.iter().map(|b| b.start));
                            self.count(&region, made.code.len());
                            self.reports.region(&made, at, r.page.number, r.slot);
                            let thunks = &r.generation.thunks;
                            let mut entry = quick::function_entry(thunks, at, 2 * r.slot as u64);
                            match r.generation.add(&mut entry) {
                                Some(at) => Translation::Native(at),
                                None => {
                                    self.begin_anew(&r.generation);
                                    return;
                                }
                            }
                        }
                        None => {
                            self.begin_anew(&r.generation);
                            return;
                        }
                    },
                    Err(e) => {
                        tracing::warn!("could not translate guest code: {e}");
                        Translation::Never
                    }
                }
            }
        };
        r.page.set_translation(r.slot, found);
    }

    /// Translates at once; whether that was possible.
    fn make_quickly(&self, page: &CodeBytes, generation: &Arc<Generation>, slot: usize, ext: Ext) -> bool {
        let Some(quick) = &generation.quick else { return false };
        let Some(region) = Region::find(&page.halves, slot, ext, true) else {
            page.set_translation(slot, Translation::Never);
            return true;
        };
        if region.has_float() && !quick::is_float_possible() {
            return false;
        }
        let places = self.reports.want_places();
        let translate = || quick.lock().region(&region, places, || generation.arena.new_link());
        // Code that cannot be translated is interpreted.
        let Ok(made) = catch_unwind(AssertUnwindSafe(translate)) else {
            page.set_translation(slot, Translation::Never);
            return true;
        };
        let placed = made.and_then(|mut code| generation.add(&mut code).map(|at| (code, at)));
        let Some((code, at)) = placed else {
            self.begin_anew(generation);
            return true;
        };
        self.count(&region, code.made.code.len());
        self.reports.region(&code.made, at, page.number, slot);
        page.set_natives(code.entries.iter().map(|(slot, offset)| (*slot, at + u64::from(*offset))));
        true
    }

    fn count(&self, region: &Region, native: usize) {
        let guest = region.bytes();
        let mut done = self.done.lock();
        done.regions += 1;
        done.instructions += region.len() as u64;
        done.guest_bytes += guest;
        done.longest = done.longest.max(guest);
        done.native_bytes += native as u64;
    }

    /// Forgets everything, if `full` is the present generation.
    fn begin_anew(&self, full: &Arc<Generation>) {
        let mut state = self.state.lock();
        if !Arc::ptr_eq(&state.current, full) {
            return;
        }
        match Generation::new(self.options.size, self.options.quick) {
            Ok(new) => {
                state.current = Arc::new(new);
                state.pages.clear();
                self.generation.fetch_add(1, Ordering::Release);
            }
            Err(e) => tracing::warn!("no memory for native code: {e}"),
        }
    }
}

impl Drop for Jit {
    fn drop(&mut self) {
        *self.queue.requests.lock() = None;
        self.queue.more.notify_all();
    }
}

/// A thread that translates, until the translator is gone.
fn work(jit: &Weak<Jit>, queue: &Queue) {
    let Some(mut translator) = jit.upgrade().map(|j| Translator::new(j.isas.clone())) else { return };
    loop {
        let request = {
            let mut requests = queue.requests.lock();
            loop {
                let Some(waiting) = &mut *requests else { return };
                // What got hot last is what runs now.
                match waiting.pop_back() {
                    Some(r) => break r,
                    None => queue.more.wait(&mut requests),
                }
            }
        };
        let Some(jit) = jit.upgrade() else { return };
        // Code that cannot be translated is interpreted; that must not end the translation of all other.
        if catch_unwind(AssertUnwindSafe(|| jit.make(&mut translator, &request))).is_err() {
            request.page.set_translation(request.slot, Translation::Never);
            translator = Translator::new(jit.isas.clone());
        }
    }
}

impl Engine for Jit {
    fn page(&self, number: u64, halves: &[u16; SLOTS]) -> Arc<CodeBytes> {
        let mut state = self.state.lock();
        if let Some(p) = state.pages.get(&number).filter(|p| *p.halves == *halves) {
            return p.clone();
        }
        if state.pages.len() >= MOST_PAGES {
            let full = state.current.clone();
            drop(state);
            self.begin_anew(&full);
            state = self.state.lock();
        }
        let page = Arc::new(CodeBytes::new(number, halves, state.current.clone()));
        state.pages.insert(number, page.clone());
        page
    }

    fn translate(&self, page: &Arc<CodeBytes>, slot: usize, ext: Ext) {
        // The page's own generation lives as long as the page, whichever is the present one.
        let Ok(generation) = Arc::downcast::<Generation>(page.keeps().clone()) else { return };
        if self.make_quickly(page, &generation, slot, ext) {
            return;
        }
        if page.ask(slot) < self.options.patience {
            return;
        }
        page.set_translation(slot, Translation::Asked);
        let request = Request { page: page.clone(), generation, slot, ext, insists: page.is_inside(slot) };
        if self.options.threads == 0 {
            self.make(&mut Translator::new(self.isas.clone()), &request);
            return;
        }
        if let Some(waiting) = &mut *self.queue.requests.lock() {
            waiting.push_back(request);
        }
        self.queue.more.notify_one();
    }

    fn run(&self, cpu: &mut Cpu, code: u64) -> Left {
        let pc = cpu.pc();
        let guest = host_fp::Guest::enter(cpu.frm());
        let why = (self.entry)(cpu, code, pc);
        let flags = guest.flags();
        drop(guest);
        cpu.accrue(flags);
        if let Some(p) = helpers::take_panic() {
            std::panic::resume_unwind(p);
        }
        Left::from_number(why).unwrap_or(Left::Step)
    }

    fn link(&self, link: u64, code: u64) {
        let current = self.state.lock().current.clone();
        // A link must not lead from one generation to another, whose code goes at another time.
        if current.arena.has(code) {
            current.arena.with_link(link, |l| l.store(code, Ordering::Release));
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}
