//! What the tests of formats share: a table of formats, nodes over files, and the reference's tools.

#![allow(dead_code, reason = "each test uses its part")]

use api::block_core::BlockdevOptions;
use block::create::CreateCx;
use block::driver::DriverType;
use block::perm::Perm;
use block::{BlockGraph, Root};
use qapi::{Value, from_json};
use std::process::{Command, Output};
use std::sync::Arc;

pub use crate::conformance::*;

/// The secret of encrypted images.
const SECRET: &str = "secret,id=s,data=geheim";

/// A graph with the secret.
pub fn graph_with_secret() -> Arc<BlockGraph> {
    let g = graph(&drivers());
    let tree = qom::ObjectTree::new();
    let secret = Value::parse_json("{'qom-type':'secret','id':'s','data':'geheim'}").unwrap();
    tree.add(&from_json(secret).unwrap()).unwrap();
    g.set_objects(Arc::new(tree));
    g
}

pub fn drivers() -> Vec<&'static DriverType> {
    [block_file::DRIVERS, block_formats::DRIVERS].concat()
}

pub fn options(text: &str) -> BlockdevOptions {
    from_json(Value::parse_json(text).expect("JSON")).expect(text)
}

/// A kind of image that is written as well as read.
pub struct Case {
    pub format: &'static str,
    /// `-o` options of its making.
    pub make: &'static str,
    /// Length of the disk, bytes.
    pub size: u64,
    pub resizes: bool,
    /// `qemu-img check` knows it.
    pub checks: bool,
}

const fn case(format: &'static str, make: &'static str, size: u64) -> Case {
    Case { format, make, size, resizes: false, checks: false }
}

pub const CASES: &[Case] = &[
    Case { checks: true, ..case("vdi", "static=off", 9 << 20) },
    Case { checks: true, ..case("vdi", "static=on", 3 << 20) },
    case("vpc", "subformat=dynamic", 7 << 20),
    case("vpc", "subformat=fixed", 3 << 20),
    case("vpc", "force_size=on", 7 << 20),
    Case { checks: true, ..case("vmdk", "subformat=monolithicSparse", 5 << 20) },
    Case { checks: true, ..case("vmdk", "subformat=monolithicSparse,zeroed_grain=on", 5 << 20) },
    Case { checks: true, ..case("vmdk", "subformat=twoGbMaxExtentSparse", 5 << 20) },
    case("vmdk", "subformat=twoGbMaxExtentFlat", 5 << 20),
    case("vmdk", "subformat=monolithicFlat", 3 << 20),
    case("qcow", "encryption=off", 3 << 20),
    case("qcow", "encrypt.format=aes,encrypt.key-secret=s", 3 << 20),
    Case { checks: true, ..case("qed", "cluster_size=65536", 5 << 20) },
    Case { checks: true, ..case("qed", "cluster_size=4096,table_size=2", 5 << 20) },
    Case { checks: true, ..case("parallels", "cluster_size=1048576", 9 << 20) },
    Case { checks: true, ..case("parallels", "cluster_size=65536", 5 << 20) },
    Case { checks: true, ..case("vhdx", "block_size=1048576", 5 << 20) },
    Case {
        checks: true,
        ..case("vhdx", "block_size=2097152,block_state_zero=off,log_size=2097152", 5 << 20)
    },
    Case { checks: true, ..case("vhdx", "subformat=fixed", 3 << 20) },
];

impl Case {
    pub fn name(&self) -> String {
        format!("{}-{}", self.format, self.make.replace([',', '='], "-"))
    }

    fn encrypted(&self) -> bool {
        self.make.contains("encrypt.")
    }

    /// The options of a node over the file.
    pub fn node(&self, node: &str, path: &str) -> BlockdevOptions {
        let key = if self.encrypted() { "'encrypt':{'format':'aes','key-secret':'s'}," } else { "" };
        options(&format!(
            "{{'driver':'{}','node-name':'{node}','discard':'unmap',{key}'file':{{'driver':'file','filename':'{path}'}}}}",
            self.format
        ))
    }

