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
            "d" if value.split(',').any(is_help) => trace::help(),
            "trace" if is_help(value) => TRACE_HELP.into(),
            _ => continue,
        };
        return Ok(Some(text));
    }
    Ok(None)
}
