//! The driver `rbd` against a cluster of Ceph's own programs: one monitor, and one store that keeps everything in memory.

use std::fmt::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Qmp, ScratchDir, StorageDaemon, rhea_binary};
use serde_json::{Value, json};

/// Longer than any of the cluster's programs needs.
const PATIENCE: &str = "120";
/// The key of all users: a date and 16 bytes, as Ceph writes keys.
const KEY: &str = "AQBhKk1maVkqJRAAd8JxPcmbHnYgQm6ckCLEFg==";
/// One that nobody has.
const WRONG_KEY: &str = "AQBhKk1maVkqJRAAd8JxPcmbHnYgQm6ckCLAFg==";
const REFERENCE: &str = "/usr/bin/qemu-img";
const REFERENCE_IO: &str = "/usr/bin/qemu-io";

/// A cluster on a port of its own. Its programs end with it, and with the thread that started them.
struct Cluster {
    daemons: Vec<Child>,
    dir: ScratchDir,
    port: u16,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for d in &mut self.daemons {
            _ = d.kill();
            _ = d.wait();
        }
    }
}

fn program(args: &[&str]) -> Result<String> {
    let done = Command::new("timeout").arg(PATIENCE).args(args).stdin(Stdio::null()).output()?;
    ensure!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Whether the reference's tools know images in clusters.
fn reference() -> bool {
    let asked = Command::new(REFERENCE).args(["create", "-f", "rbd", "-o", "help"]).output();
    let knows = asked.is_ok_and(|o| o.status.success());
    if !knows {
        println!("skipped: half of the test: {REFERENCE} has no driver rbd (Debian: qemu-block-extra)");
    }
    knows
}

impl Cluster {
    /// `None` where there is no Ceph on this host.
    fn start(name: &str) -> Result<Option<Cluster>> {
        for needed in ["ceph-mon", "ceph-osd", "monmaptool", "ceph", "rbd", "setpriv"] {
            if !["/usr/bin", "/usr/sbin", "/bin"].iter().any(|d| Path::new(d).join(needed).exists()) {
                println!("skipped: {needed} is not installed");
                return Ok(None);
            }
        }
        let dir = ScratchDir::new(name)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut c = Cluster { daemons: Vec::new(), dir, port };
        let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        c.configure(id.trim())?;
        let (map, keys) = (c.dir.file("monmap"), c.dir.file("keys"));
        let place = format!("[v2:127.0.0.1:{port}]");
        program(&["monmaptool", "--create", "--fsid", id.trim(), "--addv", "a", &place, &map])?;
        program(&["ceph-mon", "-c", &c.conf(), "-i", "a", "--mkfs", "--monmap", &map, "--keyring", &keys])?;
        c.daemon("ceph-mon", "a")?;
        program(&["ceph-osd", "-c", &c.conf(), "-i", "0", "--mkfs", "--osd-uuid", id.trim()])?;
        c.ceph(&["osd", "new", id.trim(), "0"])?;
        c.daemon("ceph-osd", "0")?;
        c.ceph(&["osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost"])?;
        c.ceph(&["osd", "pool", "create", "rbd", "8"])?;
        Ok(Some(c))
    }

    fn configure(&self, id: &str) -> Result<()> {
        let dir = self.dir.path().display();
        let mut keys = String::new();
        for (user, mon, osd) in [
            ("mon.", "allow *", ""),
            ("osd.0", "allow profile osd", "allow *"),
            ("client.admin", "allow *", "allow *"),
            ("client.reader", "profile rbd", "profile rbd-read-only"),
        ] {
            write!(keys, "[{user}]\n\tkey = {KEY}\n\tcaps mon = \"{mon}\"\n\tcaps osd = \"{osd}\"\n")?;
        }
        std::fs::write(self.dir.file("keys"), keys)?;
        let port = self.port;
        let common = format!(
            "[global]\nfsid = {id}\nmon host = v2:127.0.0.1:{port}\npublic addr = 127.0.0.1\nosd pool default size = 1\n\
             mon allow pool size one = true\nosd crush chooseleaf type = 0\nosd objectstore = memstore\nrun dir = {dir}\n\
             log file = {dir}/$name.log\nadmin socket = {dir}/$name.asok\nmon data = {dir}/mon\nosd data = {dir}/osd\n\
             osd class load list = *\nmon data avail crit = 1\nmon data avail warn = 1\n"
        );
        let client = "[client]\nlog file =\nadmin socket =\n";
        std::fs::write(self.dir.file("conf"), format!("{common}keyring = {dir}/keys\n{client}"))?;
        std::fs::write(self.dir.file("nokey.conf"), format!("{common}keyring = /dev/null\n{client}"))?;
        let short = "client mount timeout = 6\n";
        std::fs::write(
            self.dir.file("short.conf"),
            format!("{common}keyring = {dir}/keys\n{client}{short}"),
        )?;
        for sub in ["mon", "osd"] {
            std::fs::create_dir(self.dir.file(sub))?;
        }
        Ok(())
    }

    fn conf(&self) -> String {
        self.dir.file("conf")
    }

    fn daemon(&mut self, name: &str, id: &str) -> Result<()> {
        let args = ["--pdeathsig", "KILL", name, "-c", &self.conf(), "-f", "-i", id];
        let quiet = Command::new("setpriv").args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.daemons.push(quiet.with_context(|| format!("starting {name}"))?);
        Ok(())
    }

    fn ceph(&self, args: &[&str]) -> Result<String> {
        program(&[&["ceph", "-c", &self.conf(), "--connect-timeout", PATIENCE], args].concat())
    }

    fn rbd(&self, args: &[&str]) -> Result<String> {
        program(&[&["rbd", "-c", &self.conf()], args].concat())
    }

    /// Stops all its programs, or has them go on.
    fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        for d in &self.daemons {
            rustix::process::kill_process(rustix::process::Pid::from_child(d), signal)?;
        }
        Ok(())
    }

    /// The name of an image in the pool.
    fn name(&self, image: &str) -> String {
        format!("rbd:rbd/{image}:conf={}", self.conf())
    }

    /// Options of a node that is an image in the pool.
    fn options(&self, image: &str) -> String {
        format!("driver=rbd,pool=rbd,image={image},conf={}", self.conf())
    }
}

