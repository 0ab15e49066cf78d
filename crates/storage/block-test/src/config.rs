//! The file with rules that `blkdebug` may be given.

use api::block_core::{BlkdebugInjectErrorOptions, BlkdebugSetStateOptions};
use qapi::{Dict, QError, from_keyval_dict, qerr};

/// The longest file that is read, bytes.
const MAX: u64 = 1 << 20;

/// Rules of both kinds.
pub(crate) type Both = (Vec<BlkdebugInjectErrorOptions>, Vec<BlkdebugSetStateOptions>);

/// Reads a file's rules.
///
/// # Errors
/// It cannot be read, or is malformed.
pub(crate) fn read(path: &str) -> Result<Both, QError> {
    let failed = |e: std::io::Error| qerr!("Could not read blkdebug config file: {}", base::Errno::from(e));
    let meta = std::fs::metadata(path).map_err(failed)?;
    if meta.len() > MAX {
        return Err(qerr!("Could not read blkdebug config file: it is too long"));
    }
    parse(&std::fs::read_to_string(path).map_err(failed)?)
}

fn parse(text: &str) -> Result<Both, QError> {
    let mut sections: Vec<(String, Dict)> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let wrong = || qerr!("Could not parse blkdebug config file: line {}", i + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').ok_or_else(wrong)?;
            sections.push((name.trim().to_owned(), Dict::new()));
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(wrong)?;
        let value = value.trim().strip_prefix('"').and_then(|v| v.strip_suffix('"')).ok_or_else(wrong)?;
        let (_, dict) = sections.last_mut().ok_or_else(wrong)?;
        dict.insert(key.trim().to_owned(), value.to_owned());
    }
    let (mut errors, mut states) = (Vec::new(), Vec::new());
    for (name, dict) in sections {
        match name.as_str() {
            "inject-error" => errors.push(from_keyval_dict(dict)?),
            "set-state" => states.push(from_keyval_dict(dict)?),
            _ => return Err(qerr!("Could not parse blkdebug config file: unknown section '{name}'")),
        }
    }
    Ok((errors, states))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::block_core::BlkdebugEvent;

    #[test]
    fn two_sections() {
        let text = "# rules\n[inject-error]\nevent = \"read_aio\"\nerrno = \"28\"\nonce = \"on\"\n\n\
                    [set-state]\nevent = \"pwritev\"\nstate = \"1\"\nnew_state = \"2\"\n";
        let (errors, states) = parse(text).unwrap();
        assert_eq!((errors[0].errno, errors[0].once), (Some(28), Some(true)));
        assert_eq!((states[0].event, states[0].new_state), (BlkdebugEvent::Pwritev, 2));
    }

    #[test]
    fn malformed_ones() {
        for bad in [
            "x = \"1\"",
            "[a",
            "[inject-error]\nevent",
            "[other]",
            "[inject-error]\nevent = \"none\"\nx = \"1\"",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
