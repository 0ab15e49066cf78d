use super::*;
use mem::{AddressSpace, Memory};
use parking_lot::Mutex;

const RAM: u64 = 0x8000_0000;

struct Fake {
    dma: Dma,
    space: Arc<AddressSpace>,
    log: Mutex<Vec<String>>,
    state: Mutex<[u64; 3]>,
    input: Mutex<Vec<u8>>,
}

impl Platform for Fake {
    fn harts(&self) -> u32 {
        3
    }
    fn start_hart(&self, hart: u32, pc: u64, opaque: u64) -> bool {
        self.log.lock().push(format!("start {hart} {pc:#x} {opaque}"));
        self.state.lock()[hart as usize] = hart::START_PENDING;
        true
    }
    fn hart_state(&self, hart: u32) -> u64 {
        self.state.lock()[hart as usize]
    }
    fn set_timer(&self, hart: u32, ticks: u64) {
        self.log.lock().push(format!("timer {hart} {ticks}"));
    }
    fn set_ipi(&self, hart: u32, pending: bool) {
        self.log.lock().push(format!("ipi {hart} {pending}"));
    }
    fn fence(&self, harts: &[u32], fence: Fence) {
        self.log.lock().push(format!("fence {harts:?} {fence:?}"));
    }
    fn reset(&self, request: ResetRequest) {
        self.log.lock().push(format!("{request:?}"));
    }
    fn console_write(&self, bytes: &[u8]) -> usize {
        self.log.lock().push(format!("write {}", String::from_utf8_lossy(bytes)));
        bytes.len()
    }
    fn console_read(&self, bytes: &mut [u8]) -> usize {
        let mut input = self.input.lock();
        let n = bytes.len().min(input.len());
        bytes[..n].copy_from_slice(&input[..n]);
        input.drain(..n);
        n
    }
    fn memory(&self) -> &Dma {
        &self.dma
    }
    fn machine_ids(&self) -> [u64; 3] {
        [1, 2, 3]
    }
}

fn rig() -> (Sbi, Arc<Fake>) {
    let space = AddressSpace::new("memory");
    space.map_ram(RAM, Memory::buffer(4096, 4096), 0, 4096, false, 0, "ram").unwrap();
    let fake = Arc::new(Fake {
        dma: Dma::new(space.clone()),
        space,
        log: Mutex::default(),
        state: Mutex::new([hart::STARTED, hart::STOPPED, hart::STOPPED]),
        input: Mutex::new(b"in".to_vec()),
    });
    (Sbi::new(fake.clone()), fake)
}

fn call(s: &Sbi, e: u64, f: u64, args: &[u64]) -> Outcome {
    let mut a = [0; 6];
    a[..args.len()].copy_from_slice(args);
    s.call(0, e, f, a)
}

fn log(f: &Fake) -> Vec<String> {
    std::mem::take(&mut f.log.lock())
}

#[test]
fn base_tells_what_there_is() {
    let (s, _) = rig();
    assert_eq!(call(&s, ext::BASE, 0, &[]), Outcome::Return(0, 0x0200_0000));
    for (e, there) in [(ext::HSM, 1), (ext::DBCN, 1), (0x50_4d55, 0), (9, 0)] {
        assert_eq!(call(&s, ext::BASE, 3, &[e]), Outcome::Return(0, there));
    }
    assert_eq!(call(&s, ext::BASE, 5, &[]), Outcome::Return(0, 2));
    assert_eq!(call(&s, ext::BASE, 7, &[]), error(err::NOT_SUPPORTED));
    assert_eq!(call(&s, 0x50_4d55, 0, &[]), error(err::NOT_SUPPORTED));
}

#[test]
fn masks_name_harts_or_all_of_them() {
    let (s, f) = rig();
    assert_eq!(call(&s, ext::IPI, 0, &[0b11, 1]), OK);
    assert_eq!(log(&f), ["ipi 1 true", "ipi 2 true"]);
    assert_eq!(call(&s, ext::IPI, 0, &[0, u64::MAX]), OK);
    assert_eq!(log(&f).len(), 3);
    assert_eq!(call(&s, ext::IPI, 0, &[0b1000, 0]), error(err::INVALID_PARAM));
    assert_eq!(call(&s, ext::IPI, 0, &[1 << 63, u64::MAX - 3]), error(err::INVALID_PARAM));
    assert!(log(&f).is_empty());
}

