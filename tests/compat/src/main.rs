//! The image tools alone: the program that the cases run under the reference's names. Quicker to build than the whole
//! binary, which `RHEA_BIN` puts in its place.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args();
    let called = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    let name = called.rsplit('/').next().unwrap_or_default();
    let code = match name {
        "qemu-img" => image::img::main_as(name, &args),
        "qemu-io" => image::io::main_as(name, &args),
        _ => {
            eprintln!("{name}: no such tool");
            1
        }
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
