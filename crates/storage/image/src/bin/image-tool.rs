//! `rhea img` alone, for tests of what starts itself anew; and what tries to get out of the sandbox of `rhea img inspect`.

use image::inspect::sandbox::{Bounds, close_calls, close_files};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let code = match args.first().map(String::as_str) {
        Some("img") => image::img::main(&args[1..]),
        Some("escape") => escape(args.get(1).map_or("", String::as_str)),
        _ => 1,
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Tries one thing that the sandbox forbids. 0: it was kept from it; 1: it was not; it may also be ended for it. `early` is
/// what comes before an attempt that is made before calls are forbidden.
fn escape(what: &str) -> i32 {
    let stdin = std::io::stdin();
    let force = close_files(stdin.as_fd(), Bounds { memory: 1 << 30, seconds: 2 });
    println!("limits={} landlock={}", force.limits, force.landlock);
    let (early, what) = match what.strip_prefix("early-") {
        Some(w) => (true, w),
        None => (false, what),
    };
    if !early && !close_calls() {
        println!("no seccomp");
        return 1;
    }
    let kept = match what {
        "open" => std::fs::File::open("/etc/passwd").is_err(),
        "write" => std::fs::File::create(std::env::temp_dir().join("rhea-escape")).is_err(),
        "connect" => std::net::TcpStream::connect("127.0.0.1:9")
            .is_err_and(|e| e.raw_os_error() != Some(libc::ECONNREFUSED)),
        // In the place of this process; it only comes back where it failed.
        "exec" => std::process::Command::new("/bin/true").exec().kind() != std::io::ErrorKind::NotFound,
        "fork" => std::process::Command::new("/bin/true").status().is_err(),
        "thread" => {
            std::thread::spawn(|| std::fs::File::open("/etc/passwd").is_err()).join().unwrap_or(false)
        }
        // What it may do.
        "read" => std::io::stdin().read(&mut [0; 16]).is_ok_and(|n| n == 16),
        "memory" => {
            let v = vec![1u8; 2 << 30];
            v.iter().map(|b| u64::from(*b)).sum::<u64>() == 0
        }
        "spin" => loop {
            std::hint::spin_loop();
        },
        _ => false,
    };
    i32::from(!kept)
}
