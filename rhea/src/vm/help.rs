//! The help text and the version of the system emulator.

use super::options::{Group, OPTIONS, Takes};

/// The text of `-h`, for a program called `program`.
pub(crate) fn text(program: &str) -> String {
    let mut out = format!("usage: {program} [options] [disk_image]\n\n");
    out += "Runs a virtual machine. It takes QEMU's options; one that QEMU has and Rhea has not yet is an error\n";
    out += "that says so. 'disk_image' is a disk, as -hda takes it.\n";
    for (group, title) in Group::ALL {
        out += &format!("\n{title}:\n");
        for o in OPTIONS.iter().filter(|o| o.group == group && o.canonical == o.name) {
            let Some(help) = o.help else { continue };
            let names: Vec<String> = std::iter::once(o.name)
                .chain(OPTIONS.iter().filter(|a| a.canonical == o.name && a.name != o.name).map(|a| a.name))
                .map(|n| format!("-{n}"))
                .collect();
            let mut left = names.join(", ");
            if o.takes == Takes::Value {
                left += &format!(" {}", o.form);
            }
            if left.chars().count() < 30 {
                out += &format!("  {left:<30}{help}\n");
            } else {
                out += &format!("  {left}\n  {:<30}{help}\n", "");
            }
        }
    }
    out += "\nOn the console of -nographic, C-a h tells the keys.\n";
    out
}

/// The text of `-version`: the first line is of the form that scripts of QEMU's users parse.
pub(crate) fn version() -> String {
    format!(
        "QEMU emulator version 10.0.2 (Rhea {})\nMIT OR Apache-2.0; QEMU is another project\n",
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_that_works_stands_in_the_help_text() {
        let help = text("rhea vm");
        for o in OPTIONS {
            let listed = help.contains(&format!("-{} ", o.name))
                || help.contains(&format!("-{}\n", o.name))
                || help.contains(&format!("-{},", o.name));
            assert_eq!(listed, o.help.is_some(), "-{}", o.name);
        }
    }
}
