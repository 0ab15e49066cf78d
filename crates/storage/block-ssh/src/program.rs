//! The program `ssh`: how it is called, and what it says when it fails.

use crate::sftp::readable;
use api::block_core::{BlockdevOptionsSsh, SshHostKeyCheck, SshHostKeyCheckHashType, SshHostKeyHash};
use base::{Errno, IoResult};
use io::Stream;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// The variable that names the program that is run instead of `ssh`. It gets the same arguments.
const VARIABLE: &str = "RHEA_SSH";
/// What is kept of what it says, bytes: the end.
const MAX_SAID: usize = 8 << 10;
/// How long it has to end by itself once nobody speaks with it any more.
const GRACE: Duration = Duration::from_secs(2);
/// What stands in front of a host key's type and fingerprint in what it says, where that is not the one that is wanted.
const OTHER_KEY: &str = "rhea: the host key is ";

/// Prints the line of known hosts that `ssh` asks for where the key's hash is the right one; else says what it is. `ssh` puts in
/// the host's name as it looks for it, the type of the key, and the key; where it asks which keys are known, there is none. It
/// would also put in what stands in braces behind a dollar sign.
const COMPARE: &str = r#"test "$3" != NONE || exit 0; h=$(printf %%s "$3" | base64 -d | "$4" | cut -d " " -f 1); test "$h" = "$5" && echo "$1 $2 $3" || echo "rhea: the host key is $2 $h" >&2"#;

/// A program that runs.
pub(crate) struct Program {
    child: Mutex<Option<Child>>,
    said: Arc<Mutex<Vec<u8>>>,
}

/// Names that `ssh` may put into commands of its configuration: nothing that a shell, or it, could take for something else.
fn plain(what: &str, text: &str, also: &[char]) -> Result<(), QError> {
    let good = |c: char| c.is_alphanumeric() || also.contains(&c);
    match !text.is_empty() && !text.starts_with('-') && text.chars().all(good) {
        true => Ok(()),
        false => Err(qerr!("The {what} '{}' has characters that it cannot have", readable(text.as_bytes()))),
    }
}

/// A hash without colons, in small letters. `None`: it is no such hash, so no key has it.
fn digits(hash: &SshHostKeyHash) -> Option<String> {
    let len = match hash.r#type {
        SshHostKeyCheckHashType::Md5 => 32,
        SshHostKeyCheckHashType::Sha1 => 40,
        SshHostKeyCheckHashType::Sha256 => 64,
    };
    let text: String = hash.hash.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
    (text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit())).then_some(text)
}

/// The name of a kind of hash.
pub(crate) fn hash_name(ty: SshHostKeyCheckHashType) -> &'static str {
    match ty {
        SshHostKeyCheckHashType::Md5 => "md5",
        SshHostKeyCheckHashType::Sha1 => "sha1",
        SshHostKeyCheckHashType::Sha256 => "sha256",
    }
}

