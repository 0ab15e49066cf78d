//! The client's side of the handshake.
//!
//! Drive it so: over and over, receive exactly [`Handshake::want`] bytes, hand them to [`Handshake::feed`] and send
//! what it gives back, until it gives an [`Offer`] or an error.
//!
//! It asks for as much as there is (extended headers, else structured replies, then the allocation context) and makes do
//! with less, down to servers that know nothing but the export's name.

use crate::message::{Mode, be32, be64};
use crate::spec::*;
use crate::told;

/// What the server offers: transmission may begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The export's length, bytes.
    pub size: u64,
    /// `TF_*`.
    pub flags: u16,
    /// The form of requests and replies.
    pub mode: Mode,
    /// Requests are multiples of this, bytes: a power of two of at most 64 KiB.
    pub min_block: u32,
    /// The preferred size of a request, bytes; 0 where it was not told.
    pub preferred: u32,
    /// The longest read or write, bytes.
    pub max_block: u32,
    /// The number of the context that was asked for ([`CONTEXT_ALLOCATION`], or that of [`Handshake::with_context`]) on
    /// this connection.
    pub allocation: Option<u32>,
}

/// Why the handshake failed, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What went wrong.
    pub text: String,
    /// What the server said of it.
    pub hint: Option<String>,
}

impl Refused {
    fn new(text: impl Into<String>) -> Refused {
        Refused { text: text.into(), hint: None }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Clone, Copy)]
enum Phase {
    Greeting,
    /// The header of a reply to this option.
    Header(u32),
    /// The data of a reply.
    Data {
        option: u32,
        kind: u32,
        len: usize,
    },
    /// The answer to `EXPORT_NAME`.
    Plain,
    /// What follows the first bytes of a server of the old style: the length begins with these two.
    Old([u8; 2]),
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes.
    More,
    /// The TLS handshake; then [`Handshake::encrypted`] goes on.
    StartTls,
    /// Transmission.
    Begin(Offer),
}

/// A handshake in progress.
pub struct Handshake {
    export: String,
    context: String,
    phase: Phase,
    no_zeroes: bool,
    offer: Offer,
    sized: bool,
    /// TLS is to be started first.
    tls: bool,
    /// Nothing but simple replies will be understood.
    simple: bool,
    /// Replies seen so far: a server may not go on for ever.
    replies: u32,
}

/// Most replies that a server may send in one handshake.
const MAX_REPLIES: u32 = 1000;

impl Handshake {
    /// Begins a handshake that is to end with the export of this name.
    ///
    /// # Errors
    /// The name is too long.
    pub fn new(export: &str) -> Result<Handshake, Refused> {
        if export.len() > MAX_STRING {
            return Err(Refused::new("export name too long to send to server"));
        }
        Ok(Handshake {
            export: export.to_owned(),
            context: CONTEXT_ALLOCATION.to_owned(),
            phase: Phase::Greeting,
            no_zeroes: false,
            offer: Offer { min_block: 1, max_block: MAX_PAYLOAD, ..Offer::default() },
            sized: false,
            tls: false,
            simple: false,
            replies: 0,
        })
    }

    /// The same, but nothing is asked for before TLS was started.
    ///
    /// # Errors
    /// As [`Handshake::new`].
    pub fn with_tls(export: &str) -> Result<Handshake, Refused> {
        Ok(Handshake { tls: true, ..Handshake::new(export)? })
    }

    /// The same, but block status is asked for in the context of this name. It is not part of the offer where the server does
    /// not have it.
    ///
    /// # Errors
    /// The name is too long.
    pub fn with_context(self, name: &str) -> Result<Handshake, Refused> {
        if name.len() > MAX_STRING {
            return Err(Refused::new("x-dirty-bitmap query too long to send to server"));
        }
        Ok(Handshake { context: name.to_owned(), ..self })
    }

    /// The same for whoever understands only simple replies, as Linux's kernel does: nothing else is asked for.
    pub fn simple(self) -> Handshake {
        Handshake { simple: true, ..self }
    }

    /// TLS is on: what is to be sent is appended to `out`.
    pub fn encrypted(&mut self, out: &mut Vec<u8>) {
        self.begin(out);
    }

    /// Asks for what comes first.
    fn begin(&mut self, out: &mut Vec<u8>) {
        match self.simple {
            true => self.ask_go(out),
            false => self.ask(OPT_EXTENDED_HEADERS, &[], out),
        }
    }

