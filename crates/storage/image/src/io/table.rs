//! The commands: their names, arguments and help.

use super::session::{Done, Session};
use std::future::Future;
use std::pin::Pin;

/// What a command is doing; it has printed its text when it ends.
pub(super) type Running<'a> = Pin<Box<dyn Future<Output = Done> + 'a>>;

/// One command.
pub(super) struct Command {
    /// Its name.
    pub(super) name: &'static str,
    /// Its short name.
    pub(super) short: Option<&'static str>,
    /// The fewest and the most words behind it; `None`: as many as one likes.
    pub(super) words: (usize, Option<usize>),
    /// What it needs.
    pub(super) needs: Needs,
    /// Its arguments, for help.
    pub(super) args: Option<&'static str>,
    /// What it does, in one line.
    pub(super) line: &'static str,
    /// More about it.
    pub(super) more: &'static str,
    /// Does it.
    pub(super) run: for<'a> fn(&'a mut Session, Words<'a>) -> Running<'a>,
}

/// The words behind a command, and itself.
pub(super) struct Words<'a> {
    /// The command.
    pub(super) command: &'static Command,
    /// By which of its names it was called.
    pub(super) called: &'a str,
    /// The words.
    pub(super) words: &'a [String],
}

/// What must be there for a command to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing.
    Nothing,
    /// An open image.
    Image,
    /// An open image that may be written.
    Writing,
}

impl Command {
    /// One line of help.
    pub(super) fn usage(&self) -> String {
        match self.args {
            Some(args) => format!("{} {args} -- {}", self.name, self.line),
            None => format!("{} -- {}", self.name, self.line),
        }
    }
}

/// The command of this name.
pub(super) fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|c| c.name == name || c.short == Some(name))
}

macro_rules! commands {
    ($($name:literal $(/ $short:literal)?, $min:literal .. $max:expr, $needs:ident, $args:expr, $line:literal, $run:path, $more:literal;)*) => {
        /// All of them, by name.
        pub(super) static COMMANDS: &[Command] = &[$(Command {
            name: $name,
            short: commands!(@short $($short)?),
            words: ($min, $max),
            needs: Needs::$needs,
            args: $args,
            line: $line,
            more: $more,
            run: |s, w| Box::pin($run(s, w)),
        }),*];
    };
    (@short) => { None };
    (@short $short:literal) => { Some($short) };
}

use super::{data, debug, graph, other, zones};