/// The arguments of `ssh`.
///
/// # Errors
/// A host, port or user that it cannot be given.
pub(crate) fn arguments(o: &BlockdevOptionsSsh) -> Result<Vec<String>, QError> {
    let server = &o.server;
    plain("host", &server.host, &['.', '-', '_', ':', '%'])?;
    // Larger numbers `ssh` refuses itself.
    match server.port.parse::<u32>() {
        Ok(0) => return Err(qerr!("Failed to connect to '{}:0': {}", server.host, Errno::CONNREFUSED)),
        Ok(_) => {}
        Err(_) => return Err(qerr!("Parameter 'port' expects a number")),
    }
    let mut args: Vec<String> = Vec::new();
    let mut option = |text: &str| args.extend(["-o".to_owned(), text.to_owned()]);
    for text in [
        // Nobody is asked, and nothing but the one file is reached.
        "BatchMode=yes",
        "ClearAllForwardings=yes",
        "ForwardAgent=no",
        "ForwardX11=no",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
        "RequestTTY=no",
        "StdinNull=no",
        "ForkAfterAuthentication=no",
        // A connection that others have opened was checked by other rules.
        "ControlMaster=no",
        "ControlPath=none",
        "LogLevel=INFO",
        "ConnectTimeout=30",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=3",
        "NoHostAuthenticationForLocalhost=no",
    ] {
        option(text);
    }
    let no_files = ["UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=/dev/null", "UpdateHostKeys=no"];
    match &o.host_key_check {
        None | Some(SshHostKeyCheck::KnownHosts) => option("StrictHostKeyChecking=yes"),
        Some(SshHostKeyCheck::None) => {
            option("StrictHostKeyChecking=no");
            no_files.into_iter().for_each(&mut option);
        }
        Some(SshHostKeyCheck::Hash(hash)) => {
            option("StrictHostKeyChecking=yes");
            option("CheckHostIP=no");
            option("VerifyHostKeyDNS=no");
            no_files.into_iter().for_each(&mut option);
            let wanted = digits(hash).unwrap_or_else(|| "-".into());
            let sum = format!("{}sum", hash_name(hash.r#type));
            option(&format!("KnownHostsCommand=/bin/sh -c '{COMPARE}' sh %H %t %K {sum} {wanted}"));
        }
    }
    match (server.ipv4, server.ipv6) {
        (Some(true), None | Some(false)) | (None, Some(false)) => option("AddressFamily=inet"),
        (None | Some(false), Some(true)) | (Some(false), None) => option("AddressFamily=inet6"),
        _ => {}
    }
    if let Some(user) = &o.user {
        plain("user", user, &['.', '-', '_', '@', '+'])?;
        args.extend(["-l".into(), user.clone()]);
    }
    args.extend([
        "-p".into(),
        server.port.clone(),
        "-s".into(),
        "--".into(),
        server.host.clone(),
        "sftp".into(),
    ]);
    Ok(args)
}

impl Program {
    /// Starts it. The stream is its standard input and output.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) async fn start(args: Vec<String>) -> Result<(Program, Stream), QError> {
        let name = std::env::var_os(VARIABLE).filter(|n| !n.is_empty()).unwrap_or_else(|| "ssh".into());
        let shown = readable(name.to_string_lossy().as_bytes());
        let start = move || -> std::io::Result<_> {
            let (ours, theirs) = UnixStream::pair()?;
            let (said, says) = std::io::pipe()?;
            let theirs = OwnedFd::from(theirs);
            let mut command = Command::new(name);
            command.args(args).stdin(Stdio::from(theirs.try_clone()?)).stdout(Stdio::from(theirs));
            // What is typed at a terminal to end this program does not end that one before the last write.
            command.stderr(says).process_group(0);
            Ok((command.spawn()?, OwnedFd::from(ours), OwnedFd::from(said)))
        };
        let started = rt::unblock(start).await;
        let (child, ours, said) =
            started.map_err(|e| qerr!("Failed to start the program '{shown}': {}", Errno::from(e)))?;
        let program = Program { child: Mutex::new(Some(child)), said: Arc::default() };
        let streams =
            || -> IoResult<_> { Ok((Stream::from_fd(ours)?, Stream::from_pair(Some(said), None)?)) };
        match streams() {
            Ok((stream, said)) => {
                drop(rt::spawn_local(hear(said, program.said.clone())));
                Ok((program, stream))
            }
            Err(e) => {
                program.end().await;
                Err(qerr!("Failed to start the program '{shown}': {e}"))
            }
        }
    }

    /// Waits for its end, which comes soon by itself or not; then it is killed.
    pub(crate) async fn end(&self) {
        let Some(mut child) = self.child.lock().take() else { return };
        let begun = std::time::Instant::now();
        while begun.elapsed() < GRACE {
            match child.try_wait() {
                Ok(None) => rt::sleep(Duration::from_millis(10)).await,
                _ => return,
            }
        }
        rt::unblock(move || bury(child)).await;
    }

    /// Kills it, on whatever thread this is.
    pub(crate) fn kill(&self) {
        if let Some(child) = self.child.lock().take() {
            // It is gone at once, so this hardly waits.
            bury(child);
        }
    }

    /// What it has said on its standard error.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock()).into_owned()
    }
}

fn bury(mut child: Child) {
    _ = child.kill();
    _ = child.wait();
}

