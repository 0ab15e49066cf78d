//! The driver `ssh` against a server of OpenSSH.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{ScratchDir, rhea_binary};

const SSHD: &str = "/usr/sbin/sshd";
const SFTP: &str = "/usr/lib/openssh/sftp-server";

/// A server on a port of its own, and what its client needs.
struct Server {
    child: Child,
    dir: ScratchDir,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn program(name: &str, args: &[&str]) -> Result<Output> {
    let done = Command::new(name).args(args).output().with_context(|| format!("starting {name}"))?;
    ensure!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(done)
}

impl Server {
    /// `None` where there is none on this host.
    fn start(name: &str) -> Result<Option<Server>> {
        for needed in [SSHD, SFTP, "/usr/bin/ssh"] {
            if !Path::new(needed).exists() {
                println!("skipped: {needed} is not installed");
                return Ok(None);
            }
        }
        let dir = ScratchDir::new(name)?;
        for key in ["host", "id"] {
            program("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &dir.file(key)])?;
        }
        std::fs::copy(dir.file("id.pub"), dir.file("authorized"))?;
        // Debian's refuses to start as root without it.
        _ = std::fs::create_dir("/run/sshd");
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nStrictModes no\nMaxStartups 100\n\
             UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nSubsystem sftp {SFTP}\n",
            dir.file("host"),
            dir.file("authorized"),
        );
        std::fs::write(dir.file("config"), config)?;
        let client = format!(
            "IdentityFile {}\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {}\nGlobalKnownHostsFile /dev/null\n",
            dir.file("id"),
            dir.file("known"),
        );
        std::fs::write(dir.file("client"), client)?;
        let wrapper = format!("#!/bin/sh\nexec ssh -F {} \"$@\"\n", dir.file("client"));
        std::fs::write(dir.file("ssh"), wrapper)?;
        program("chmod", &["755", &dir.file("ssh")])?;
        let child = Command::new(SSHD)
            .args(["-D", "-e", "-f", &dir.file("config")])
            .stderr(Stdio::null())
            .spawn()
            .context("starting sshd")?;
        let server = Server { child, dir, port };
        let end = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(Instant::now() < end, "sshd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(server))
    }

    fn url(&self, file: &str, check: &str) -> String {
        format!("ssh://127.0.0.1:{}{}?host_key_check={check}", self.port, self.dir.file(file))
    }

    fn tool(&self, args: &[&str]) -> Result<Output> {
        Ok(Command::new(rhea_binary()).args(args).env("RHEA_SSH", self.dir.file("ssh")).output()?)
    }

    fn good(&self, args: &[&str]) -> Result<String> {
        let done = self.tool(args)?;
        ensure!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// What it says, without the name of the program and of the file.
    fn bad(&self, args: &[&str]) -> Result<String> {
        let done = self.tool(args)?;
        ensure!(!done.status.success(), "{args:?} went well");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        Ok(said.split_once("': ").map_or(said.clone(), |(_, s)| s.trim().to_owned()))
    }
}

#[test]
fn images_lie_on_another_host() -> Result<()> {
    let Some(s) = Server::start("ssh-images")? else { return Ok(()) };
    let bytes: Vec<u8> = (0..5 << 20).map(|i: u32| (i / 512 * 7 + i) as u8).collect();
    let local = s.dir.file("local.raw");
    std::fs::write(&local, &bytes)?;
    for (format, there) in [("raw", "there.raw"), ("qcow2", "there.qcow2")] {
        let url = s.url(there, "no");
        s.good(&["img", "convert", "-O", format, &local, &url])?;
        let compared = s.good(&["img", "compare", "-F", format, &local, &url])?;
        ensure!(compared.contains("identical"), "{compared}");
        s.good(&["img", "compare", "-F", format, &local, &s.dir.file(there)])?;
    }
    ensure!(std::fs::read(s.dir.file("there.raw"))? == bytes);
    s.good(&["img", "create", "-f", "raw", &s.url("new.raw", "no"), "1M"])?;
    let new = s.dir.file("new.raw");
    ensure!(std::fs::metadata(&new)?.len() == 1 << 20);
    let commands =
        ["-c", "write -P 7 1000 100k", "-c", "flush", "-c", "read -P 7 1000 100k", "-c", "write -z 0 4k"];
    s.good(&[&["io", "-f", "raw"][..], &commands, &[&s.url("new.raw", "no")]].concat())?;
    let now = std::fs::read(&new)?;
    ensure!(now[..4096].iter().all(|b| *b == 0) && now[4096..1000 + 102_400].iter().all(|b| *b == 7));
    s.good(&["img", "resize", "-q", "-f", "raw", &s.url("new.raw", "no"), "2M"])?;
    ensure!(std::fs::metadata(&new)?.len() == 2 << 20);
    let shorter = s.bad(&["img", "resize", "-q", "--shrink", "-f", "raw", &s.url("new.raw", "no"), "1M"])?;
    ensure!(shorter.contains("ssh driver does not support shrinking files"), "{shorter}");
    ensure!(std::fs::metadata(&new)?.len() == 2 << 20);
    Ok(())
}

#[test]
fn hosts_are_checked() -> Result<()> {
    let Some(s) = Server::start("ssh-hosts")? else { return Ok(()) };
    std::fs::write(s.dir.file("a.raw"), vec![1; 65536])?;
    let info = |check: &str| vec!["img".to_owned(), "info".into(), s.url("a.raw", check)];
    let good = |check: &str| s.good(&info(check).iter().map(String::as_str).collect::<Vec<_>>());
    let bad = |check: &str| s.bad(&info(check).iter().map(String::as_str).collect::<Vec<_>>());
    ensure!(bad("yes")? == "no host key was found in known_hosts", "{}", bad("yes")?);
    // The key is what stands in the middle of the file, and its hash is that of what base64 stands for.
    let key = std::fs::read_to_string(s.dir.file("host.pub"))?;
    let (ty, key) = key.split_once(' ').context("a public key")?;
    let key = key.split(' ').next().context("a public key")?.trim();
    let hash = |sum: &str| -> Result<String> {
        let done = program("/bin/sh", &["-c", &format!("printf %s {key} | base64 -d | {sum}")])?;
        Ok(String::from_utf8_lossy(&done.stdout).split(' ').next().unwrap_or("").to_owned())
    };
    for kind in ["md5", "sha1", "sha256"] {
        let hash = hash(&format!("{kind}sum"))?;
        good(&format!("{kind}:{hash}"))?;
        good(&format!("{kind}:{}:{}", &hash[..2], hash[2..].to_uppercase()))?;
        let other = format!("{}{}", if hash.starts_with("00") { "11" } else { "00" }, &hash[2..]);
        let wrong = bad(&format!("{kind}:{other}"))?;
        let want = format!(
            "remote host {ty} key fingerprint '{kind}:{hash}' does not match host_key_check '{kind}:{other}'"
        );
        ensure!(wrong == want, "{wrong}");
    }
    std::fs::write(s.dir.file("known"), format!("[127.0.0.1]:{} {ty} {key}\n", s.port))?;
    good("yes")?;
    // Another host under this name.
    program("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &s.dir.file("other")])?;
    let other = std::fs::read_to_string(s.dir.file("other.pub"))?;
    std::fs::write(s.dir.file("known"), format!("[127.0.0.1]:{} {other}", s.port))?;
    let changed = bad("yes")?;
    let start = "host key (ssh-ed25519 key with fingerprint SHA256:";
    let end = ") does not match the one in known_hosts; this may be a possible attack";
    ensure!(changed.starts_with(start) && changed.ends_with(end), "{changed}");
    // Nobody's key.
    std::fs::write(s.dir.file("authorized"), "")?;
    let who = bad("no")?;
    ensure!(who.starts_with("failed to authenticate"), "{who}");
    // Nobody there.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let there = s.bad(&["img", "info", &format!("ssh://127.0.0.1:{port}/a")])?;
    ensure!(there.starts_with("Failed to connect to"), "{there}");
    Ok(())
}
