//! What images may make the program do, and what their users allow them.

use qapi::{QError, qerr};

use crate::filename::prefix;

/// The variable of the environment by which users say which files the headers of images may have opened: `none`; `plain`, those
/// of plain names, unless it is set; or `any`, those that URLs and `json:` name too.
const VARIABLE: &str = "RHEA_IMAGE_FILES";

/// What images may make this program do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A header may have its backing file opened where the user said nothing of one. Where not, such an image is refused;
    /// with `no_io` it is open without the files that its header names.
    pub allow_implicit_children: bool,
    /// Where a header names a backing file without its format, the format is guessed from the file's first bytes.
    pub probe_implicit: bool,
    /// Headers may name their backing files in other ways than by a plain file name: by the URL of a protocol or `json:`.
    /// An image that is not trusted could have any file and any server opened by that.
    pub implicit_protocols: bool,
    /// Longest chain of nodes that one request may open.
    pub max_depth: usize,
    /// Nodes are opened to tell about their images only: no data is read, so that no key is needed.
    pub no_io: bool,
    /// Nodes may have names that begin with `#`, as those have that nobody named: for programs that name nodes themselves
    /// and whose users see none.
    pub own_names: bool,
    /// The graph is a machine's: images with the old encryption of qcow and qcow2 are refused.
    pub machine: bool,
    /// Nodes are opened to be checked: an image that is not sound stays as it is until the check.
    pub checking: bool,
    /// What images keep of dirty bitmaps is brought up to date when they close, and out of date before that: for programs
    /// that have done nothing until all is closed.
    pub late_bitmaps: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            allow_implicit_children: true,
            probe_implicit: true,
            implicit_protocols: false,
            max_depth: 200,
            no_io: false,
            own_names: false,
            machine: false,
            checking: false,
            late_bitmaps: false,
        }
    }
}

impl Policy {
    /// The usual policy with what the user allows by the environment variable `RHEA_IMAGE_FILES`.
    ///
    /// # Errors
    /// Its value is none of `none`, `plain` and `any`.
    pub fn of_environment() -> Result<Policy, QError> {
        let Some(value) = std::env::var_os(VARIABLE) else { return Ok(Policy::default()) };
        let value = value.to_string_lossy();
        Policy::allowing(&value)
            .ok_or_else(|| qerr!("{VARIABLE} is '{value}', but must be 'none', 'plain' or 'any'"))
    }

    /// The one under which headers may have no file opened.
    pub fn strict() -> Policy {
        Policy { allow_implicit_children: false, ..Policy::default() }
    }

    /// Whether a header may have a file of this name opened as the image's backing file.
    ///
    /// # Errors
    /// It may not.
    pub fn check_name(&self, name: &str) -> Result<(), QError> {
        if !self.allow_implicit_children {
            return Err(qerr!(
                "The image names the backing file '{name}', but images may not have other files opened; give 'backing'"
            ));
        }
        if !self.implicit_protocols && prefix(name).is_some_and(|p| p != "file") {
            return Err(no_plain_name(name));
        }
        Ok(())
    }

    /// The usual policy with `files` allowed to headers, as the variable has it.
    fn allowing(files: &str) -> Option<Policy> {
        let usual = Policy::default();
        Some(match files {
            "none" => Policy::strict(),
            "plain" => usual,
            "any" => Policy { implicit_protocols: true, ..usual },
            _ => return None,
        })
    }
}

/// The error for a name in a header that is no plain one.
pub(crate) fn no_plain_name(name: &str) -> QError {
    qerr!("The image names '{name}', which is no plain file name").with_hint(
        "If you trust whoever made the image, RHEA_IMAGE_FILES=any in the environment allows this.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_say_what_headers_may_name() {
        let of = |v| Policy::allowing(v).map(|p| (p.allow_implicit_children, p.implicit_protocols));
        assert_eq!(of("none"), Some((false, false)));
        assert_eq!(of("plain"), Some((true, false)));
        assert_eq!(of("any"), Some((true, true)));
        assert_eq!(of(""), None);
        assert_eq!(Policy::allowing("plain"), Some(Policy::default()));
    }
}
