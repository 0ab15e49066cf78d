//! The driver `luks`: the conformance suite, what other programs make of our volumes and we of theirs, key slots.

#[path = "../../block-file/tests/conformance/mod.rs"]
mod conformance;

use api::block_core::{
    BlockdevAmendOptions, BlockdevDriverOptions, BlockdevOptionsLUKS, BlockdevRef, ImageInfoSpecific,
};
use api::crypto::{QCryptoBlockCreateOptionsLUKS, QCryptoCipherMode, QCryptoIVGenAlgo};
use block::driver::{DriverType, Prealloc, WriteFlags};
use block::perm::Perm;
use block::{BlockGraph, Policy};
use block_crypto::{Place, create, new_volume};
use conformance::*;
use mem::IoBuf;
use qapi::{QError, Value, from_json};
use qom::ObjectTree;
use std::process::Command;
use std::sync::Arc;

fn drivers() -> Vec<&'static DriverType> {
    [block_file::DRIVERS, block_formats::DRIVERS, block_crypto::DRIVERS].concat()
}

/// A graph with the secrets `s` (hunter2), `n` (newpw) and `w` (wrong).
fn world() -> Arc<BlockGraph> {
    let g = graph(&drivers());
    let tree = ObjectTree::new();
    for (id, data) in [("s", "hunter2"), ("n", "newpw"), ("w", "wrong")] {
        let json = format!("{{'qom-type':'secret','id':'{id}','data':'{data}'}}");
        tree.add(&from_json(Value::parse_json(&json).unwrap()).unwrap()).unwrap();
    }
    g.set_objects(Arc::new(tree));
    g
}

fn luks(header: Option<&str>, secret: &str) -> BlockdevDriverOptions {
    BlockdevDriverOptions::Luks(BlockdevOptionsLUKS {
        file: BlockdevRef::Reference("n".into()),
        key_secret: (!secret.is_empty()).then(|| secret.to_owned()),
        header: header.map(|h| BlockdevRef::Reference(h.into())),
    })
}

fn quick() -> QCryptoBlockCreateOptionsLUKS {
    QCryptoBlockCreateOptionsLUKS { iter_time: Some(1), ..Default::default() }
}

async fn make(g: &BlockGraph, header: Option<&str>, o: &QCryptoBlockCreateOptionsLUKS, size: u64) {
    let rw = Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE;
    let file = attach(g, "n", rw, Perm::all()).await.unwrap();
    let new = new_volume(o, header.is_some()).unwrap();
    let password = crypto::Secret::new(b"hunter2".to_vec());
    match header {
        None => create(Place::One(&file), new, password, size, Prealloc::Off).await.unwrap(),
        Some(h) => {
            let h = attach(g, h, rw, Perm::all()).await.unwrap();
            create(Place::Apart(&h, Some(&file)), new, password, size, Prealloc::Off).await.unwrap();
            h.detach().await;
        }
    }
    file.detach().await;
}

#[test]
fn luks_conforms() {
    let dir = Dir::new("luks-conform");
    on_each_backend(async || {
        for (what, options) in file_variants(&dir.path("image")).into_iter().take(1) {
            println!("{what}");
            dir.file("image", 0);
            let g = world();
            g.add(options).await.unwrap();
            make(&g, None, &quick(), 600 << 10).await;
            g.add(named("l", luks(None, "s"))).await.unwrap();
            // What was never written is not zeroes here.
            let root = attach(&g, "l", Perm::all(), Perm::all()).await.unwrap();
            root.write(0, IoBuf::zeroed(600 << 10), WriteFlags::empty()).await.unwrap();
            root.detach().await;
            conformance(&g, "l", Traits { resizes: false }).await;
        }
    });
}