fn rhea(args: &[&str]) -> Result<Output> {
    Ok(Command::new(rhea_binary()).args(args).stdin(Stdio::null()).output()?)
}

fn good(args: &[&str]) -> Result<String> {
    let done = rhea(args)?;
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success(), "{args:?}: {out}{err}");
    Ok(out.into_owned())
}

/// The last that it says before it fails.
fn bad(args: &[&str]) -> Result<String> {
    let done = rhea(args)?;
    let err = String::from_utf8_lossy(&done.stderr);
    ensure!(!done.status.success(), "{args:?} went well");
    Ok(err.trim_end().rsplit(": ").next().unwrap_or_default().to_owned())
}

fn io(image: &str, commands: &[&str]) -> Result<String> {
    let commands: Vec<_> = commands.iter().flat_map(|c| ["-c", *c]).collect();
    good(&[&["io", "-f", "raw", "-d", "unmap"], &commands[..], &[image]].concat())
}

/// Where an image has data, in numbers of 4 MiB: from, how many.
fn data(image: &[&str]) -> Result<Vec<(u64, u64)>> {
    let map: Value = serde_json::from_str(&good(&[&["img", "map", "--output=json"], image].concat())?)?;
    let all = map.as_array().context("a list")?.iter().filter(|e| e["data"] == true);
    Ok(all.map(|e| [&e["start"], &e["length"]].map(|n| n.as_u64().unwrap_or(0) >> 22).into()).collect())
}