/// Keeps the end of what the program says.
async fn hear(from: Stream, said: Arc<Mutex<Vec<u8>>>) {
    let mut buf = [0; 1024];
    while let Ok(n @ 1..) = from.read(&mut buf).await {
        let mut said = said.lock();
        said.extend(&buf[..n]);
        let surplus = said.len().saturating_sub(MAX_SAID);
        said.drain(..surplus);
    }
}

/// What went wrong before the server spoke SFTP, from what `ssh` has said.
pub(crate) fn explained(said: &str, o: &BlockdevOptionsSsh) -> QError {
    let (host, port) = (&o.server.host, &o.server.port);
    let lines: Vec<String> = said.lines().map(|l| readable(l.as_bytes())).collect();
    let behind = |start: &str| lines.iter().find_map(|l| l.strip_prefix(start));
    let reason = |text: &str| text.rsplit_once(": ").map_or_else(|| text.to_owned(), |(_, r)| r.to_owned());
    if let Some(rest) = behind("ssh: Could not resolve hostname ") {
        return qerr!("address resolution failed for {host}:{port}: {}", reason(rest));
    }
    if let Some(rest) = behind("ssh: connect to host ") {
        return qerr!("Failed to connect to '{host}:{port}': {}", reason(rest));
    }
    if let (Some(key), Some(SshHostKeyCheck::Hash(wanted))) = (behind(OTHER_KEY), &o.host_key_check) {
        let (ty, hash) = key.split_once(' ').unwrap_or((key, ""));
        let kind = hash_name(wanted.r#type);
        return qerr!(
            "remote host {ty} key fingerprint '{kind}:{hash}' does not match host_key_check '{kind}:{}'",
            readable(wanted.hash.as_bytes())
        );
    }
    let has = |text: &str| lines.iter().any(|l| l.contains(text));
    if has("Permission denied (") || has("Too many authentication failures") {
        return qerr!(
            "failed to authenticate using publickey authentication and the identities held by your ssh-agent"
        );
    }
    if has("REMOTE HOST IDENTIFICATION HAS CHANGED") {
        // "The fingerprint for the TYPE key sent by the remote host is", and it in the next line, with a full stop.
        let sent = lines.iter().zip(lines.iter().skip(1)).find_map(|(line, next)| {
            let ty = line.strip_prefix("The fingerprint for the ")?.split(' ').next()?;
            let ty = match ty {
                "ECDSA" => "ecdsa".to_owned(),
                ty => format!("ssh-{}", ty.to_lowercase()),
            };
            Some(format!(" ({ty} key with fingerprint {})", next.trim().trim_end_matches('.')))
        });
        let sent = sent.unwrap_or_default();
        return qerr!("host key{sent} does not match the one in known_hosts; this may be a possible attack");
    }
    if has("host key is known for") {
        return qerr!("no host key was found in known_hosts");
    }
    if has("subsystem request failed") {
        return qerr!("failed to initialize sftp handle");
    }
    let last = lines.iter().rev().find(|l| !l.trim().is_empty());
    match last {
        Some(text) => qerr!("failed to establish SSH session: {text}"),
        None => qerr!("failed to establish SSH session: the connection was closed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::sockets::InetSocketAddress;

    fn options(host: &str, port: &str, user: Option<&str>) -> BlockdevOptionsSsh {
        BlockdevOptionsSsh {
            server: InetSocketAddress {
                host: host.into(),
                port: port.into(),
                ..InetSocketAddress::default()
            },
            path: "/a".into(),
            user: user.map(str::to_owned),
            host_key_check: None,
        }
    }

    fn hashed(ty: SshHostKeyCheckHashType, hash: &str) -> BlockdevOptionsSsh {
        let hash = SshHostKeyHash { r#type: ty, hash: hash.into() };
        BlockdevOptionsSsh { host_key_check: Some(SshHostKeyCheck::Hash(hash)), ..options("h", "22", None) }
    }

    #[test]
    fn the_program_gets_its_arguments() {
        let args = arguments(&options("::1", "2222", Some("me"))).unwrap();
        assert_eq!(args[args.len() - 8..], ["-l", "me", "-p", "2222", "-s", "--", "::1", "sftp"]);
        assert!(args.contains(&"StrictHostKeyChecking=yes".to_owned()));
        let none =
            BlockdevOptionsSsh { host_key_check: Some(SshHostKeyCheck::None), ..options("h", "22", None) };
        assert!(arguments(&none).unwrap().contains(&"StrictHostKeyChecking=no".to_owned()));
        for (host, port, user) in [
            ("-oProxyCommand=x", "22", None),
            ("h;x", "22", None),
            ("", "22", None),
            ("h h", "22", None),
            ("h", "2 2", None),
            ("h", "-2", None),
            ("h", "", None),
            ("h", "22", Some("-x")),
            ("h", "22", Some("a$(x)")),
            ("h", "22", Some("")),
        ] {
            assert!(arguments(&options(host, port, user)).is_err(), "{host} {port} {user:?}");
        }
        let refused = |port| arguments(&options("h", port, None)).unwrap_err().desc().to_owned();
        assert_eq!(refused("0"), "Failed to connect to 'h:0': Connection refused");
        assert_eq!(refused("0.42"), "Parameter 'port' expects a number");
    }

    #[test]
    fn hashes_are_brought_into_form() {
        use SshHostKeyCheckHashType::*;
        let of = |ty, hash: &str| digits(&SshHostKeyHash { r#type: ty, hash: hash.into() });
        assert_eq!(of(Md5, &"aB:".repeat(16)), Some("ab".repeat(16)));
        assert_eq!(of(Sha1, &"0".repeat(40)), Some("0".repeat(40)));
        assert_eq!(of(Sha256, &"0".repeat(40)), None);
        assert_eq!(of(Md5, &"'; x".repeat(8)), None);
        // What is no hash never gets into the command.
        let args = arguments(&hashed(Md5, "'$(x)'")).unwrap();
        let command = args.iter().find(|a| a.starts_with("KnownHostsCommand")).unwrap();
        assert!(command.ends_with(" md5sum -"), "{command}");
    }

    /// The comparison itself, with what `ssh` puts in.
    #[test]
    fn keys_are_compared() {
        // "key" in base64, and its hash.
        let (key, hash) = ("a2V5", "3c6e0b8a9c15224a8228b9a98ca1531d");
        let run = |key: &str, wanted: &str| {
            let script = COMPARE.replace("%%", "%");
            let args = ["-c", &script, "sh", "[h]:1", "t", key, "md5sum", wanted];
            let done = Command::new("/bin/sh").args(args).output().unwrap();
            [done.stdout, done.stderr].map(|b| String::from_utf8(b).unwrap())
        };
        assert_eq!(run(key, hash), [format!("[h]:1 t {key}\n"), String::new()]);
        assert_eq!(run(key, "-"), [String::new(), format!("{OTHER_KEY}t {hash}\n")]);
        assert_eq!(run("NONE", hash), ["", ""]);
    }

    #[test]
    fn failures_are_explained() {
        let o = options("h", "22", None);
        let md5 = hashed(SshHostKeyCheckHashType::Md5, "00:11");
        for (o, said, want) in [
            (
                &o,
                "ssh: connect to host h port 22: Connection refused\r\n",
                "Failed to connect to 'h:22': Connection refused",
            ),
            (
                &o,
                "ssh: Could not resolve hostname h: Name or service not known\n",
                "address resolution failed for h:22: Name or service not known",
            ),
            (
                &md5,
                "rhea: the host key is ssh-ed25519 aabb\nNo ED25519 host key is known for h and you have\n",
                "remote host ssh-ed25519 key fingerprint 'md5:aabb' does not match host_key_check 'md5:00:11'",
            ),
            (
                &o,
                "No ED25519 host key is known for h and you\nHost key verification failed.\n",
                "no host key was found in known_hosts",
            ),
            (
                &o,
                "x\nme@h: Permission denied (publickey).\n",
                "failed to authenticate using publickey authentication and the identities held by your ssh-agent",
            ),
            (
                &o,
                "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nThe fingerprint for the ED25519 key sent by the remote \
                 host is\nSHA256:abc.\nx\n",
                "host key (ssh-ed25519 key with fingerprint SHA256:abc) does not match the one in known_hosts; this may be a \
                 possible attack",
            ),
            (&o, "a\nb\x1b[1m\n\n", "failed to establish SSH session: b[1m"),
            (&o, "", "failed to establish SSH session: the connection was closed"),
        ] {
            assert_eq!(explained(said, o).desc(), want);
        }
    }
}
