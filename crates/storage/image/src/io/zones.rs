//! Commands for zoned devices.

use super::data::{FILL, pieces};
use super::session::{Done, Session};
use super::table::Words;
use block::zoned::{Zone, ZoneOp};
use mem::IoBuf;

/// What a zone is like, in sectors of 512 bytes.
fn line(z: &Zone) -> String {
    format!(
        "start: {:#x}, len {:#x}, cap {:#x}, wptr {:#x}, zcond:{}, [type: {}]",
        z.start / 512,
        z.len / 512,
        z.capacity / 512,
        z.write_pointer / 512,
        z.condition as u8,
        z.kind as u8
    )
}

/// The two sizes that a command has.
fn sizes(s: &Session, w: &Words<'_>) -> Result<(u64, u64), Done> {
    let [first, second] = w.words else { return Err(s.usage(w.command)) };
    Ok((s.size(first)?, s.size(second)?))
}

pub(super) async fn report(s: &mut Session, w: Words<'_>) -> Done {
    report_inner(s, w).await.unwrap_or_else(|failed| failed)
}

async fn report_inner(s: &Session, w: Words<'_>) -> Result<Done, Done> {
    let (offset, count) = sizes(s, &w)?;
    let count = u32::try_from(count).map_err(|_| s.fail("Number of zones must be less than 2^32"))?;
    let zones = s.root()?.zone_report(offset, count).await;
    for zone in zones.map_err(|e| s.fail(&format!("zone report failed: {e}")))? {
        s.text.line(&line(&zone));
    }
    Ok(Done::Well)
}

async fn manage(s: &Session, w: Words<'_>, op: ZoneOp, what: &str) -> Result<Done, Done> {
    let (offset, len) = sizes(s, &w)?;
    let done = s.root()?.zone_manage(op, offset, len).await;
    done.map_err(|e| s.fail(&format!("zone {what} failed: {e}")))?;
    Ok(Done::Well)
}

pub(super) async fn open(s: &mut Session, w: Words<'_>) -> Done {
    manage(s, w, ZoneOp::Open, "open").await.unwrap_or_else(|failed| failed)
}

pub(super) async fn close(s: &mut Session, w: Words<'_>) -> Done {
    manage(s, w, ZoneOp::Close, "close").await.unwrap_or_else(|failed| failed)
}

pub(super) async fn finish(s: &mut Session, w: Words<'_>) -> Done {
    manage(s, w, ZoneOp::Finish, "finish").await.unwrap_or_else(|failed| failed)
}

pub(super) async fn reset(s: &mut Session, w: Words<'_>) -> Done {
    manage(s, w, ZoneOp::Reset, "reset").await.unwrap_or_else(|failed| failed)
}

/// What an append's words say.
#[derive(Debug, PartialEq, Eq)]
struct Append<'a> {
    /// The place is to be told.
    tell: bool,
    /// An option that there is not.
    unknown: Option<char>,
    /// Offset and lengths.
    rest: Vec<&'a str>,
}

fn all(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Looks for one option in the manner of getopt asked once: words before it are not seen, a word of several letters is a number
/// too, and one that is unknown is taken for the one there is.
fn option(words: &[String]) -> Append<'_> {
    for (i, word) in words.iter().enumerate() {
        if word == "--" {
            return Append {
                tell: false,
                unknown: None,
                rest: [all(&words[..i]), all(&words[i + 1..])].concat(),
            };
        }
        let mut letters = word.chars();
        if letters.next() == Some('-')
            && let Some(letter) = letters.next()
        {
            let read = usize::from(letters.next().is_none());
            let unknown = Some(letter).filter(|l| *l != 'p');
            return Append { tell: true, unknown, rest: all(&words[i + read..]) };
        }
    }
    Append { tell: false, unknown: None, rest: all(words) }
}

pub(super) async fn append(s: &mut Session, w: Words<'_>) -> Done {
    append_inner(s, w).await.unwrap_or_else(|failed| failed)
}