/// Fails with what there is where that is something else.
fn same<T: PartialEq + std::fmt::Debug>(is: T, wanted: T) -> Result<()> {
    ensure!(is == wanted, "{is:?} instead of {wanted:?}");
    Ok(())
}

#[test]
fn images_lie_in_a_cluster() -> Result<()> {
    let Some(c) = Cluster::start("rbd-images")? else { return Ok(()) };
    requests(&c).context("requests")?;
    copies(&c).context("copies")?;
    snapshots(&c).context("snapshots")?;
    users(&c).context("users")?;
    encryption(&c).context("encryption")?;
    mistakes(&c).context("mistakes")?;
    daemon(&c).context("a storage daemon")?;
    away(&c).context("a cluster that does not answer")
}

fn requests(c: &Cluster) -> Result<()> {
    let x = c.name("x");
    good(&["img", "create", "-q", "-f", "rbd", &x, "40M"])?;
    same(data(&[&x])?, vec![])?;
    io(
        &x,
        &["write -P 1 1000 100k", "write -P 2 9M 1M", "write -P 3 12M 4M", "flush", "read -P 1 1000 100k"],
    )?;
    same(data(&[&x])?, vec![(0, 1), (2, 2)])?;
    io(
        &x,
        &["write -zu 12M 4M", "discard 8M 4M", "read -P 0 8M 8M", "read -P 1 1000 100k", "read -P 0 0 1000"],
    )?;
    same(data(&[&x])?, vec![(0, 1)])?;
    // From the middle of an object on, and up to the end.
    same(data(&["--start-offset=1M", "--max-length=2M", "-f", "raw", &x])?.len(), 1)?;
    same(data(&["--start-offset=5M", "-f", "raw", &x])?, vec![])?;
    good(&["img", "resize", "-q", "-f", "raw", &x, "60M"])?;
    io(&x, &["write -P 6 59M 1M", "read -P 6 59M 1M"])?;
    good(&["img", "resize", "-q", "--shrink", "-f", "raw", &x, "50M"])?;
    good(&["img", "resize", "-q", "-f", "raw", &x, "60M"])?;
    io(&x, &["read -P 0 50M 10M"])?;
    let full = ["img", "resize", "--preallocation=full", "-f", "raw", &x, "70M"];
    same(bad(&full)?.as_str(), "Unsupported preallocation mode 'full'")?;
    let info: Value = serde_json::from_str(&good(&["img", "info", "--output=json", "-f", "raw", &x])?)?;
    let of = |member: &str| &info[member];
    same(
        [of("virtual-size"), of("cluster-size"), of("actual-size")],
        [&json!(60 << 20), &json!(4 << 20), &Value::Null],
    )?;
    // Bytes of a last sector that is not whole.
    let odd = c.name("odd");
    good(&["img", "create", "-q", "-f", "rbd", &odd, "1000001"])?;
    io(&odd, &["write -P 7 1000000 448", "read -P 7 1000000 448"])?;
    same(c.rbd(&["info", "--format", "json", "rbd/odd"])?.contains("\"size\":1000448"), true)
}

