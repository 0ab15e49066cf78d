//! The images that the `virt` board starts with: where they go, and who runs first.

use super::map;
use crate::config::{Bios, MachineConfig};
use firmware::fdt::{self, Node};
use firmware::load::{
    Placed, RamRange, Segment, place_dtb, place_firmware, place_initrd, place_kernel, read_file,
};
use firmware::reset_vector::ResetVector;
use qapi::{QError, qerr};
use std::path::Path;

/// Who runs first after a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Boot {
    /// Every hart in M-mode, from the reset vector.
    Machine,
    /// Hart 0 in S-mode at this address; the machine itself is the firmware.
    Supervisor(u64),
    /// Nobody: there is nothing to run.
    Nobody,
}

/// The images and the device tree.
pub(crate) struct Images {
    pub(crate) segments: Vec<Segment>,
    pub(crate) boot: Boot,
    /// The whole tree; only its random seed changes from one start to the next.
    pub(crate) tree: Node,
    pub(crate) dtb_at: u64,
}

/// Bytes of the seed for the guest's random numbers.
const SEED: usize = 32;

impl Images {
    /// Reads and places everything that the configuration names. `board` is the board's own device tree.
    pub(crate) fn load(cfg: &MachineConfig, board: Node) -> Result<Images, QError> {
        let o = &cfg.options;
        let ram = RamRange { base: map::DRAM, size: cfg.ram };
        let kernel = cfg.kernel.as_deref().or(o.kernel.as_deref());
        let initrd = cfg.initrd.as_deref().or(o.initrd.as_deref());
        let append = cfg.append.as_deref().or(o.append.as_deref());
        if kernel.is_none() && append.is_some() {
            return Err(qerr!("-append only allowed with -kernel option"));
        }
        if kernel.is_none() && initrd.is_some() {
            return Err(qerr!("-initrd only allowed with -kernel option"));
        }
        let flash = o.pflash[0].as_ref().map(|_| map::FLASH.base);
        let mut placed: Vec<Placed> = Vec::new();

        let mut behind = ram.base;
        let firmware = match &cfg.bios {
            Bios::File(path) => {
                let data = read_file(path, "Unable to load the RISC-V firmware")?;
                let f = place_firmware(&data, ram)
                    .map_err(|e| about("Unable to load the RISC-V firmware", path, e))?;
                behind = f.placed.end;
                placed.push(f.placed);
                Some(f.entry)
            }
            Bios::BuiltIn | Bios::None => None,
        };
        let next = match kernel {
            Some(path) => {
                let data = read_file(path, "could not load kernel")?;
                // Where no firmware is in memory, a kernel still stands where it would behind one; only what takes
                // the place of the firmware begins at the start of RAM.
                let first = if cfg.bios == Bios::None { ram.base } else { ram.base + (2 << 20) };
                let k = place_kernel(&data, ram, behind, first)
                    .map_err(|e| about("could not load kernel", path, e))?;
                placed.push(k.placed);
                Some(k.entry)
            }
            None => flash,
        };
        let mut tree = match cfg.dtb.as_deref().or(o.dtb.as_deref()) {
            Some(path) => {
                let what = "could not load device tree";
                fdt::parse(&read_file(path, what)?)
                    .map_err(|e| about(what, path, QError::new(e.to_string())))?
            }
            None => board,
        };
        if let (Some(path), Some(k)) = (initrd, placed.last().filter(|_| kernel.is_some())) {
            let what = "could not load ramdisk";
            let p = place_initrd(read_file(path, what)?, ram, k).map_err(|e| about(what, path, e))?;
            tree.child("chosen").u64("linux,initrd-start", p.start).u64("linux,initrd-end", p.end);
            placed.push(p);
        }
        if let Some(a) = append {
            tree.child("chosen").str("bootargs", a);
        }
        seed(&mut tree)?;

        let used = placed.iter().map(|p| p.end).max().unwrap_or(ram.base);
        let dtb_at = place_dtb(fdt::write(&tree, 0).len() as u64, ram, used)?;
        let mut segments: Vec<Segment> = placed.into_iter().flat_map(|p| p.segments).collect();
        let (boot, start) = match (&cfg.bios, firmware, next) {
            (Bios::BuiltIn, _, Some(entry)) => (Boot::Supervisor(entry), entry),
            (Bios::BuiltIn, _, None) => (Boot::Nobody, ram.base),
            (_, Some(entry), _) => (Boot::Machine, entry),
            (_, None, next) => (Boot::Machine, next.unwrap_or(ram.base)),
        };
        let next = if firmware.is_some() { next.unwrap_or(0) } else { 0 };
        segments.push(Segment::new(map::MROM.base, ResetVector { start, dtb: dtb_at, next }.rom()));
        Ok(Images { segments, boot, tree, dtb_at })
    }

    /// The device tree's bytes with a new seed.
    pub(crate) fn dtb(&mut self) -> Segment {
        // Without fresh random numbers the old seed is no worse than none.
        let _ = seed(&mut self.tree);
        Segment::new(self.dtb_at, fdt::write(&self.tree, 0))
    }
}

fn seed(tree: &mut Node) -> Result<(), QError> {
    let mut bytes = [0; SEED];
    getrandom::fill(&mut bytes).map_err(|e| qerr!("no random numbers for the guest: {e}"))?;
    tree.child("chosen").set("rng-seed", bytes);
    Ok(())
}

fn about(what: &str, path: &Path, e: QError) -> QError {
    e.prepend(&format!("{what} '{}'", path.display()))
}