commands! {
    "abort", 0 .. Some(0), Nothing, None, "simulate a program crash using abort(3)", other::abort, "";
    "aio_flush", 0 .. Some(0), Image, None, "completes all outstanding aio requests", data::aio_flush, "";
    "aio_read", 2 .. None, Image, Some("[-Ciqrv] [-P pattern] off len [len..]"), "asynchronously reads a number of bytes", data::aio_read,
        "Starts a read and goes on. What comes of it is printed when it ends, at the latest with aio_flush; an error or a\nwrong pattern does not make the program fail.\n\n  -P PATTERN  every byte must be this one\n  -v          show the bytes\n  -C          numbers only, for programs\n  -q          print nothing of a request that went well\n  -i          count a request that makes no sense, and do nothing\n  -r          accepted for compatibility\n";
    "aio_write", 2 .. None, Writing, Some("[-Cfiqruz] [-P pattern] off len [len..]"), "asynchronously writes a number of bytes", data::aio_write,
        "Starts a write and goes on; see aio_read.\n\n  -P PATTERN  the byte to write (0xcd otherwise)\n  -z          make the range read as zeroes\n  -u          with -z: space may be given back\n  -f          stable when it ends\n  -C          numbers only, for programs\n  -q          print nothing of a request that went well\n  -i          count a request that makes no sense, and do nothing\n  -r          accepted for compatibility\n";
    "alloc", 1 .. Some(2), Image, Some("offset [count]"), "checks if offset is allocated in the file", graph::alloc, "";
    "break", 2 .. Some(2), Image, Some("event tag"), "sets a breakpoint on event and tags the stopped request as tag", debug::set, "";
    "close"/"c", 0 .. Some(0), Image, None, "close the current open file", graph::close, "";
    "discard"/"d", 2 .. None, Writing, Some("[-Cq] off len"), "discards a number of bytes at a specified offset", data::discard,
        "The bytes do not matter any more: space may be given back.\n\n  -C          numbers only, for programs\n  -q          print nothing\n";
    "flush"/"f", 0 .. Some(0), Image, None, "flush all in-core file state to disk", data::flush, "";
    "help"/"?", 0 .. Some(1), Nothing, Some("[command]"), "help for one or all commands", other::help, "";
    "info"/"i", 0 .. Some(0), Image, None, "prints information about the current file", graph::info, "";
    "length"/"l", 0 .. Some(0), Image, None, "gets the length of the current file", graph::length, "";
    "map", 0 .. Some(0), Image, Some(""), "prints the allocated areas of a file", graph::map, "";
    "open"/"o", 1 .. None, Nothing, Some("[-rsCnkU] [-t cache] [-d discard] [-o options] [path]"), "open the file specified by path", graph::open,
        "Opens an image for the commands that follow.\n\n  -r          for reading only\n  -s          what is written goes to a file that is lost in the end\n  -C          what is read from a backing file is kept\n  -n          without the host's cache: -t none\n  -U          beside somebody who writes\n  -k          -i native\n  -i MODE     how the host is asked: threads, native, io_uring\n  -t MODE     how the host's cache is used\n  -d MODE     what becomes of discards: ignore, unmap\n  -o A=B,...  options of the block node\n";
    "quit"/"q", 0 .. None, Nothing, None, "exit the program", other::quit, "";
    "read"/"r", 2 .. None, Image, Some("[-abCqrv] [-P pattern [-s off] [-l len]] off len"), "reads a number of bytes at a specified offset", data::read,
        "Reads, and shows or checks what was read.\n\n  -P PATTERN  every byte must be this one\n  -s OFFSET   check from here on, counted from the first byte that was read\n  -l LENGTH   check that many bytes\n  -v          show the bytes\n  -b          from the state of a virtual machine instead of the disk\n  -C          numbers only, for programs\n  -q          print nothing of a request that went well\n  -p, -r      accepted for compatibility\n";
    "readv", 2 .. None, Image, Some("[-Cqrv] [-P pattern] off len [len..]"), "reads a number of bytes at a specified offset", data::readv,
        "Reads one range into several pieces of memory; see read.\n\n  -P PATTERN  every byte must be this one\n  -v          show the bytes\n  -C          numbers only, for programs\n  -q          print nothing of a request that went well\n  -r          accepted for compatibility\n";
    "remove_break", 1 .. Some(1), Image, Some("tag"), "remove a breakpoint by tag", debug::remove, "";
    "reopen", 0 .. None, Image, Some("[(-r|-w)] [-c cache] [-o options]"), "reopens an image with new options", graph::reopen,
        "Changes options of the image that is open. What is not named stays as it is.\n\n  -r          for reading only\n  -w          for writing\n  -c MODE     how the host's cache is used\n  -o A=B,...  options of the block node\n";
    "resume", 1 .. Some(1), Image, Some("tag"), "resumes the request tagged as tag", debug::resume, "";
    "sigraise", 1 .. Some(1), Nothing, Some("signal"), "raises a signal", other::sigraise,
        "Sends this process the signal of that number.\n";
    "sleep", 1 .. Some(1), Nothing, None, "waits for the given value in milliseconds", other::sleep, "";
    "truncate"/"t", 1 .. Some(3), Writing, Some("[-m prealloc_mode] off"), "truncates the current file at the given offset", data::truncate, "";
    "wait_break", 1 .. Some(1), Image, Some("tag"), "waits for the suspension of a request", debug::wait, "";
    "write"/"w", 2 .. None, Writing, Some("[-bcCfnqruz] [-P pattern | -s source_file] off len"), "writes a number of bytes at a specified offset", data::write,
        "Writes.\n\n  -P PATTERN  the byte to write (0xcd otherwise)\n  -s FILE     write what stands in this file, again and again\n  -z          make the range read as zeroes\n  -u          with -z: space may be given back\n  -n          with -z: fail rather than write zeroes byte by byte\n  -c          compressed\n  -b          to the state of a virtual machine instead of the disk\n  -f          stable when it ends\n  -C          numbers only, for programs\n  -q          print nothing of a request that went well\n  -p, -r      accepted for compatibility\n";
    "writev", 2 .. None, Writing, Some("[-Cfqr] [-P pattern] off len [len..]"), "writes a number of bytes at a specified offset", data::writev,
        "Writes one range from several pieces of memory; see write.\n\n  -P PATTERN  the byte to write (0xcd otherwise)\n  -f          stable when it ends\n  -C          numbers only, for programs\n  -q          print nothing of a request that went well\n  -r          accepted for compatibility\n";
    "zone_append"/"zap", 3 .. Some(4), Writing, Some("offset len [len..]"), "append write a number of bytes at a specified offset", zones::append, "";
    "zone_close"/"zc", 2 .. Some(2), Writing, Some("offset len"), "close a range of zones in zone block device", zones::close, "";
    "zone_finish"/"zf", 2 .. Some(2), Writing, Some("offset len"), "finish a range of zones in zone block device", zones::finish, "";
    "zone_open"/"zo", 2 .. Some(2), Writing, Some("offset len"), "explicit open a range of zones in zone block device", zones::open, "";
    "zone_report"/"zrp", 2 .. Some(2), Image, Some("offset number"), "report zone information", zones::report, "";
    "zone_reset"/"zrs", 2 .. Some(2), Writing, Some("offset len"), "reset a zone write pointer in zone block device", zones::reset, "";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(COMMANDS.windows(2).all(|w| w[0].name < w[1].name));
        let shorts: Vec<_> = COMMANDS.iter().filter_map(|c| c.short).collect();
        for (i, s) in shorts.iter().enumerate() {
            assert!(!shorts[..i].contains(s) && COMMANDS.iter().all(|c| c.name != *s), "{s}");
        }
        assert_eq!(find("zrp").unwrap().usage(), "zone_report offset number -- report zone information");
    }
}