fn copies(c: &Cluster) -> Result<()> {
    let bytes: Vec<u8> =
        (0..9 << 20).map(|i: u32| if i >> 20 == 5 { 0 } else { (i / 512 * 7 + i) as u8 }).collect();
    let local = c.dir.file("local.raw");
    std::fs::write(&local, &bytes)?;
    let (raw, qcow2) = (c.name("raw"), c.name("qcow2"));
    good(&["img", "convert", "-O", "rbd", &local, &raw])?;
    good(&["img", "convert", "-O", "qcow2", &local, &qcow2])?;
    let back = c.dir.file("back.raw");
    for (format, image) in [("raw", &raw), ("qcow2", &qcow2)] {
        good(&["img", "compare", "-f", "raw", "-F", format, &local, image])?;
        good(&["img", "convert", "-f", format, "-O", "raw", image, &back])?;
        ensure!(std::fs::read(&back)? == bytes, "{format}: other bytes");
    }
    // The image grows with what is written to it.
    let new = c.name("new");
    good(&["img", "create", "-q", "-f", "qcow2", &new, "64M"])?;
    good(&["io", "-c", "write -P 1 0 1M", "-c", "write -P 2 30M 5M", &new])?;
    good(&["img", "resize", "-q", &new, "128M"])?;
    good(&["img", "check", "-q", &new])?;
    good(&["io", "-c", "read -P 1 0 1M", "-c", "read -P 2 30M 5M", "-c", "read -P 0 64M 64M", &new])?;
    if !reference() {
        return Ok(());
    }
    program(&[REFERENCE, "compare", "-f", "raw", "-F", "raw", &local, &raw])?;
    program(&[REFERENCE, "compare", "-f", "raw", "-F", "qcow2", &local, &qcow2])?;
    program(&[REFERENCE, "check", "-q", &new])?;
    let theirs = c.name("theirs");
    program(&[REFERENCE, "convert", "-O", "rbd", &local, &theirs])?;
    good(&["img", "compare", "-f", "raw", "-F", "raw", &local, &theirs])?;
    let whole = ["write -P 1 0 4M", "write -P 0 4M 1M", "write -zu 0 4M"].map(|c| ["-c", c]).concat();
    program(&[&[REFERENCE_IO, "-f", "raw"], &whole[..], &[&theirs]].concat())?;
    // All that is told of an image.
    for args in [vec!["info"], vec!["info", "--output=json"], vec!["map"], vec!["map", "--output=json"]] {
        for image in [&raw, &qcow2, &theirs] {
            let [ours, reference] = [
                good(&[&["img"], &args[..], &[image]].concat())?,
                program(&[&[REFERENCE], &args[..], &[image]].concat())?,
            ];
            same(ours, reference)?;
        }
    }
    Ok(())
}

fn snapshots(c: &Cluster) -> Result<()> {
    let s = c.name("s");
    good(&["img", "create", "-q", "-f", "rbd", &s, "8M"])?;
    io(&s, &["write -P 1 0 8M"])?;
    let act = |args: &[&str]| rhea(&[&["img", "snapshot"], args, &[&s]].concat());
    ensure!(act(&["-c", "one"])?.status.success());
    let again = String::from_utf8(act(&["-c", "one"])?.stderr)?;
    ensure!(again.trim_end().ends_with("Could not create snapshot 'one': File exists"), "{again}");
    let unnamed = String::from_utf8(act(&["-c", ""])?.stderr)?;
    ensure!(unnamed.trim_end().ends_with("Could not create snapshot '': Invalid argument"), "{unnamed}");
    io(&s, &["write -P 2 0 1M"])?;
    good(&["img", "resize", "-q", "-f", "raw", &s, "16M"])?;
    ensure!(act(&["-c", "two"])?.status.success());
    let list = String::from_utf8(act(&["-l"])?.stdout)?;
    let names: Vec<_> = list.lines().skip(2).filter_map(|l| l.split_whitespace().next()).collect();
    same(names, vec!["one", "two"])?;
    if reference() {
        same(list.as_str(), &program(&[REFERENCE, "snapshot", "-l", &s])?)?;
    }
    // As an image of its own.
    let one = c.name("s@one");
    good(&["io", "-r", "-f", "raw", "-c", "read -P 1 0 8M", &one])?;
    same(bad(&["io", "-f", "raw", "-c", "write 0 512", &one])?.as_str(), "rbd snapshots are read-only")?;
    ensure!(act(&["-a", "one"])?.status.success());
    io(&s, &["read -P 1 0 8M"])?;
    ensure!(good(&["img", "info", "-f", "raw", &s])?.contains("virtual size: 8 MiB"));
    ensure!(act(&["-d", "one"])?.status.success() && act(&["-d", "two"])?.status.success());
    let gone = String::from_utf8(act(&["-d", "one"])?.stderr)?;
    ensure!(gone.contains("Could not delete snapshot 'one': snapshot not found"), "{gone}");
    same(String::from_utf8(act(&["-l"])?.stdout)?.as_str(), "")
}

