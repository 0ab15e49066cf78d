//! The argument of `-trace`.

/// Adds the patterns that an argument of `-trace` gives (`[enable=]PATTERN[,events=FILE][,file=FILE]`), and opens the
/// file that it names.
pub(crate) fn add_patterns(argument: &str, patterns: &mut trace::Patterns) -> Result<(), String> {
    for (key, value) in qapi::opts_parse(argument, Some("enable")) {
        match key.as_str() {
            "enable" => patterns.push(&value),
            "events" => {
                let text =
                    std::fs::read_to_string(&value).map_err(|e| format!("failed to open {value}: {e}"))?;
                trace::parse_events_file(&text).iter().for_each(|p| patterns.push(p));
            }
            "file" => trace::open_file(&value)?,
            _ => return Err(format!("Invalid parameter '{key}'")),
        }
    }
    Ok(())
}

/// What `-trace help` tells.
pub(crate) const HELP: &str = "\
A pattern selects trace points by name or by the module they stand in; '*' and '?' are wild cards,
and a leading '-' leaves out. For example: -trace 'virtio*' -trace -virtio_mmio*
";
