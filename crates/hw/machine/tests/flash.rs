//! Flash whose content is a block node.

mod common;

use block::BlockGraph;
use common::*;
use machine::{Bios, Machine, MachineEnv};
use monitor::EventBus;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

const BANK: u64 = 32 << 20;

async fn graph(file: &TempFile, read_only: bool) -> Arc<BlockGraph> {
    let drivers: Vec<_> = block_file::DRIVERS.iter().chain(block_formats::DRIVERS).copied().collect();
    let g = BlockGraph::new(&drivers, EventBus::new());
    let text = format!(
        "driver=raw,node-name=flash,read-only={},file.driver=file,file.filename={}",
        if read_only { "on" } else { "off" },
        file.0.display()
    );
    g.add(qapi::from_keyval(&text, Some("driver")).unwrap()).await.unwrap();
    g
}

/// A file of a bank's size that begins with `first`.
fn bank(first: &[u8]) -> TempFile {
    let t = TempFile::new(first);
    std::fs::OpenOptions::new().write(true).open(&t.0).unwrap().set_len(BANK).unwrap();
    t
}

fn at(file: &TempFile, off: u64) -> u32 {
    let mut f = std::fs::File::open(&file.0).unwrap();
    f.seek(SeekFrom::Start(off)).unwrap();
    let mut b = [0; 4];
    f.read_exact(&mut b).unwrap();
    u32::from_le_bytes(b)
}

async fn machine(graph: &Arc<BlockGraph>, kernel: Option<&TempFile>) -> Result<Arc<Machine>, qapi::QError> {
    let mut cfg = config();
    cfg.bios = Bios::None;
    cfg.kernel = kernel.map(|k| k.0.clone());
    cfg.options.pflash[0] = Some("flash".into());
    Machine::build(cfg, MachineEnv { events: EventBus::new(), graph: Some(graph.clone()) }).await
}

/// A guest that erases the second block, programs a word of it and ends.
fn programmer() -> Asm {
    let base = 0x2004_0000;
    Asm::default()
        .poke(base, 0x0020_0020)
        .poke(base, 0x00d0_00d0)
        .poke(base + 8, 0x0040_0040)
        .poke(base + 8, 0x1234_5678)
        .poke(base, 0x00ff_00ff)
        .poke(0x10_0000, 0x5555)
        .hang()
}

#[test]
fn what_a_guest_programs_is_in_the_file_at_the_end() {
    rt::block_on(async {
        for read_only in [false, true] {
            let (file, kernel) = (bank(b"code"), TempFile::new(&programmer().bytes()));
            let g = graph(&file, read_only).await;
            let m = machine(&g, Some(&kernel)).await.unwrap();
            let mut b = [0; 4];
            m.memory().unwrap().read(0x2000_0000, &mut b).unwrap();
            assert_eq!(&b, b"code");
            m.start().await.unwrap();
            assert_eq!(m.wait_exit().await, 0);
            m.memory().unwrap().read(0x2004_0008, &mut b).unwrap();
            assert_eq!(u32::from_le_bytes(b), 0x1234_5678, "the guest sees it either way");
            m.close().await;
            g.close_all().await;
            let want = if read_only { [0, 0] } else { [u32::MAX, 0x1234_5678] };
            assert_eq!([at(&file, 0x4_0000), at(&file, 0x4_0008)], want);
            assert_eq!(at(&file, 0), u32::from_le_bytes(*b"code"));
        }
    });
}

#[test]
fn without_a_kernel_the_flash_is_run() {
    rt::block_on(async {
        let file = bank(&finisher(0x7_3333).bytes());
        let g = graph(&file, true).await;
        let m = machine(&g, None).await.unwrap();
        m.start().await.unwrap();
        assert_eq!(m.wait_exit().await, 7);
        m.close().await;
        g.close_all().await;
    });
}

#[test]
fn a_file_of_another_size_is_refused() {
    rt::block_on(async {
        let file = TempFile::new(&[0; 4096]);
        let g = graph(&file, false).await;
        let e = machine(&g, None).await.err().expect("an error");
        let want = "device 'virt.flash0' requires 33554432 bytes, block backend provides 4096 bytes";
        assert_eq!(e.desc(), want);
        g.close_all().await;
    });
}
