//! What `-D`, `-d` and `-trace` say.

use super::config::{Config, at};
use crate::process::add_patterns;

/// Sets the log up; an error is a message without the program's name.
pub(crate) fn set_up(config: &Config) -> Result<(), String> {
    trace::set_timestamps(config.timestamps);
    if let Some(file) = &config.log_file {
        trace::open_file(&file.to_string_lossy())?;
    }
    let mut items = Vec::new();
    let mut patterns = trace::Patterns::default();
    for g in &config.log_items {
        let (some, more) = trace::parse(&g.value).map_err(|e| at(g, e))?;
        items.extend(some);
        more.iter().for_each(|p| patterns.push(p));
    }
    for g in &config.traces {
        add_patterns(&g.value, &mut patterns).map_err(|e| at(g, e))?;
    }
    trace::set_items(&items);
    if !patterns.is_empty() {
        trace::select(patterns);
    }
    Ok(())
}
