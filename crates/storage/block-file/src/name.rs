//! File names on command lines.

/// The path that `name` means where a file name (not an option of its own) is given: without a leading `file:`,
/// which lets a path contain a colon. `filename=` of `blockdev-add` is a path as it stands.
pub fn strip_prefix(name: &str) -> &str {
    name.strip_prefix("file:").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::strip_prefix;

    #[test]
    fn only_one_prefix_goes() {
        assert_eq!(strip_prefix("file:a:b"), "a:b");
        assert_eq!(strip_prefix("file:file:a"), "file:a");
        assert_eq!(strip_prefix("/x/file:a"), "/x/file:a");
    }
}