    /// What is being read, for people.
    pub fn reading(&self) -> &'static str {
        match self.phase {
            Phase::Greeting => "initial magic",
            Phase::Header(_) | Phase::Data { .. } => "option reply",
            Phase::Plain | Phase::Old(_) => "export length",
        }
    }

    /// How many bytes the next step takes: at least 1 and at most [`MAX_OPTION`].
    pub fn want(&self) -> usize {
        match self.phase {
            Phase::Greeting => 18,
            Phase::Header(_) => 20,
            Phase::Data { len, .. } => len,
            Phase::Plain => 10 + if self.no_zeroes { 0 } else { 124 },
            // The rest of the length, flags, and zeroes.
            Phase::Old(_) => 6 + 4 + 124,
        }
    }

    fn ask(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) {
        out.extend(OPTS_MAGIC.to_be_bytes());
        out.extend(option.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend_from_slice(data);
        self.phase = if option == OPT_EXPORT_NAME { Phase::Plain } else { Phase::Header(option) };
    }

    fn name(&self) -> Vec<u8> {
        let mut data = Vec::from((self.export.len() as u32).to_be_bytes());
        data.extend_from_slice(self.export.as_bytes());
        data
    }

    fn ask_context(&mut self, out: &mut Vec<u8>) {
        let mut data = self.name();
        data.extend(1u32.to_be_bytes());
        data.extend((self.context.len() as u32).to_be_bytes());
        data.extend(self.context.as_bytes());
        self.ask(OPT_SET_META_CONTEXT, &data, out);
    }

    fn ask_go(&mut self, out: &mut Vec<u8>) {
        let mut data = self.name();
        data.extend(1u16.to_be_bytes());
        data.extend(INFO_BLOCK_SIZE.to_be_bytes());
        self.ask(OPT_GO, &data, out);
    }

    fn ask_plain(&mut self, out: &mut Vec<u8>) {
        let name = self.export.clone().into_bytes();
        self.ask(OPT_EXPORT_NAME, &name, out);
    }

    /// Takes the bytes of one step, and appends what is to be sent to `out`.
    ///
    /// # Errors
    /// The server refuses, or breaks the protocol.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Step, Refused> {
        match self.phase {
            Phase::Greeting => self.greeting(bytes, out).map(|()| Step::More),
            Phase::Header(option) => {
                self.replies += 1;
                if be64(bytes, 0) != OPTION_REPLY_MAGIC {
                    return Err(Refused::new("Unexpected option reply magic"));
                }
                if be32(bytes, 8) != option {
                    return Err(Refused::new(told::other_option(be32(bytes, 8), option)));
                }
                if self.replies > MAX_REPLIES {
                    return Err(Refused::new("The server's replies do not end"));
                }
                let (kind, len) = (be32(bytes, 12), be32(bytes, 16) as usize);
                match len {
                    0 => self.reply(option, kind, &[], out),
                    1..=MAX_OPTION => {
                        self.phase = Phase::Data { option, kind, len };
                        Ok(Step::More)
                    }
                    _ => Err(Refused::new(told::too_long(option, kind))),
                }
            }
            Phase::Data { option, kind, .. } => {
                self.phase = Phase::Header(option);
                self.reply(option, kind, bytes, out)
            }
            Phase::Old([a, b]) => {
                let mut size = [a, b, 0, 0, 0, 0, 0, 0];
                size[2..].copy_from_slice(&bytes[..6]);
                self.offer.size = u64::from_be_bytes(size);
                self.offer.flags = u16::from_be_bytes([bytes[8], bytes[9]]);
                self.done()
            }
            Phase::Plain => {
                self.offer.size = be64(bytes, 0);
                self.offer.flags = u16::from_be_bytes([bytes[8], bytes[9]]);
                self.done()
            }
        }
    }

    fn greeting(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
        if be64(bytes, 0) != INIT_MAGIC {
            return Err(Refused::new(format!("Bad initial magic received: 0x{:016x}", be64(bytes, 0))));
        }
        if be64(bytes, 8) == OLDSTYLE_MAGIC {
            if self.tls {
                return Err(Refused::new("Server does not support STARTTLS"));
            }
            if !self.export.is_empty() {
                return Err(Refused::new("Server does not support non-empty export names"));
            }
            self.phase = Phase::Old([bytes[16], bytes[17]]);
            return Ok(());
        }
        if be64(bytes, 8) != OPTS_MAGIC {
            return Err(Refused::new(format!("Bad server magic received: 0x{:016x}", be64(bytes, 8))));
        }
        let flags = u16::from_be_bytes([bytes[16], bytes[17]]);
        let fixed = flags & FLAG_FIXED_NEWSTYLE;
        self.no_zeroes = flags & FLAG_NO_ZEROES != 0;
        out.extend(u32::from(flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)).to_be_bytes());
        if self.tls && fixed == 0 {
            return Err(Refused::new("Server does not support STARTTLS"));
        }
        if self.tls {
            self.ask(OPT_STARTTLS, &[], out);
        } else if fixed == 0 {
            self.ask_plain(out);
        } else {
            self.begin(out);
        }
        Ok(())
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8], out: &mut Vec<u8>) -> Result<Step, Refused> {
        let failed = kind & REP_FLAG_ERROR != 0;
        match option {
            OPT_STARTTLS if kind == REP_ACK => return Ok(Step::StartTls),
            OPT_EXTENDED_HEADERS if kind == REP_ACK => {
                self.offer.mode = Mode::Extended;
                self.ask_context(out);
            }
            OPT_EXTENDED_HEADERS if failed => {
                self.ask(OPT_STRUCTURED_REPLY, &[], out);
            }
            OPT_STRUCTURED_REPLY if kind == REP_ACK => {
                self.offer.mode = Mode::Structured;
                self.ask_context(out);
            }
            OPT_STRUCTURED_REPLY if failed => self.ask_go(out),
            OPT_SET_META_CONTEXT if kind == REP_META_CONTEXT => {
                if data.len() >= 4 && data[4..] == *self.context.as_bytes() {
                    self.offer.allocation = Some(be32(data, 0));
                }
            }
            // Without contexts there is no block status; that is no reason to give up. What is wrong with the export
            // comes out with the next option.
            OPT_SET_META_CONTEXT if kind == REP_ACK || failed => {
                if failed {
                    self.offer.allocation = None;
                }
                self.ask_go(out);
            }
            OPT_GO if kind == REP_INFO => self.info(data)?,
            OPT_GO if kind == REP_ACK => {
                if !self.sized {
                    return Err(Refused::new("broken server omitted NBD_INFO_EXPORT"));
                }
                return self.done();
            }
            OPT_GO if kind == REP_ERR_UNSUP && self.offer.mode != Mode::Extended => self.ask_plain(out),
            _ if failed => return Err(told::refused(option, kind, data)),
            _ => return Err(Refused::new(told::unexpected(option, kind))),
        }
        Ok(Step::More)
    }

    fn info(&mut self, data: &[u8]) -> Result<(), Refused> {
        let malformed = || Refused::new("The server's information is malformed");
        if data.len() < 2 {
            return Err(malformed());
        }
        match (u16::from_be_bytes([data[0], data[1]]), data.len()) {
            (INFO_EXPORT, 12) => {
                self.offer.size = be64(data, 2);
                self.offer.flags = u16::from_be_bytes([data[10], data[11]]);
                self.sized = true;
            }
            (INFO_BLOCK_SIZE, 14) => {
                let (min, preferred, max) = (be32(data, 2), be32(data, 6), be32(data, 10));
                if !min.is_power_of_two() || min > 64 << 10 {
                    return Err(Refused::new(format!(
                        "server requires unsupported minimum block size {min}"
                    )));
                }
                if preferred != 0 && (!preferred.is_power_of_two() || preferred < min) {
                    return Err(Refused::new("server's preferred block size is malformed"));
                }
                if max < min {
                    return Err(Refused::new("server's maximum block size is smaller than its minimum"));
                }
                self.offer.min_block = min;
                self.offer.preferred = preferred;
                self.offer.max_block = max.min(MAX_PAYLOAD) / min * min;
            }
            (INFO_EXPORT | INFO_BLOCK_SIZE, _) => return Err(malformed()),
            _ => {}
        }
        Ok(())
    }

    fn done(&mut self) -> Result<Step, Refused> {
        if i64::try_from(self.offer.size).is_err() {
            return Err(Refused::new("export length is too large"));
        }
        if !self.offer.size.is_multiple_of(self.offer.min_block.into()) {
            return Err(Refused::new("export length is not a multiple of the server's minimum block size"));
        }
        Ok(Step::Begin(self.offer.clone()))
    }
}
