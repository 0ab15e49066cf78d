//! The server's side of the handshake (section "Fixed newstyle negotiation").
//!
//! Drive it so: send [`Handshake::greeting`]; then, over and over, receive exactly [`Handshake::want`] bytes, hand them
//! to [`Handshake::feed`] and send what it gives back, until it says that transmission begins or that all is over. Bound
//! the whole by a time limit: a client may take any number of options.

use crate::message::{Broken, Mode, be32, be64};
use crate::spec::*;
use crate::told::option_name;

/// What a client may be told of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// The name, at most [`MAX_STRING`] bytes.
    pub name: String,
    /// A text for people; may be empty.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// `TF_*`, without `TF_SEND_DF` and `TF_BLOCK_STATUS_PAYLOAD`, which depend on the client.
    pub flags: u16,
    /// The smallest, the preferred and the largest request, bytes. The smallest must be 1 where clients are served
    /// that do not ask.
    pub block_size: (u32, u32, u32),
    /// Whether [`CONTEXT_DEPTH`] is offered.
    pub depth: bool,
    /// The dirty bitmaps that are offered, by name.
    pub bitmaps: Vec<String>,
}

/// The exports that a server has.
pub trait Exports {
    /// One of them.
    type Export;
    /// Name and description of each that clients may see.
    fn list(&self) -> Vec<(String, String)>;
    /// The export of this name.
    fn find(&self, name: &str) -> Option<Self::Export>;
    /// Facts about an export.
    fn info(&self, export: &Self::Export) -> ExportInfo;
}

/// The metadata contexts that a client chose, with the numbers that they go by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contexts {
    /// [`CONTEXT_ALLOCATION`].
    pub allocation: Option<u32>,
    /// [`CONTEXT_DEPTH`].
    pub depth: Option<u32>,
    /// Dirty bitmaps ([`CONTEXT_BITMAP`]): the context's number, and the index in [`ExportInfo::bitmaps`]. No index is
    /// there twice.
    pub bitmaps: Vec<(u32, usize)>,
}

impl Contexts {
    /// Those of them that a request chooses by their numbers; `None` where a number is not among them, or is there twice.
    pub fn only(&self, ids: impl Iterator<Item = u32>) -> Option<Contexts> {
        let mut some = Contexts::default();
        for id in ids {
            let id = Some(id);
            if id == self.allocation && some.allocation.is_none() {
                some.allocation = id;
            } else if id == self.depth && some.depth.is_none() {
                some.depth = id;
            } else {
                let bitmap = self.bitmaps.iter().find(|b| Some(b.0) == id && !some.bitmaps.contains(b))?;
                some.bitmaps.push(*bitmap);
            }
        }
        Some(some)
    }

    /// Whether none was chosen.
    pub fn is_empty(&self) -> bool {
        *self == Contexts::default()
    }
}

/// What the handshake agreed on.
#[derive(Debug)]
pub struct Session<E> {
    /// The export that the client chose.
    pub export: E,
    /// The form of requests and replies.
    pub mode: Mode,
    /// The contexts that a block status tells.
    pub contexts: Contexts,
}

/// What comes next.
#[derive(Debug)]
pub enum Step<E> {
    /// More bytes.
    More,
    /// Transmission.
    Begin(Session<E>),
    /// The TLS handshake, once what there is to send was sent; then the same as after [`Step::More`], encrypted. Bytes that
    /// the client has sent before its handshake are not to be used.
    StartTls,
    /// The end of the connection, once what there is to send was sent.
    End,
}

enum Phase {
    Flags,
    Header,
    Data { option: u32, len: usize },
    Skip { option: u32, left: usize },
}

/// Longest option that is read over in order to refuse it politely, bytes.
const MAX_SKIP: usize = 32 << 20;

/// A handshake in progress.
pub struct Handshake {
    phase: Phase,
    mode: Mode,
    no_zeroes: bool,
    /// The export that contexts were chosen for.
    chosen: Option<(String, Contexts)>,
    tls: Tls,
}

/// Where encryption stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Tls {
    /// There is none.
    #[default]
    Off,
    /// It must come first.
    Needed,
    /// It is on.
    On,
}