#[test]
fn a_header_of_its_own_and_resizing() {
    let dir = Dir::new("luks-header");
    rt::block_on(async {
        dir.file("data", 0);
        dir.file("header", 0);
        let g = world();
        g.add(file_options("n", &dir.path("data"))).await.unwrap();
        g.add(file_options("h", &dir.path("header"))).await.unwrap();
        make(&g, Some("h"), &quick(), 1 << 20).await;
        assert_eq!(std::fs::metadata(dir.path("data")).unwrap().len(), 1 << 20);
        assert_eq!(std::fs::metadata(dir.path("header")).unwrap().len(), 2_068_480);
        g.add(named("l", luks(Some("h"), "s"))).await.unwrap();
        let root = attach(&g, "l", Perm::all(), Perm::all()).await.unwrap();
        root.write(0, IoBuf::from_bytes(&[5; 1 << 20]), WriteFlags::FUA).await.unwrap();
        assert_eq!(read(&root, 1000, 100).await, [5; 100]);
        root.truncate(2 << 20, true, Prealloc::Off).await.unwrap();
        assert_eq!((root.len(), read(&root, 0, 512).await), (2 << 20, vec![5; 512]));
        let info = g.image_info("l").unwrap();
        let Some(ImageInfoSpecific::Luks(l)) = &info.base.format_specific else { panic!("{info:?}") };
        assert!(l.detached_header && l.payload_offset == 0 && info.base.encrypted == Some(true));
        root.detach().await;
        // The data is nowhere in the file.
        let raw = std::fs::read(dir.path("data")).unwrap();
        assert!(!raw.windows(32).any(|w| w == [5; 32]));
        // Without the header, it is no volume.
        let e = g.add(named("x", luks(None, "s"))).await.unwrap_err();
        assert_eq!(e.desc(), "Volume is not in LUKS format");
    });
}

#[test]
fn keys_are_needed_for_data_only() {
    let dir = Dir::new("luks-keys");
    rt::block_on(async {
        dir.file("image", 0);
        let g = world();
        g.add(file_options("n", &dir.path("image"))).await.unwrap();
        make(&g, None, &quick(), 1 << 20).await;
        for (secret, text) in [
            ("", "Parameter 'key-secret' is required for cipher"),
            ("nope", "No secret with id 'nope'"),
            ("w", "Invalid password, cannot unlock any keyslot"),
        ] {
            assert_eq!(g.add(named("l", luks(None, secret))).await.unwrap_err().desc(), text);
        }
        g.set_policy(Policy { no_io: true, ..g.policy() });
        g.add(named("l", luks(None, ""))).await.unwrap();
        assert_eq!(g.image_info("l").unwrap().base.virtual_size, 1 << 20);
        let root = attach(&g, "l", Perm::CONSISTENT_READ, Perm::all()).await.unwrap();
        assert!(root.read(0, IoBuf::zeroed(512)).await.is_err());
        root.detach().await;
    });
}

fn amend_options(json: &str) -> BlockdevAmendOptions {
    from_json(Value::parse_json(&format!("{{'driver':'luks',{json}}}")).unwrap()).unwrap()
}

