//! Options that ask for a list instead of starting a machine: `-machine help`, `-device X,help` and the like.

use device::Registry;
use machine::options;

use super::config::at;
use super::parse::Given;
use crate::process::TRACE_HELP;
use crate::storage::CHARDEV_HELP;

/// The device types of all crates.
pub(crate) fn devices() -> Registry {
    Registry::new(virtio::DEVICES.iter().copied())
}

fn is_help(word: &str) -> bool {
    word == "help" || word == "?"
}

/// Whether an argument is `NAME,help`, and the name.
fn help_about(value: &str) -> Option<&str> {
    let (name, rest) = value.split_once(',')?;
    rest.split(',').any(is_help).then_some(name)
}

/// The drivers that a drive may have, to be written to and to be read.
fn drive_formats() -> String {
    let mut names: Vec<&str> = crate::storage::drivers().iter().map(|d| d.name).collect();
    names.sort_unstable();
    let names = names.join(" ");
    format!("Supported formats: {names}\nSupported formats (read-only): {names}\n")
}

/// The text that the first such option asks for.
pub(crate) fn answer(given: &[Given]) -> Result<Option<String>, String> {
    for g in given {
        let value = g.value.as_str();
        let text = match g.name {
            "machine" if is_help(value.strip_prefix("type=").unwrap_or(value)) => options::machine_help(),
            "machine" if help_about(value) == Some("virt") => options::virt_help().into(),
            "cpu" if is_help(value) => options::cpu_help().into(),
            "accel" if is_help(value) => "Accelerators supported in QEMU binary:\ntcg\n".into(),
            "device" if is_help(value.strip_prefix("driver=").unwrap_or(value)) => devices().help(),
            "device" if let Some(name) = help_about(value) => {
                let name = name.strip_prefix("driver=").unwrap_or(name);
                devices().find(name).map_err(|e| at(g, e.desc()))?.help()
            }
            "object" if is_help(value) => qom::help(),
            "object" if let Some(name) = help_about(value) => {
                qom::type_help(name.strip_prefix("qom-type=").unwrap_or(name)).map_err(|e| at(g, e.desc()))?
            }
            "chardev" if is_help(value) => CHARDEV_HELP.into(),
            "drive" if value.split(',').filter_map(|m| m.strip_prefix("format=")).any(is_help) => {
                drive_formats()
            }
            "d" if value.split(',').any(is_help) => trace::help(),
            "trace" if is_help(value) => TRACE_HELP.into(),
            _ => continue,
        };
        return Ok(Some(text));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_tells_the_formats_that_there_are() {
        let ask =
            |value: &str| answer(&super::super::parse::parse(&["-drive".into(), value.into()]).unwrap());
        let text = ask("file=x,format=help").unwrap().unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].starts_with("Supported formats: blkdebug ") && lines[0].contains(" qcow2 "),
            "{text}"
        );
        assert!(lines[1].starts_with("Supported formats (read-only): "), "{text}");
        assert_eq!(lines.len(), 2);
        assert_eq!(ask("file=x,format=raw"), Ok(None));
    }
}