#[test]
fn fences_carry_their_range() {
    let (s, f) = rig();
    assert_eq!(call(&s, ext::RFENCE, 0, &[1, 0]), OK);
    assert_eq!(call(&s, ext::RFENCE, 1, &[1, 0, 0x1000, 0x2000]), OK);
    assert_eq!(call(&s, ext::RFENCE, 2, &[1, 0, 0, 0, 7]), OK);
    let all = format!("fence [0] {:?}", Fence::Vma { start: 0, size: u64::MAX, asid: Some(7) });
    let some = format!("fence [0] {:?}", Fence::Vma { start: 0x1000, size: 0x2000, asid: None });
    assert_eq!(log(&f), ["fence [0] Instruction", &some, &all]);
    assert_eq!(call(&s, ext::RFENCE, 1, &[1, 0, u64::MAX, 2]), error(err::INVALID_ADDRESS));
    assert_eq!(call(&s, ext::RFENCE, 3, &[1, 0]), error(err::NOT_SUPPORTED));
}

#[test]
fn harts_start_once_at_an_address_in_ram() {
    let (s, f) = rig();
    assert_eq!(call(&s, ext::HSM, 0, &[3, RAM, 0]), error(err::INVALID_PARAM));
    assert_eq!(call(&s, ext::HSM, 0, &[1, 0x1000, 0]), error(err::INVALID_ADDRESS));
    assert_eq!(call(&s, ext::HSM, 0, &[0, RAM, 0]), error(err::ALREADY_AVAILABLE));
    assert_eq!(call(&s, ext::HSM, 0, &[1, RAM, 9]), OK);
    assert_eq!(log(&f), ["start 1 0x80000000 9"]);
    assert_eq!(call(&s, ext::HSM, 0, &[1, RAM, 9]), error(err::ALREADY_STARTED));
    assert_eq!(call(&s, ext::HSM, 2, &[1]), Outcome::Return(0, hart::START_PENDING));
    assert_eq!(call(&s, ext::HSM, 2, &[3]), error(err::INVALID_PARAM));
    assert_eq!(call(&s, ext::HSM, 1, &[]), Outcome::Stop);
    assert_eq!(call(&s, ext::HSM, 3, &[0]), Outcome::Suspend);
    let anew = Outcome::SuspendAnew { pc: RAM, opaque: 5 };
    assert_eq!(call(&s, ext::HSM, 3, &[0x8000_0000, RAM, 5]), anew);
    assert_eq!(call(&s, ext::HSM, 3, &[1]), error(err::INVALID_PARAM));
    assert_eq!(call(&s, ext::HSM, 3, &[0x1000_0000]), error(err::NOT_SUPPORTED));
}

#[test]
fn the_console_moves_bytes_through_ram() {
    let (s, f) = rig();
    f.space.write(RAM, b"hello").unwrap();
    assert_eq!(call(&s, ext::DBCN, 0, &[5, RAM, 0]), Outcome::Return(0, 5));
    assert_eq!(call(&s, ext::DBCN, 2, &[0x121]), OK);
    assert_eq!(log(&f), ["write hello", "write !"]);
    assert_eq!(call(&s, ext::DBCN, 0, &[5, 0x1000, 0]), error(err::INVALID_PARAM));
    assert_eq!(call(&s, ext::DBCN, 0, &[5, RAM, 1]), error(err::INVALID_PARAM));
    // The length is limited before memory is looked at, and a call that fails takes no input.
    assert_eq!(call(&s, ext::DBCN, 0, &[u64::MAX, RAM, 0]), Outcome::Return(0, CONSOLE_CHUNK as u64));
    assert_eq!(call(&s, ext::DBCN, 1, &[10, 0x1000, 0]), error(err::INVALID_PARAM));
    assert_eq!(call(&s, ext::DBCN, 1, &[10, RAM + 8, 0]), Outcome::Return(0, 2));
    let mut b = [0; 2];
    f.space.read(RAM + 8, &mut b).unwrap();
    assert_eq!(&b, b"in");
    assert_eq!(call(&s, ext::LEGACY_GETCHAR, 0, &[]), Outcome::Legacy(-1));
}

#[test]
fn resets_and_timers() {
    let (s, f) = rig();
    assert_eq!(call(&s, ext::TIME, 0, &[77]), OK);
    assert_eq!(call(&s, ext::SRST, 0, &[1, 0]), Outcome::Stop);
    assert_eq!(call(&s, ext::SRST, 0, &[0, 1]), Outcome::Stop);
    assert_eq!(call(&s, ext::LEGACY_SHUTDOWN, 0, &[]), Outcome::Stop);
    let want = ["timer 0 77", "Reboot", "Shutdown { failed: true }", "Shutdown { failed: false }"];
    assert_eq!(log(&f), want);
    assert_eq!(call(&s, ext::SRST, 0, &[3, 0]), error(err::INVALID_PARAM));
    assert_eq!(call(&s, ext::SRST, 0, &[0, 2]), error(err::INVALID_PARAM));
    assert!(log(&f).is_empty());
}
