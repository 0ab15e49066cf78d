//! Which program the binary is this time: by the name it was called, or by its first argument.

/// A guest architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    Riscv64,
}

impl Arch {
    const ALL: &[(&str, Arch)] = &[("riscv64", Arch::Riscv64)];

    fn find(name: &str) -> Result<Arch, String> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, a)| *a).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(n, _)| *n).collect();
            format!("there is no architecture '{name}' yet; there is: {}", names.join(", "))
        })
    }
}

/// A program that the binary can be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Personality {
    /// A system emulator; `program` begins its messages.
    System { arch: Arch, program: String },
    /// The image tool.
    Img { program: String },
    /// The NBD server for one image.
    Nbd { program: String },
    /// Requests to an image by hand.
    Io { program: String },
    /// The storage daemon.
    StorageDaemon { program: String },
    /// The overview.
    Help,
    /// The version.
    Version,
}

/// Chooses by the name that the binary was called by and its arguments, and takes those away that it used.
pub(crate) fn choose(called: &str, args: &mut Vec<String>) -> Result<Personality, String> {
    let name = called.rsplit('/').next().unwrap_or(called).to_string();
    if let Some(arch) = name.strip_prefix("qemu-system-") {
        return Ok(Personality::System { arch: Arch::find(arch)?, program: name });
    }
    if name == "qemu-img" {
        return Ok(Personality::Img { program: name });
    }
    if name == "qemu-nbd" {
        return Ok(Personality::Nbd { program: name });
    }
    if name == "qemu-io" {
        return Ok(Personality::Io { program: name });
    }
    if name == "qemu-storage-daemon" {
        return Ok(Personality::StorageDaemon { program: name });
    }
    if args.is_empty() {
        return Ok(Personality::Help);
    }
    let command = args.remove(0);
    match command.as_str() {
        "vm" => {
            let Some(at) =
                args.iter().position(|a| a == "--arch" || a == "-arch" || a.starts_with("--arch="))
            else {
                return Err("vm: which architecture? Say '--arch riscv64'".into());
            };
            let arch = match args[at].split_once('=') {
                Some((_, name)) => name.to_string(),
                None if at + 1 < args.len() => args.remove(at + 1),
                None => return Err("vm: --arch requires an argument".into()),
            };
            args.remove(at);
            Ok(Personality::System { arch: Arch::find(&arch)?, program: "rhea vm".into() })
        }
        "img" => Ok(Personality::Img { program: "rhea img".into() }),
        "nbd" => Ok(Personality::Nbd { program: "rhea nbd".into() }),
        "io" => Ok(Personality::Io { program: "rhea io".into() }),
        "storage-daemon" => Ok(Personality::StorageDaemon { program: "rhea storage-daemon".into() }),
        "help" | "-h" | "--help" | "-help" => Ok(Personality::Help),
        "version" | "-V" | "--version" | "-version" => Ok(Personality::Version),
        other => Err(format!("there is no command '{other}'; 'rhea help' lists them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(called: &str, args: &str) -> Result<(Personality, Vec<String>), String> {
        let mut args: Vec<String> = args.split_whitespace().map(String::from).collect();
        Ok((choose(called, &mut args)?, args))
    }

    #[test]
    fn a_qemu_name_decides() {
        let system = |p: &str| Personality::System { arch: Arch::Riscv64, program: p.into() };
        assert_eq!(
            of("/usr/bin/qemu-system-riscv64", "-S").unwrap(),
            (system("qemu-system-riscv64"), vec!["-S".into()])
        );
        assert_eq!(of("qemu-img", "info x").unwrap().0, Personality::Img { program: "qemu-img".into() });
        assert_eq!(of("qemu-nbd", "x").unwrap().0, Personality::Nbd { program: "qemu-nbd".into() });
        assert_eq!(of("/y/qemu-io", "-c quit").unwrap().0, Personality::Io { program: "qemu-io".into() });
        assert_eq!(
            of("/x/qemu-storage-daemon", "-h").unwrap().0,
            Personality::StorageDaemon { program: "qemu-storage-daemon".into() }
        );
        assert!(of("qemu-system-vax", "").unwrap_err().contains("no architecture 'vax'"));
    }

    #[test]
    fn otherwise_the_first_argument_does() {
        let system = Personality::System { arch: Arch::Riscv64, program: "rhea vm".into() };
        assert_eq!(
            of("rhea", "vm -S --arch riscv64 -m 1").unwrap(),
            (system, ["-S", "-m", "1"].map(String::from).into())
        );
        assert!(of("rhea", "vm -S").is_err());
        assert!(of("rhea", "frobnicate").is_err());
        assert_eq!(of("rhea", "").unwrap().0, Personality::Help);
    }
}