#[test]
fn key_slots_change_while_the_volume_is_used() {
    let dir = Dir::new("luks-amend");
    rt::block_on(async {
        dir.file("image", 0);
        let g = world();
        g.add(file_options("n", &dir.path("image"))).await.unwrap();
        make(&g, None, &quick(), 1 << 20).await;
        g.add(named("l", luks(None, "s"))).await.unwrap();
        // A guest's disk, which shares what devices share.
        let guest = attach(
            &g,
            "l",
            Perm::CONSISTENT_READ | Perm::WRITE,
            Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED,
        );
        let guest = guest.await.unwrap();
        let amend = async |json: &str, force| -> Result<(), String> {
            g.amend("l", &amend_options(json), force).await.map_err(|e: QError| e.desc().to_owned())
        };
        let active = || match g.image_info("l").unwrap().base.format_specific {
            Some(ImageInfoSpecific::Luks(l)) => {
                l.slots.iter().map(|s| if s.active { '1' } else { '0' }).collect::<String>()
            }
            other => panic!("{other:?}"),
        };
        let on = "'state':'active','iter-time':1";
        let off = "'state':'inactive'";
        for (json, text) in [
            (on.into(), "'new-secret' is required to activate a keyslot"),
            (
                format!("{on},'new-secret':'n','old-secret':'s'"),
                "'old-secret' must not be given when activating keyslots",
            ),
            (
                format!("{on},'new-secret':'n','keyslot':8"),
                "Invalid keyslot 8 specified, must be between 0 and 7",
            ),
            (
                format!("{on},'new-secret':'n','keyslot':0"),
                "Refusing to overwrite active keyslot 0 - please erase it first",
            ),
            (format!("{on},'new-secret':'zz'"), "No secret with id 'zz'"),
            (format!("{on},'new-secret':'n','secret':'w'"), "Invalid password, cannot unlock any keyslot"),
            (
                off.into(),
                "To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given",
            ),
            (format!("{off},'keyslot':-1"), "Invalid keyslot -1 specified, must be between 0 and 7"),
            (format!("{off},'keyslot':5"), "Given keyslot 5 is already erased (inactive) "),
            (format!("{off},'new-secret':'n'"), "'new-secret' must not be given when erasing keyslots"),
            (format!("{off},'iter-time':1"), "'iter-time' must not be given when erasing keyslots"),
            (format!("{off},'old-secret':'w'"), "No keyslots match given (old) password for erase operation"),
            (
                format!("{off},'old-secret':'n','keyslot':0"),
                "Given keyslot 0 doesn't contain the given old password for erase operation",
            ),
            (
                format!("{off},'old-secret':'s'"),
                "All the active keyslots match the (old) password that was given and erasing them will erase all \
                 the data in the image irreversibly - refusing operation",
            ),
            (
                format!("{off},'keyslot':0"),
                "Attempt to erase the only active keyslot 0 which will erase all the data in the image \
                 irreversibly - refusing operation",
            ),
        ] {
            assert_eq!(amend(&json, false).await.unwrap_err(), text, "{json}");
        }
        amend(&format!("{on},'new-secret':'n'"), false).await.unwrap();
        amend(&format!("{on},'new-secret':'n','keyslot':7"), false).await.unwrap();
        assert_eq!(active(), "11000001");
        guest.write(0, IoBuf::from_bytes(&[9; 4096]), WriteFlags::empty()).await.unwrap();
        amend(&format!("{off},'old-secret':'s'"), false).await.unwrap();
        amend(&format!("{off},'keyslot':7"), false).await.unwrap();
        assert_eq!(active(), "01000000");
        guest.detach().await;
        g.del("l").await.unwrap();
        assert!(g.add(named("l", luks(None, "s"))).await.is_err());
        g.add(named("l", luks(None, "n"))).await.unwrap();
        let root = attach(&g, "l", Perm::CONSISTENT_READ, Perm::all()).await.unwrap();
        assert_eq!(read(&root, 0, 4096).await, [9; 4096]);
        root.detach().await;
        // The last key goes only when told so.
        amend(&format!("{off},'old-secret':'n'"), true).await.unwrap();
        assert_eq!(active(), "00000000");
    });
}

#[test]
fn an_idle_volume_leaves_its_file_alone() {
    let dir = Dir::new("luks-idle");
    rt::block_on(async {
        dir.file("image", 0);
        let g = world();
        g.add(file_options("n", &dir.path("image"))).await.unwrap();
        make(&g, None, &quick(), 1 << 20).await;
        g.add(named("l", luks(None, "s"))).await.unwrap();
        g.add(named("l2", luks(None, "s"))).await.unwrap();
        let w = attach(&g, "l", Perm::WRITE | Perm::CONSISTENT_READ, Perm::CONSISTENT_READ).await.unwrap();
        let e = attach(&g, "l2", Perm::WRITE, Perm::all()).await.err().unwrap();
        assert!(e.desc().starts_with("Permission conflict on node 'n'"), "{}", e.desc());
        w.detach().await;
        attach(&g, "l2", Perm::WRITE, Perm::all()).await.unwrap().detach().await;
    });
}

fn have(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success());
    if !there {
        println!("skipped: {tool} is not installed");
    }
    there
}

fn tool(name: &str, dir: &Dir, args: &str) -> String {
    let args: Vec<String> = args.split_whitespace().map(|a| a.replace('@', &dir.path(""))).collect();
    let out = Command::new(name).args(&args).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{name} {args:?}: {text}");
    text
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 512 * 7 + i % 251) as u8).collect()
}