fn users(c: &Cluster) -> Result<()> {
    let u = c.name("u");
    good(&["img", "create", "-q", "-f", "rbd", &u, "8M"])?;
    io(&u, &["write -P 1 0 4M"])?;
    // One who may only read.
    let reader = c.name("u") + ":id=reader";
    good(&["io", "-r", "-f", "raw", "-c", "read -P 1 0 4M", &reader])?;
    same(data(&[&reader])?, vec![(0, 1)])?;
    same(bad(&["io", "-f", "raw", "-c", "write 0 512", &reader])?.as_str(), "Operation not permitted")?;
    same(bad(&["img", "info", &(c.name("u") + ":id=nobody")])?.as_str(), "Permission denied")?;
    // A key that stands in no file.
    let key = |key: &str| format!("secret,id=k,format=base64,data={key}");
    let options =
        format!("driver=rbd,pool=rbd,image=u,user=admin,key-secret=k,conf={}", c.dir.file("nokey.conf"));
    good(&["img", "info", "--object", &key(KEY), "--image-opts", &options])?;
    let wrong = bad(&["img", "info", "--object", &key(WRONG_KEY), "--image-opts", &options])?;
    same(wrong.as_str(), "Permission denied")?;
    same(bad(&["img", "info", "--image-opts", &options])?.as_str(), "No secret with id 'k'")?;
    let server = format!("server.0.host=127.0.0.1,server.0.port={}", c.port);
    let options =
        format!("driver=rbd,pool=rbd,image=u,user=admin,key-secret=k,{server},auth-client-required.0=cephx");
    let told = good(&["img", "info", "--object", &key(KEY), "--image-opts", &options])?;
    let name = format!(
        "image: json:{{\"pool\": \"rbd\", \"image\": \"u\", \"server.0.host\": \"127.0.0.1\", \"driver\": \"rbd\", \
         \"server.0.port\": \"{}\", \"user\": \"admin\"}}",
        c.port
    );
    same(told.lines().next().unwrap_or_default(), &name)?;
    let plain = format!("rbd:rbd/u:id=admin:key={KEY}:mon_host=127.0.0.1\\:{}", c.port);
    good(&["img", "info", &plain])?;
    let made = format!("rbd:rbd/made:conf={}", c.dir.file("nokey.conf"));
    good(&[
        "img",
        "create",
        "-q",
        "-f",
        "rbd",
        "--object",
        &key(KEY),
        "-o",
        "password-secret=k",
        &made,
        "1M",
    ])?;
    // Names with what has a meaning, and another namespace.
    for image in ["a\\:b\\@c", "d\\\\e"] {
        good(&["img", "create", "-q", "-f", "rbd", &c.name(image), "1M"])?;
        io(&c.name(image), &["write -P 3 0 1M"])?;
    }
    let list = c.rbd(&["ls", "rbd"])?;
    ensure!(["a:b@c", "d\\e", "made"].iter().all(|n| list.lines().any(|l| l == *n)), "{list}");
    c.rbd(&["namespace", "create", "rbd/space"])?;
    let inside = format!("rbd:rbd/space/u:conf={}", c.conf());
    good(&["img", "create", "-q", "-f", "rbd", &inside, "1M"])?;
    io(&inside, &["read -P 0 0 1M"])?;
    same(c.rbd(&["ls", "rbd/space"])?.as_str(), "u\n")
}