    /// How the reference's tools are given the image.
    pub fn image(&self, path: &str) -> Vec<String> {
        let key = format!("driver={},encrypt.key-secret=s,file.filename={path}", self.format);
        let words: &[&str] = match self.encrypted() {
            true => &["--object", SECRET, "--image-opts", &key],
            false => &["-f", self.format, path],
        };
        words.iter().map(|w| w.to_string()).collect()
    }
}

pub fn have_reference() -> bool {
    let there = Command::new("qemu-img").arg("--version").output().is_ok_and(|o| o.status.success());
    if !there {
        println!("skipped: qemu-img is not there");
    }
    there
}

pub fn tool(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().expect("a program")
}

/// Runs a tool that must succeed.
pub fn must(program: &str, args: &[&str]) -> String {
    let o = tool(program, args);
    let text = String::from_utf8_lossy(&o.stdout).into_owned() + &String::from_utf8_lossy(&o.stderr);
    assert!(o.status.success(), "{program} {args:?}: {text}");
    text
}

/// An image made by the reference.
pub fn made_by_reference(dir: &Dir, c: &Case) -> String {
    let path = dir.path(&format!("{}-refs", c.name()));
    let size = c.size.to_string();
    must("qemu-img", &["create", "-q", "--object", SECRET, "-f", c.format, "-o", c.make, &path, &size]);
    path
}

/// An image made by us, with the same options.
pub async fn made_by_us(dir: &Dir, c: &Case) -> String {
    let path = dir.path(&format!("{}-ours", c.name()));
    std::fs::File::create(&path).unwrap();
    let g = graph_with_secret();
    g.add(file_options("image-file", &path)).await.unwrap();
    let ty = drivers().into_iter().find(|d| d.name == c.format).unwrap();
    let creation = ty.create.unwrap();
    let size = c.size.to_string();
    let mut pairs = vec![("size", size.as_str())];
    pairs.extend(c.make.split(',').filter_map(|o| o.split_once('=')));
    let dict = creation.contract_dict(&pairs).unwrap();
    let mut cx = CreateCx::new(g.clone());
    let mut parts = Vec::new();
    for (i, part) in creation.parts.map_or(Vec::new(), |p| p(&dict, &path).unwrap()).into_iter().enumerate() {
        let (node, path) = (format!("part-{i}"), dir.path(&part.filename));
        std::fs::File::create(&path).unwrap();
        g.add(file_options(&node, &path)).await.unwrap();
        cx.names.push((node.clone(), part.filename.clone()));
        parts.push((part, node));
    }
    let options = creation.contract(c.format, "image-file", &parts, dict).unwrap();
    (creation.create.unwrap())(&cx, &options).await.unwrap();
    g.close_all().await;
    path
}

/// The bytes that the reference sees in an image.
pub fn reference_bytes(dir: &Dir, format: &str, path: &str) -> Vec<u8> {
    bytes_of(dir, &["-f", format, path].map(Into::into))
}

/// The same for an image that may be encrypted.
pub fn reference_bytes_of(dir: &Dir, c: &Case, path: &str) -> Vec<u8> {
    bytes_of(dir, &c.image(path))
}

fn bytes_of(dir: &Dir, image: &[String]) -> Vec<u8> {
    let raw = dir.path("as-raw");
    let mut args = vec!["convert", "-O", "raw"];
    args.extend(image.iter().map(String::as_str));
    args.push(&raw);
    must("qemu-img", &args);
    std::fs::read(&raw).unwrap()
}

pub async fn opened(options: BlockdevOptions) -> (Arc<BlockGraph>, Arc<Root>) {
    let g = graph_with_secret();
    let name = options.node_name.clone().expect("a name");
    g.add(options).await.expect("a node");
    let root = attach(&g, &name, Perm::all(), Perm::all()).await.expect("a root");
    (g, root)
}

pub async fn closed(g: Arc<BlockGraph>, root: Arc<Root>) {
    root.detach().await;
    g.close_all().await;
}

pub fn same(got: &[u8], want: &[u8], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let first = got.iter().zip(want).position(|(a, b)| a != b);
    assert_eq!(first, None, "{what}: first difference");
}