const SECRET: &str = "--object secret,id=s,data=hunter2";

#[test]
fn the_reference_reads_ours() {
    if !have("qemu-img") {
        return;
    }
    let dir = Dir::new("luks-ours");
    let data = pattern(300 << 10);
    // Not with keys of 192 bits: the reference aborts on a key slot that is not whole sectors.
    for (cipher, mode, ivgen) in [
        ("aes-256", "xts", "plain64"),
        ("aes-128", "cbc", "essiv"),
        ("serpent-256", "xts", "plain64"),
        ("twofish-256", "cbc", "plain"),
        ("cast5-128", "cbc", "plain64"),
        ("serpent-128", "ctr", "plain64"),
    ] {
        rt::block_on(async {
            dir.file("image", 0);
            let g = world();
            g.add(file_options("n", &dir.path("image"))).await.unwrap();
            let mut o = quick();
            o.cipher_alg = qapi::QapiEnum::from_str(cipher);
            o.cipher_mode = <QCryptoCipherMode as qapi::QapiEnum>::from_str(mode);
            o.ivgen_alg = <QCryptoIVGenAlgo as qapi::QapiEnum>::from_str(ivgen);
            make(&g, None, &o, data.len() as u64).await;
            g.add(named("l", luks(None, "s"))).await.unwrap();
            let root = attach(&g, "l", Perm::all(), Perm::all()).await.unwrap();
            root.write(0, IoBuf::from_bytes(&data), WriteFlags::empty()).await.unwrap();
            root.detach().await;
            g.close_all().await;
        });
        tool(
            "qemu-img",
            &dir,
            &format!(
                "convert {SECRET} --image-opts driver=luks,key-secret=s,file.filename=@/image -O raw @/out"
            ),
        );
        let out = std::fs::read(dir.path("out")).unwrap();
        assert!(out == data, "{cipher} {mode} {ivgen}");
    }
}

#[test]
fn we_read_the_references() {
    if !have("qemu-img") {
        return;
    }
    let dir = Dir::new("luks-theirs");
    let data = pattern(300 << 10);
    std::fs::write(dir.path("in"), &data).unwrap();
    for options in [
        "iter-time=10",
        "iter-time=10,cipher-alg=serpent-256,cipher-mode=cbc,ivgen-alg=essiv,hash-alg=sha512",
    ] {
        tool(
            "qemu-img",
            &dir,
            &format!("convert {SECRET} -f raw -O luks -o key-secret=s,{options} @/in @/image"),
        );
        rt::block_on(async {
            let g = world();
            g.add(file_options("n", &dir.path("image"))).await.unwrap();
            g.add(named("l", luks(None, "s"))).await.unwrap();
            let root = attach(&g, "l", Perm::CONSISTENT_READ, Perm::all()).await.unwrap();
            assert!(read(&root, 0, data.len()).await == data, "{options}");
            assert_eq!(root.len(), data.len() as u64);
            root.detach().await;
        });
    }
}

#[test]
fn cryptsetup_opens_what_we_amended() {
    if !have("cryptsetup") {
        return;
    }
    let dir = Dir::new("luks-cryptsetup");
    std::fs::write(dir.path("key"), "newpw").unwrap();
    rt::block_on(async {
        dir.file("image", 0);
        let g = world();
        g.add(file_options("n", &dir.path("image"))).await.unwrap();
        make(&g, None, &quick(), 1 << 20).await;
        g.add(named("l", luks(None, "s"))).await.unwrap();
        let o = amend_options("'state':'active','iter-time':1,'new-secret':'n','keyslot':3");
        g.amend("l", &o, false).await.unwrap();
        g.amend("l", &amend_options("'state':'inactive','keyslot':0"), false).await.unwrap();
        g.close_all().await;
    });
    tool("cryptsetup", &dir, "open --test-passphrase --key-file @/key @/image");
    let dump = tool("cryptsetup", &dir, "luksDump @/image");
    assert!(dump.contains("Key Slot 3: ENABLED") && dump.contains("Key Slot 0: DISABLED"), "{dump}");
}