async fn append_inner(s: &Session, w: Words<'_>) -> Result<Done, Done> {
    let given = option(w.words);
    if let Some(letter) = given.unknown {
        s.text.warn(&format!("{}: invalid option -- '{letter}'", w.called));
    }
    let Some((offset, lengths)) = given.rest.split_first() else {
        return Err(s.size("(null)").err().unwrap_or(Done::Failed));
    };
    let offset = s.size(offset)?;
    let lengths = pieces(s, lengths)?;
    let root = s.root()?;
    let mut buf = IoBuf::new();
    for n in lengths.into_iter().filter(|n| *n > 0) {
        let piece = IoBuf::zeroed(n as usize);
        // Memory that nobody looks at need not be there.
        if root.zones().is_some() {
            piece.fill(FILL);
        }
        buf.append(piece);
    }
    let done = root.zone_append(offset, buf).await;
    let at = done.map_err(|e| s.fail(&format!("zone append failed: {e}")))?;
    if given.tell {
        s.text.line(&format!("After zap done, the append sector is {:#x}", at / 512));
    }
    Ok(Done::Well)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::session::{DRIVE, Image};
    use crate::io::text::Text;
    use crate::open::Cache;
    use block::testing::{Shape, ZONED, ZonedDevice};
    use block::zoned::ZoneCondition;
    use std::cell::RefCell;
    use std::io::Write;
    use std::rc::Rc;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn one_option_is_looked_for() {
        for (line, tell, unknown, rest) in [
            ("0 512 512", false, None, "0 512 512"),
            ("-p 0 512", true, None, "0 512"),
            ("-x 0 512", true, Some('x'), "0 512"),
            ("0 -p 512", true, None, "512"),
            ("-px 0 512", true, None, "-px 0 512"),
            ("--p 0 512", true, Some('-'), "--p 0 512"),
            ("-p -p 0", true, None, "-p 0"),
            ("0 -- -1", false, None, "0 -1"),
            ("- 0 512", false, None, "- 0 512"),
        ] {
            let rest = rest.split(' ').collect();
            assert_eq!(option(&words(line)), Append { tell, unknown, rest }, "{line}");
        }
        assert!(option(&words("0 512 -p")).rest.is_empty());
    }

    #[derive(Clone, Default)]
    struct Sink(Rc<RefCell<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A session with a zoned device open in it, and what it prints.
    struct Bed {
        session: Session,
        printed: Sink,
        device: std::sync::Arc<ZonedDevice>,
    }

    impl Bed {
        async fn new(name: &str, shape: Shape, over: &str) -> Bed {
            let device = ZonedDevice::new(name, shape);
            // Instead of devices of the host, those of tests.
            let mut drivers = crate::drivers();
            drivers.retain(|d| d.name != ZONED.name);
            drivers.push(&ZONED);
            let graph = block::BlockGraph::new(&drivers, monitor::EventBus::new());
            let add = |text: String| {
                let options = qapi::Value::parse_json(&text.replace('\'', "\"")).and_then(qapi::from_json);
                let graph = graph.clone();
                async move { graph.add(options.unwrap()).await.unwrap() }
            };
            add(format!("{{'driver':'host_device','node-name':'zones','filename':'{name}'}}")).await;
            if !over.is_empty() {
                add(over.replace('@', "'node-name':'top','file':'zones'")).await;
            }
            let node = if over.is_empty() { "zones" } else { "top" };
            let cache = Cache::default();
            let root = Image::attach(&graph, node, true, false, cache, DRIVE).await.unwrap();
            let printed = Sink::default();
            let text = Text::new(Box::new(printed.clone()), Box::new(printed.clone()), false);
            let mut session = Session::new("qemu-io", text);
            session.image = Some(Image { graph, node: node.into(), root, cache });
            Bed { session, printed, device }
        }

        /// What a line prints, and whether it went well.
        async fn say(&mut self, line: &str) -> (String, Done) {
            self.printed.0.borrow_mut().clear();
            let done = self.session.run(line).await;
            self.session.text.flush();
            (String::from_utf8(self.printed.0.borrow().clone()).unwrap(), done)
        }

        async fn well(&mut self, line: &str) -> String {
            let (text, done) = self.say(line).await;
            assert_eq!(done, Done::Well, "{line}: {text}");
            text
        }

        async fn fails(&mut self, line: &str) -> String {
            let (text, done) = self.say(line).await;
            assert_eq!(done, Done::Failed, "{line}: {text}");
            text
        }
    }

    /// Zones of 64 KiB are 0x80 sectors long.
    #[test]
    fn zones_are_told_and_managed() {
        rt::block_on(async {
            let shape = Shape { conventional: 1, capacity: 48 << 10, ..Shape::SMALL };
            let mut b = Bed::new("io-zones", shape, "").await;
            assert_eq!(
                b.well("zrp 0 2").await,
                "start: 0x0, len 0x80, cap 0x80, wptr 0x0, zcond:0, [type: 1]\n\
                 start: 0x80, len 0x80, cap 0x60, wptr 0x80, zcond:1, [type: 2]\n"
            );
            assert_eq!(b.well("zone_report 7m 5").await, "");
            assert_eq!(b.well("zrp 448k 5").await.lines().count(), 1);
            assert_eq!(b.fails("zrp 0 4294967296").await, "Number of zones must be less than 2^32\n");
            let second = "start: 0x80, len 0x80, cap 0x60, wptr";
            for (command, after) in [
                ("zone_open 64k 64k", "0x80, zcond:3, [type: 2]"),
                ("zc 64k 64k", "0x80, zcond:1, [type: 2]"),
                ("write 64k 4k", "0x88, zcond:2, [type: 2]"),
                ("zone_close 64k 64k", "0x88, zcond:4, [type: 2]"),
                ("zo 64k 64k", "0x88, zcond:3, [type: 2]"),
                ("zone_finish 64k 64k", "0x100, zcond:14, [type: 2]"),
                ("zone_reset 64k 64k", "0x80, zcond:1, [type: 2]"),
                ("zf 64k 64k", "0x100, zcond:14, [type: 2]"),
                ("zrs 0 512k", "0x80, zcond:1, [type: 2]"),
            ] {
                let told = b.well(command).await;
                assert!(told.is_empty() || command.starts_with("write"), "{told}");
                assert_eq!(b.well("zrp 64k 1").await, format!("{second} {after}\n"), "{command}");
            }
            for (command, what) in [("zo", "open"), ("zc", "close"), ("zf", "finish"), ("zrs", "reset")] {
                let e = b.fails(&format!("{command} 1k 64k")).await;
                assert_eq!(e, format!("zone {what} failed: Invalid argument\n"));
                let e = b.fails(&format!("{command} 0 64k")).await;
                assert_eq!(e, format!("zone {what} failed: Input/output error\n"));
            }
            assert_eq!(
                b.fails("write 68k 4k").await,
                "write failed: Input/output error\n",
                "elsewhere than at the pointer"
            );
            b.session.close().await;
        });
    }

    #[test]
    fn appends_tell_where_they_went() {
        rt::block_on(async {
            let mut b = Bed::new("io-appends", Shape::SMALL, "").await;
            assert_eq!(b.well("zap 0 512 1k").await, "");
            assert_eq!(b.well("zap -p 0 4k").await, "After zap done, the append sector is 0x3\n");
            assert_eq!(
                b.well("zone_append -p 64k 512 512").await,
                "After zap done, the append sector is 0x80\n"
            );
            assert_eq!(b.device.bytes()[..5632], [0xcd; 5632]);
            assert_eq!(b.device.bytes()[5632..5633], [0]);
            // Of no length, and of none given: where it would have gone.
            assert_eq!(b.well("zap -p 0 0").await, "After zap done, the append sector is 0xb\n");
            assert_eq!(b.well("zap 7 -p 0").await, "After zap done, the append sector is 0xb\n");
            assert_eq!(
                b.well("zap -x 0 0").await,
                "zap: invalid option -- 'x'\nAfter zap done, the append sector is 0xb\n"
            );
            assert_eq!(b.fails("zap 4k 512 512").await, "zone append failed: Invalid argument\n");
            assert_eq!(b.fails("zap 0 100 412").await, "zone append failed: Invalid argument\n");
            assert_eq!(b.fails("zap 0 60k 8k").await, "zone append failed: Input/output error\n");
            assert_eq!(b.fails("zap 512k 512 512").await, "zone append failed: Input/output error\n");
            b.device.set_condition(3, ZoneCondition::Offline);
            assert_eq!(b.fails("zap 192k 512 512").await, "zone append failed: Input/output error\n");
            b.session.close().await;
        });
    }

    #[test]
    fn as_many_zones_are_open_as_the_device_takes() {
        rt::block_on(async {
            let shape = Shape { max_open: 2, max_active: 3, ..Shape::SMALL };
            let mut b = Bed::new("io-open", shape, "").await;
            b.well("zo 0 128k").await;
            assert_eq!(
                b.fails("zo 128k 64k").await,
                "zone open failed: Too many references: cannot splice\n"
            );
            b.well("zap 0 512 512").await;
            b.well("zc 0 64k").await;
            b.well("zo 128k 64k").await;
            assert_eq!(
                b.fails("zap 192k 512 512").await,
                "zone append failed: Value too large for defined data type\n"
            );
            b.session.close().await;
        });
    }

    #[test]
    fn raw_is_as_zoned_as_its_file() {
        rt::block_on(async {
            let mut b = Bed::new("io-raw", Shape::SMALL, "{'driver':'raw',@}").await;
            assert_eq!(
                b.well("zrp 64k 1").await,
                "start: 0x80, len 0x80, cap 0x80, wptr 0x80, zcond:1, [type: 2]\n"
            );
            assert_eq!(b.well("zap -p 64k 512").await, "After zap done, the append sector is 0x80\n");
            b.well("zf 64k 64k").await;
            assert_eq!(b.device.report(1 << 16, 1)[0].condition, ZoneCondition::Full);
            b.session.close().await;
            // Not where it shows a part, and nothing else is.
            for over in [
                "{'driver':'raw','offset':65536,@}",
                "{'driver':'raw','size':65536,@}",
                "{'driver':'copy-on-read',@}",
                "{'driver':'preallocate',@}",
            ] {
                let mut b = Bed::new("io-others", Shape::SMALL, over).await;
                assert_eq!(
                    b.fails("zrp 0 1").await,
                    "zone report failed: Operation not supported\n",
                    "{over}"
                );
                assert_eq!(b.fails("zo 0 64k").await, "zone open failed: Operation not supported\n");
                assert_eq!(b.fails("zap 0 512 512").await, "zone append failed: Operation not supported\n");
                b.session.close().await;
            }
        });
    }

    #[test]
    fn an_append_cannot_turn_a_guessed_image_into_another() {
        rt::block_on(async {
            let device = ZonedDevice::new("io-guessed", Shape::SMALL);
            let mut drivers = crate::drivers();
            drivers.retain(|d| d.name != ZONED.name);
            drivers.push(&ZONED);
            let graph = block::BlockGraph::new(&drivers, monitor::EventBus::new());
            let drive = block::Drive::parse("if=none,id=d,file=host_device:io-guessed").unwrap();
            assert!(graph.add_drive(drive).await.unwrap().unwrap().contains("probing guessed raw"));
            let root = Image::attach(&graph, "d", true, false, Cache::default(), DRIVE).await.unwrap();
            let mut header = [0; 512];
            header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
            let append = async |off, bytes: &[u8]| root.zone_append(off, IoBuf::from_bytes(bytes)).await;
            assert_eq!(append(0, &header).await, Err(base::Errno::PERM));
            assert_eq!(device.bytes()[..4], [0; 4]);
            assert_eq!(append(1 << 16, &header).await, Ok(1 << 16), "further on it is no header");
            assert_eq!(append(0, &[1; 512]).await, Ok(0));
            assert_eq!(append(0, &header).await, Ok(512));
            root.detach().await;
            graph.close_all().await;
        });
    }
}