fn encryption(c: &Cluster) -> Result<()> {
    // Each step takes a second or more, for that is what the derivation of keys is for.
    let key = "secret,id=k,data=right";
    let encrypt = "encrypt.format=luks2,encrypt.key-secret=k";
    let new = format!("{encrypt},encrypt.cipher-alg=aes-128");
    let image = c.name("luks");
    good(&["img", "create", "-q", "-f", "rbd", "--object", key, "-o", &new, &image, "24M"])?;
    let options = format!("{},{encrypt}", c.options("luks"));
    let inside = ["--object", key, "--image-opts", &options];
    let reads = ["-c", "read -P 1 0 1M", "-c", "read -P 2 9M 1M", "-c", "read -P 0 4M 4M", "-c", "length"];
    let writes = ["-c", "write -P 1 0 1M", "-c", "write -P 2 9M 1M", "-c", "map"];
    let done = good(&[&["io"], &writes[..], &reads, &inside].concat())?;
    ensure!(done.lines().any(|l| l == "24 MiB"), "{done}");
    // Nothing of it is said to be zero.
    ensure!(done.contains("24 MiB (0x1800000) bytes     allocated at offset 0 bytes (0x0)"), "{done}");
    // From outside it is a volume that says what it is.
    let outside = good(&["img", "info", "-f", "raw", &image])?;
    ensure!(outside.contains("encryption format: luks2\n"), "{outside}");
    ensure!(!outside.contains("virtual size: 24 MiB"), "{outside}");
    good(&[&["img", "resize", "-q", "--shrink"], &inside[..], &["12M"]].concat())?;
    let after = match reference() {
        true => program(&[&[REFERENCE_IO], &reads[..], &inside].concat())?,
        false => good(&[&["io"], &reads[..], &inside].concat())?,
    };
    ensure!(after.lines().any(|l| l == "12 MiB"), "{after}");
    Ok(())
}

fn mistakes(c: &Cluster) -> Result<()> {
    let conf = c.conf();
    let with = |s: &str| format!("{s}:conf={conf}");
    for (name, says) in [
        ("rbd:rbd".to_owned(), "Pool name is required"),
        (with("rbd:rbd/none"), "No such file or directory"),
        (with("rbd:none/x"), "No such file or directory"),
        (with("rbd:rbd/none/x"), "namespace 'none' does not exist"),
        (with("rbd:rbd/x@none"), "No such file or directory"),
        (with("rbd:rbd/x:foo=bar"), "No such file or directory"),
        ("rbd:rbd/x:conf".to_owned(), "conf option conf has no value"),
        ("rbd:rbd/x:conf=/nowhere".to_owned(), "No such file or directory"),
    ] {
        same(bad(&["img", "info", &name])?.as_str(), says).context(name)?;
    }
    for (options, says) in [
        ("cluster_size=5M", "obj size needs to be power of 2"),
        ("cluster_size=2k", "obj size too small"),
        ("cluster_size=64M", "Numerical argument out of domain"),
        ("encrypt.format=luks3,encrypt.key-secret=k", "Parameter 'format' does not accept value 'luks3'"),
        ("encrypt.format=luks2,encrypt.key-secret=k", "No secret with id 'k'"),
    ] {
        let made = bad(&["img", "create", "-q", "-f", "rbd", "-o", options, &c.name("no"), "1M"])?;
        same(made.as_str(), says).context(options)?;
    }
    same(bad(&["img", "create", "-q", "-f", "rbd", &c.name("x"), "1M"])?.as_str(), "File exists")?;
    let unknown = format!("{},foo=1", c.options("x"));
    same(bad(&["img", "info", "--image-opts", &unknown])?.as_str(), "Parameter 'foo' is unexpected")
}

/// Waits for the end of a job, and says what it failed with.
fn job(q: &mut Qmp, id: &str) -> Result<Option<String>> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let all = q.run("query-jobs", json!({}))?;
        let this = all.as_array().and_then(|l| l.iter().find(|j| j["id"] == id)).context("the job")?.clone();
        match this["status"].as_str() {
            Some("concluded") => {
                q.run("job-dismiss", json!({"id": id}))?;
                return Ok(this["error"].as_str().map(str::to_owned));
            }
            Some("ready") => drop(q.run("job-complete", json!({"id": id}))?),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
        ensure!(Instant::now() < end, "{this}");
    }
}

