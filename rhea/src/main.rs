//! The binary: command lines and personalities, and the wiring of what the crates offer. Nothing else lives here.

// `base::print` does not panic where nobody reads.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod nbd;
mod personality;
mod process;
mod storage;
mod storage_daemon;
mod vm;

use std::process::ExitCode;

use personality::Personality;

const HELP: &str = "\
usage: rhea COMMAND [arguments]

  rhea vm --arch riscv64 [options]   runs a virtual machine; 'rhea vm --arch riscv64 -h' lists the options
  rhea img COMMAND [options]         creates, shows and checks disk images; 'rhea img --help' tells more
  rhea io [options] [image]          makes requests to a disk image by hand; 'rhea io --help' tells more
  rhea nbd [options] FILE            serves a disk image over NBD; 'rhea nbd --help' tells more
  rhea storage-daemon [options]      serves block devices, with QMP; 'rhea storage-daemon --help' tells more
  rhea --version                     prints the version

Called by the name of a QEMU program (qemu-system-riscv64, qemu-img, qemu-io, qemu-nbd, qemu-storage-daemon; a link is
enough), it takes that program's command line.
";

fn main() -> ExitCode {
    let mut args = match std::env::args_os().map(|a| a.into_string()).collect::<Result<Vec<_>, _>>() {
        Ok(args) => args,
        Err(bad) => {
            base::print_error(&format!("rhea: the argument {bad:?} is not UTF-8\n"));
            return ExitCode::from(1);
        }
    };
    if let Err(e) = block::Policy::of_environment() {
        base::print_error(&format!("rhea: {e}\n"));
        return ExitCode::from(1);
    }
    let called = if args.is_empty() { "rhea".to_string() } else { args.remove(0) };
    let code = match personality::choose(&called, &mut args) {
        Ok(Personality::System { arch, program }) => vm::main(&program, arch, &args),
        Ok(Personality::Img { program }) => image::img::main_as(&program, &args),
        Ok(Personality::Nbd { program }) => nbd::main(&program, &args),
        Ok(Personality::Io { program }) => image::io::main_as(&program, &args),
        Ok(Personality::StorageDaemon { program }) => storage_daemon::main(&program, &args),
        Ok(Personality::Help) => {
            base::print(HELP);
            0
        }
        Ok(Personality::Version) => {
            base::print(concat!("rhea ", env!("CARGO_PKG_VERSION"), " (compatible with QEMU 10.0)\n"));
            0
        }
        Err(message) => {
            base::print_error(&format!("rhea: {message}\n"));
            1
        }
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