impl Default for Handshake {
    fn default() -> Self {
        Handshake { phase: Phase::Flags, mode: Mode::Simple, no_zeroes: false, chosen: None, tls: Tls::Off }
    }
}

/// An option's answers.
struct Answer<'a> {
    out: &'a mut Vec<u8>,
    option: u32,
}

impl Answer<'_> {
    fn put(&mut self, kind: u32, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        self.out.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        self.out.extend(self.option.to_be_bytes());
        self.out.extend(kind.to_be_bytes());
        self.out.extend((len as u32).to_be_bytes());
        for p in parts {
            self.out.extend_from_slice(p);
        }
    }

    fn ack(&mut self) {
        self.put(REP_ACK, &[]);
    }

    fn malformed(&mut self) {
        self.error(REP_ERR_INVALID, &format!("Inconsistent lengths in option {}", option_name(self.option)));
    }

    fn error(&mut self, kind: u32, text: &str) {
        self.put(kind, &[text.as_bytes()]);
    }
}

/// Takes pieces off an option's data; `None` where there is not enough.
struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (a, b) = self.0.split_at_checked(n)?;
        self.0 = b;
        Some(a)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|b| be32(b, 0))
    }

    /// A string with its length before it.
    fn string(&mut self) -> Option<&'a str> {
        let n = self.u32()? as usize;
        if n > MAX_STRING {
            return None;
        }
        std::str::from_utf8(self.take(n)?).ok()
    }
}

impl Handshake {
    /// A handshake that lets clients do nothing before they have started TLS (section "TLS support", mode FORCEDTLS).
    pub fn with_tls() -> Handshake {
        Handshake { tls: Tls::Needed, ..Handshake::default() }
    }

    /// The first bytes that a server sends.
    pub fn greeting() -> [u8; 18] {
        let mut b = [0; 18];
        b[..8].copy_from_slice(&INIT_MAGIC.to_be_bytes());
        b[8..16].copy_from_slice(&OPTS_MAGIC.to_be_bytes());
        b[16..].copy_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
        b
    }

    /// How many bytes the next step takes: at least 1 and at most [`MAX_OPTION`].
    pub fn want(&self) -> usize {
        match self.phase {
            Phase::Flags => 4,
            Phase::Header => 16,
            Phase::Data { len, .. } => len,
            Phase::Skip { left, .. } => left.min(MAX_OPTION),
        }
    }