fn daemon(c: &Cluster) -> Result<()> {
    let mut d = StorageDaemon::start(&[])?;
    let socket = d.dir().file("nbd.sock");
    let q = d.qmp();
    let place = |image: &str| json!({"pool": "rbd", "image": image, "conf": c.conf()});
    let node = |name: &str, image: &str, more: Value| {
        let mut all =
            json!({"driver": "rbd", "node-name": name, "pool": "rbd", "image": image, "conf": c.conf()});
        for (key, value) in more.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        all
    };
    let refused = |q: &mut Qmp, command: &str, args: Value| -> Result<String> {
        Ok(q.try_run(command, args)?.err().context("it went well")?.desc)
    };
    for (image, failed) in [("a", None), ("b", None), ("a", Some("error rbd create: File exists"))] {
        let options = json!({"driver": "rbd", "location": place(image), "size": 16 << 20});
        q.run("blockdev-create", json!({"job-id": "j", "options": options}))?;
        same(job(q, "j")?.as_deref(), failed)?;
    }
    q.run("blockdev-add", node("a", "a", json!({"read-only": true})))?;
    q.run("blockdev-add", node("b", "b", json!({})))?;
    // It can be written later.
    q.run("blockdev-reopen", json!({"options": [node("a", "a", json!({"read-only": false}))]}))?;
    let other = refused(q, "blockdev-reopen", json!({"options": [node("a", "b", json!({}))]}))?;
    same(other.as_str(), "Cannot change the option 'image'")?;
    q.run("block_resize", json!({"node-name": "a", "size": 20 << 20}))?;
    q.run("block_resize", json!({"node-name": "b", "size": 20 << 20}))?;
    q.run("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": socket}}}))?;
    q.run("block-export-add", json!({"type": "nbd", "id": "e", "node-name": "a", "writable": true}))?;
    let url = format!("nbd+unix:///a?socket={socket}");
    let requests = ["write -P 3 1M 9M", "write -z 2M 1M", "flush", "read -P 3 3M 7M", "read -P 0 2M 1M"];
    io(&url, &requests)?;
    same(data(&[&url])?, vec![(0, 3)])?;
    q.run("blockdev-snapshot-internal-sync", json!({"device": "a", "name": "then"}))?;
    let taken = refused(q, "blockdev-snapshot-internal-sync", json!({"device": "a", "name": "then"}))?;
    same(taken.as_str(), "Snapshot with name 'then' already exists on device 'a'")?;
    io(&url, &["write -P 4 12M 4M"])?;
    q.run("block-export-del", json!({"id": "e"}))?;
    let then = |more: Value| {
        let mut all = node("then", "a", more);
        all["snapshot"] = json!("then");
        all
    };
    same(refused(q, "blockdev-add", then(json!({})))?.as_str(), "rbd snapshots are read-only")?;
    q.run("blockdev-add", then(json!({"auto-read-only": true})))?;
    let writing = refused(q, "blockdev-reopen", json!({"options": [then(json!({"read-only": false}))]}))?;
    same(writing.as_str(), "Cannot change node 'then' to r/w when using RBD snapshot")?;
    let auto_dismiss =
        json!({"job-id": "k", "device": "a", "target": "b", "sync": "full", "auto-dismiss": false});
    for command in ["blockdev-backup", "blockdev-mirror"] {
        q.run(command, auto_dismiss.clone())?;
        same(job(q, "k")?, None)?;
    }
    let info = q.run("query-named-block-nodes", json!({"flat": true}))?;
    let then =
        info.as_array().and_then(|l| l.iter().find(|n| n["node-name"] == "then")).context("the node")?;
    same([&then["ro"], &then["image"]["snapshots"][0]["id"]], [&json!(true), &json!("then")])?;
    let file = format!(
        "json:{{\"pool\": \"rbd\", \"image\": \"a\", \"conf\": \"{}\", \"snapshot\": \"then\", \"driver\": \"rbd\"}}",
        c.conf()
    );
    same(then["file"].as_str(), Some(file.as_str()))?;
    for name in ["a", "b", "then"] {
        q.run("blockdev-del", json!({"node-name": name}))?;
    }
    good(&["img", "compare", "-f", "raw", "-F", "raw", &c.name("a"), &c.name("b")])?;
    io(&c.name("b"), &["read -P 3 3M 7M", "read -P 4 12M 4M", "read -P 0 16M 4M"])?;
    io(&c.name("a"), &["length"])?;
    q.run("quit", json!({}))?;
    let (status, said) = d.wait(Duration::from_secs(20))?;
    ensure!(status.success() && said.is_empty(), "{status}: {said}");
    Ok(())
}

/// A cluster that has gone away holds up nobody but who asks for it.
fn away(c: &Cluster) -> Result<()> {
    let dir = ScratchDir::new("rbd-away")?;
    let second = dir.path().join("second.sock");
    let chardev = format!("socket,id=second,path={},server=on,wait=off", second.display());
    let mut d = StorageDaemon::start(&["--chardev", &chardev, "--monitor", "second"])?;
    let mut other = Qmp::connect(&second, Duration::from_secs(10))?;
    let node = |name: &str, conf: &str| {
        let conf = c.dir.file(conf);
        json!({"driver": "rbd", "node-name": name, "pool": "rbd", "image": name, "conf": conf, "read-only": true})
    };
    d.qmp().run("blockdev-add", node("a", "conf"))?;
    c.signal(rustix::process::Signal::STOP)?;
    let begun = Instant::now();
    let add = json!({"execute": "blockdev-add", "arguments": node("b", "short.conf")}).to_string();
    d.qmp().send_raw(add.as_bytes())?;
    std::thread::sleep(Duration::from_millis(300));
    let asked = Instant::now();
    other.run("query-named-block-nodes", json!({}))?;
    ensure!(asked.elapsed() < Duration::from_secs(4), "a query waited {:?}", asked.elapsed());
    let reply = d.qmp().receive_raw()?;
    same(reply["error"]["desc"].as_str(), Some("error connecting: Connection timed out"))?;
    ensure!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
    c.signal(rustix::process::Signal::CONT)?;
    d.qmp().run("blockdev-add", node("b", "conf"))?;
    d.qmp().run("blockdev-del", json!({"node-name": "b"}))?;
    // It ends while somebody waits for the cluster.
    c.signal(rustix::process::Signal::STOP)?;
    let add = json!({"execute": "blockdev-add", "arguments": node("b", "conf")}).to_string();
    d.qmp().send_raw(add.as_bytes())?;
    std::thread::sleep(Duration::from_millis(300));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(d.pid() as i32).context("a process")?,
        rustix::process::Signal::TERM,
    )?;
    std::thread::sleep(Duration::from_millis(500));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(d.pid() as i32).context("a process")?,
        rustix::process::Signal::TERM,
    )?;
    d.wait(Duration::from_secs(20))?;
    Ok(())
}

#[test]
fn a_host_without_ceph_says_so() -> Result<()> {
    // What stands under the library's name is none.
    let dir = ScratchDir::new("rbd-library")?;
    std::fs::write(dir.file("librados.so.2"), "")?;
    let info = ["img", "info", "rbd:rbd/x"];
    let done = Command::new(rhea_binary()).args(info).env("LD_LIBRARY_PATH", dir.path()).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    let wanted = "Could not open 'rbd:rbd/x': Cannot load Ceph's library: ";
    ensure!(done.status.code() == Some(1) && said.contains(wanted), "{said}");
    ensure!(said.contains("librados.so.2"), "{said}");
    Ok(())
}