    /// Takes the bytes of one step, and appends what is to be sent to `out`.
    ///
    /// # Errors
    /// The client breaks the protocol: the connection is to be closed.
    pub fn feed<X: Exports>(
        &mut self,
        bytes: &[u8],
        exports: &X,
        out: &mut Vec<u8>,
    ) -> Result<Step<X::Export>, Broken> {
        match self.phase {
            Phase::Flags => {
                let flags = be32(bytes, 0);
                if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
                    return Err(Broken("handshake flags that nobody offered"));
                }
                self.no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
                self.phase = Phase::Header;
            }
            Phase::Header => {
                if be64(bytes, 0) != OPTS_MAGIC {
                    return Err(Broken("an option without its magic number"));
                }
                let (option, len) = (be32(bytes, 8), be32(bytes, 12) as usize);
                if len == 0 {
                    return self.option(option, &[], exports, out);
                }
                self.phase = if len <= MAX_OPTION {
                    Phase::Data { option, len }
                } else if option == OPT_EXPORT_NAME {
                    // An answer cannot refuse this one.
                    return Err(Broken("an export name that is too long"));
                } else if len <= MAX_SKIP {
                    Phase::Skip { option, left: len }
                } else {
                    return Err(Broken("an option that is too long"));
                };
            }
            Phase::Data { option, .. } => {
                self.phase = Phase::Header;
                return self.option(option, bytes, exports, out);
            }
            Phase::Skip { option, left } => {
                let left = left.saturating_sub(bytes.len());
                self.phase = if left == 0 {
                    Answer { out, option }.error(REP_ERR_TOO_BIG, "the option is too long");
                    Phase::Header
                } else {
                    Phase::Skip { option, left }
                };
            }
        }
        Ok(Step::More)
    }

    fn option<X: Exports>(
        &mut self,
        option: u32,
        data: &[u8],
        exports: &X,
        out: &mut Vec<u8>,
    ) -> Result<Step<X::Export>, Broken> {
        let mut answer = Answer { out, option };
        if self.tls == Tls::Needed && !matches!(option, OPT_STARTTLS | OPT_ABORT) {
            if option == OPT_EXPORT_NAME {
                // An answer cannot refuse this one.
                return Err(Broken("an export chosen before TLS"));
            }
            answer.error(REP_ERR_TLS_REQD, &format!("Option {option:#x} not permitted before TLS"));
            return Ok(Step::More);
        }
        let no_data = matches!(
            option,
            OPT_ABORT | OPT_LIST | OPT_STARTTLS | OPT_STRUCTURED_REPLY | OPT_EXTENDED_HEADERS
        );
        if no_data && !data.is_empty() {
            answer.error(REP_ERR_INVALID, &format!("option '{}' has unexpected length", option_name(option)));
            return Ok(Step::More);
        }
        match option {
            OPT_EXPORT_NAME => return self.export_name(data, exports, out),
            OPT_ABORT => {
                answer.ack();
                return Ok(Step::End);
            }
            OPT_LIST => {
                for (name, description) in exports.list() {
                    let len = (name.len() as u32).to_be_bytes();
                    answer.put(REP_SERVER, &[&len, name.as_bytes(), description.as_bytes()]);
                }
                answer.ack();
            }
            OPT_INFO | OPT_GO => return Ok(self.info(data, exports, answer)),
            OPT_STRUCTURED_REPLY if self.mode == Mode::Extended => {
                answer.error(REP_ERR_EXT_HEADER_REQD, "extended headers are in use");
            }
            OPT_STRUCTURED_REPLY => {
                self.mode = Mode::Structured;
                answer.ack();
            }
            OPT_EXTENDED_HEADERS if self.mode == Mode::Extended => {
                answer.error(REP_ERR_INVALID, "extended headers are in use");
            }
            OPT_EXTENDED_HEADERS => {
                self.mode = Mode::Extended;
                // Contexts are to be chosen again for replies of another form.
                self.chosen = None;
                answer.ack();
            }
            OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => self.contexts(data, exports, answer),
            OPT_STARTTLS => match self.tls {
                Tls::Off => answer.error(REP_ERR_POLICY, "TLS not configured"),
                Tls::On => answer.error(REP_ERR_INVALID, "TLS is on already"),
                Tls::Needed => {
                    answer.ack();
                    // Whatever was agreed on in the open does not count.
                    *self = Handshake {
                        phase: Phase::Header,
                        no_zeroes: self.no_zeroes,
                        tls: Tls::On,
                        ..Handshake::default()
                    };
                    return Ok(Step::StartTls);
                }
            },
            _ => answer.error(REP_ERR_UNSUP, &format!("Unsupported option {option} (<unknown>)")),
        }
        Ok(Step::More)
    }

    /// The flags that this client is told.
    fn flags(&self, name: &str, info: &ExportInfo) -> u16 {
        let df = if self.mode >= Mode::Structured { TF_SEND_DF } else { 0 };
        // Who chose among contexts and got none has no block status.
        let none = self.chosen.as_ref().is_some_and(|(n, c)| n == name && c.is_empty());
        let payload = if self.mode == Mode::Extended && !none { TF_BLOCK_STATUS_PAYLOAD } else { 0 };
        info.flags | TF_HAS_FLAGS | df | payload
    }

    fn session<E>(&self, name: &str, export: E) -> Step<E> {
        let chosen = self.chosen.as_ref().filter(|(n, _)| n == name);
        let contexts = chosen.map_or(Contexts::default(), |c| c.1.clone());
        Step::Begin(Session { export, mode: self.mode, contexts })
    }

    fn export_name<X: Exports>(
        &self,
        data: &[u8],
        exports: &X,
        out: &mut Vec<u8>,
    ) -> Result<Step<X::Export>, Broken> {
        if self.mode == Mode::Extended {
            return Err(Broken("an export chosen in the old way despite extended headers"));
        }
        let name = std::str::from_utf8(data).map_err(|_| Broken("an export name that is no text"))?;
        // This option has no way to say no but to end the connection.
        let Some(export) = exports.find(name) else { return Ok(Step::End) };
        let info = exports.info(&export);
        out.extend(info.size.to_be_bytes());
        out.extend(self.flags(name, &info).to_be_bytes());
        if !self.no_zeroes {
            out.extend([0; 124]);
        }
        Ok(self.session(name, export))
    }

    fn info<X: Exports>(&self, data: &[u8], exports: &X, mut answer: Answer<'_>) -> Step<X::Export> {
        let mut data = Data(data);
        let parsed = (|| {
            let name = data.string()?;
            let n = data.u16()?;
            let asked = (0..n).map(|_| data.u16()).collect::<Option<Vec<u16>>>()?;
            data.0.is_empty().then_some((name, asked))
        })();
        let Some((name, asked)) = parsed else {
            answer.malformed();
            return Step::More;
        };
        let Some(export) = exports.find(name) else {
            answer.error(REP_ERR_UNKNOWN, &format!("export '{name}' not present"));
            return Step::More;
        };
        let info = exports.info(&export);
        if asked.contains(&INFO_NAME) {
            answer.put(REP_INFO, &[&INFO_NAME.to_be_bytes(), info.name.as_bytes()]);
        }
        if asked.contains(&INFO_DESCRIPTION) && !info.description.is_empty() {
            answer.put(REP_INFO, &[&INFO_DESCRIPTION.to_be_bytes(), info.description.as_bytes()]);
        }
        let (min, pref, max) = info.block_size;
        let sizes = [min, pref, max].map(u32::to_be_bytes).concat();
        answer.put(REP_INFO, &[&INFO_BLOCK_SIZE.to_be_bytes(), &sizes]);
        let (size, flags) = (info.size.to_be_bytes(), self.flags(name, &info).to_be_bytes());
        answer.put(REP_INFO, &[&INFO_EXPORT.to_be_bytes(), &size, &flags]);
        answer.ack();
        if answer.option == OPT_GO { self.session(name, export) } else { Step::More }
    }

    fn contexts<X: Exports>(&mut self, data: &[u8], exports: &X, mut answer: Answer<'_>) {
        let set = answer.option == OPT_SET_META_CONTEXT;
        if set {
            self.chosen = None;
        }
        if self.mode == Mode::Simple {
            return answer.error(REP_ERR_INVALID, "structured replies are needed for this");
        }
        let mut data = Data(data);
        let parsed = (|| {
            let name = data.string()?;
            let n = data.u32()?;
            // Each takes at least its length: no more than the data can hold.
            let mut queries = Vec::new();
            for _ in 0..n {
                queries.push(data.string()?);
            }
            data.0.is_empty().then_some((name, queries))
        })();
        let Some((name, queries)) = parsed else {
            return answer.malformed();
        };
        let Some(export) = exports.find(name) else {
            return answer.error(REP_ERR_UNKNOWN, &format!("export '{name}' not present"));
        };
        let info = exports.info(&export);
        let listed = !set && queries.is_empty();
        // A list may be asked for all that begin so; a choice names each in full.
        let asked = |context: &str, spaces: &[&str]| {
            listed || queries.iter().any(|q| *q == context || (!set && spaces.contains(q)))
        };
        let mut chosen = Contexts::default();
        // A context has the same number whatever else is chosen.
        let mut tell = |id: u32, context: &str| {
            let id = if set { id } else { 0 };
            answer.put(REP_META_CONTEXT, &[&id.to_be_bytes(), context.as_bytes()]);
            id
        };
        if asked(CONTEXT_ALLOCATION, &["base:"]) {
            chosen.allocation = Some(tell(0, CONTEXT_ALLOCATION));
        }
        if info.depth && asked(CONTEXT_DEPTH, &["qemu:"]) {
            chosen.depth = Some(tell(1, CONTEXT_DEPTH));
        }
        for (i, name) in info.bitmaps.iter().enumerate() {
            let context = format!("{CONTEXT_BITMAP}{name}");
            if asked(&context, &["qemu:", CONTEXT_BITMAP]) {
                chosen.bitmaps.push((tell(2 + i as u32, &context), i));
            }
        }
        answer.ack();
        if set {
            self.chosen = Some((name.to_owned(), chosen));
        }
    }
}
