//! What another server exports.

use super::options::Connection;
use super::serve::address;
use base::Errno;
use io::Stream;
use nbd::client::Refused;
use nbd::spec::*;
use nbd::told;
use qapi::{QError, qerr};

/// Most exports, and most contexts of one, that are listed.
const MAX_LISTED: usize = 10_000;

/// The transmission flags' names, by their bits.
const FLAGS: [(u16, &str); 12] = [
    (TF_READ_ONLY, "readonly"),
    (TF_SEND_FLUSH, "flush"),
    (TF_SEND_FUA, "fua"),
    (TF_ROTATIONAL, "rotational"),
    (TF_SEND_TRIM, "trim"),
    (TF_SEND_WRITE_ZEROES, "zeroes"),
    (TF_SEND_DF, "df"),
    (TF_CAN_MULTI_CONN, "multi"),
    (TF_SEND_RESIZE, "resize"),
    (TF_SEND_CACHE, "cache"),
    (TF_SEND_FAST_ZERO, "fast-zero"),
    (TF_BLOCK_STATUS_PAYLOAD, "block-status-payload"),
];

/// What is known of an export.
#[derive(Default)]
struct Found {
    name: String,
    description: Option<String>,
    /// Its size and flags.
    export: Option<(u64, u16)>,
    /// The least, the preferred and the greatest block.
    block: Option<(u32, u32, u32)>,
    contexts: Vec<String>,
}

/// The sizes of transactions that server and client agreed on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Plain,
    Structured,
    Extended,
}

struct Session {
    stream: Stream,
}

fn send_failed(e: Errno) -> QError {
    qerr!("Failed to send option request: {e}")
}

/// The server refuses, and it matters.
fn refusal(option: u32, kind: u32, said: &[u8]) -> QError {
    let Refused { text, hint } = told::refused(option, kind, said);
    match hint {
        Some(hint) => QError::new(text).with_hint(hint),
        None => QError::new(text),
    }
}

fn be32(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).map_or(0, |b| b.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
}

fn be64(b: &[u8], at: usize) -> u64 {
    u64::from(be32(b, at)) << 32 | u64::from(be32(b, at + 4))
}

fn be16(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).map_or(0, |b| u16::from(b[0]) << 8 | u16::from(b[1]))
}

fn counted(text: &str) -> Vec<u8> {
    let mut out = Vec::from((text.len() as u32).to_be_bytes());
    out.extend(text.as_bytes());
    out
}

impl Session {
    async fn read(&self, len: usize, what: &str) -> Result<Vec<u8>, QError> {
        let mut bytes = vec![0; len];
        let lost = |e| qerr!("Failed to read {what}: {}", self.stream.why_unread(e));
        self.stream.read_exact(&mut bytes).await.map_err(lost)?;
        Ok(bytes)
    }

    async fn ask(&self, option: u32, data: &[u8]) -> Result<(), QError> {
        let mut out = Vec::from(OPTS_MAGIC.to_be_bytes());
        out.extend(option.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
        self.stream.write_all(&out).await.map_err(send_failed)
    }

    /// One reply to an option: its kind and its data.
    async fn reply(&self, option: u32) -> Result<(u32, Vec<u8>), QError> {
        let head = self.read(20, "option reply").await?;
        if be64(&head, 0) != OPTION_REPLY_MAGIC {
            return Err(qerr!("Unexpected option reply magic"));
        }
        if be32(&head, 8) != option {
            return Err(QError::new(told::other_option(be32(&head, 8), option)));
        }
        let (kind, len) = (be32(&head, 12), be32(&head, 16) as usize);
        if len > MAX_OPTION {
            return Err(QError::new(told::too_long(option, kind)));
        }
        Ok((kind, self.read(len, "option reply").await?))
    }

    /// Asks for something that is answered by yes or no.
    async fn may(&self, option: u32) -> Result<bool, QError> {
        self.ask(option, &[]).await?;
        match self.reply(option).await? {
            (REP_ACK, data) if data.is_empty() => Ok(true),
            (REP_ACK, data) => Err(qerr!(
                "Option {option} ('{}') response length is {} (it should be zero)",
                told::option_name(option),
                data.len()
            )),
            (kind, data) if kind & REP_FLAG_ERROR != 0 => match option {
                OPT_STARTTLS => Err(refusal(option, kind, &data)),
                _ => Ok(false),
            },
            (kind, _) => Err(QError::new(told::unexpected(option, kind))),
        }
    }

    async fn exports(&self) -> Result<Vec<Found>, QError> {
        self.ask(OPT_LIST, &[]).await?;
        let mut found = Vec::new();
        loop {
            let (kind, data) = self.reply(OPT_LIST).await?;
            match kind {
                REP_ACK if data.is_empty() => return Ok(found),
                REP_ACK => return Err(qerr!("length too long for option end")),
                REP_SERVER if data.len() < 4 => return Err(qerr!("incorrect option length {}", data.len())),
                REP_SERVER if found.len() < MAX_LISTED => {
                    let len = be32(&data, 0) as usize;
                    let (name, text) = data
                        .get(4..)
                        .and_then(|d| d.split_at_checked(len))
                        .ok_or_else(|| qerr!("incorrect option name length"))?;
                    let text = String::from_utf8_lossy(text).into_owned();
                    found.push(Found {
                        name: String::from_utf8_lossy(name).into_owned(),
                        description: (!text.is_empty()).then_some(text),
                        ..Found::default()
                    });
                }
                REP_SERVER => return Err(qerr!("The server lists too many exports")),
                // It has none that it would tell of.
                REP_ERR_UNSUP => return Ok(Vec::new()),
                kind if kind & REP_FLAG_ERROR != 0 => return Err(refusal(OPT_LIST, kind, &data)),
                kind => return Err(QError::new(told::unexpected(OPT_LIST, kind))),
            }
        }
    }

    /// What the server tells of an export.
    async fn info(&self, f: &mut Found) -> Result<(), QError> {
        let mut data = counted(&f.name);
        data.extend(2u16.to_be_bytes());
        data.extend(INFO_DESCRIPTION.to_be_bytes());
        data.extend(INFO_BLOCK_SIZE.to_be_bytes());
        self.ask(OPT_INFO, &data).await?;
        loop {
            let (kind, data) = self.reply(OPT_INFO).await?;
            match kind {
                REP_INFO => {}
                REP_ACK if !data.is_empty() => return Err(qerr!("server sent invalid NBD_REP_ACK")),
                REP_ACK if f.export.is_none() => {
                    return Err(qerr!("broken server omitted NBD_INFO_EXPORT"));
                }
                // A server that is too old for the question.
                REP_ACK | REP_ERR_UNSUP => return Ok(()),
                // The export has gone meanwhile.
                REP_ERR_UNKNOWN => return Ok(()),
                kind if kind & REP_FLAG_ERROR != 0 => return Err(refusal(OPT_INFO, kind, &data)),
                kind => return Err(QError::new(told::unexpected(OPT_INFO, kind))),
            }
            match be16(&data, 0) {
                _ if data.len() < 2 => {
                    return Err(qerr!("NBD_REP_INFO length {} is too short", data.len()));
                }
                INFO_EXPORT if data.len() >= 12 => f.export = Some((be64(&data, 2), be16(&data, 10))),
                INFO_BLOCK_SIZE if data.len() >= 14 => {
                    f.block = Some((be32(&data, 2), be32(&data, 6), be32(&data, 10)));
                }
                INFO_DESCRIPTION => {
                    f.description = Some(String::from_utf8_lossy(&data[2..]).into_owned());
                }
                _ => {}
            }
        }
    }

    async fn contexts(&self, f: &mut Found) -> Result<(), QError> {
        let mut data = counted(&f.name);
        data.extend(0u32.to_be_bytes());
        self.ask(OPT_LIST_META_CONTEXT, &data).await?;
        loop {
            let (kind, data) = self.reply(OPT_LIST_META_CONTEXT).await?;
            match kind {
                REP_META_CONTEXT if f.contexts.len() < MAX_LISTED => {}
                REP_ACK if !data.is_empty() => return Err(qerr!("Unexpected length to ACK response")),
                kind if kind & REP_FLAG_ERROR != 0 || kind == REP_ACK => return Ok(()),
                REP_META_CONTEXT => return Err(qerr!("The server lists too many contexts")),
                kind => return Err(QError::new(told::unexpected(OPT_LIST_META_CONTEXT, kind))),
            }
            let name = data.get(4..).unwrap_or(&[]);
            f.contexts.push(String::from_utf8_lossy(name).into_owned());
        }
    }
}

/// Asks the server that the options name; the text to be shown.
///
/// # Errors
/// It cannot be reached, or has no list.
pub async fn list(c: &Connection) -> Result<String, QError> {
    let tls = match &c.tls_creds {
        Some(id) => {
            let creds = c.objects.tls(id, io::tls::Role::Client);
            Some(creds.map_err(|e| e.prepend("Failed to get TLS creds"))?)
        }
        None => None,
    };
    let stream = io::connect(&address(c)?).await.map_err(|e| QError::new(e.to_string()))?;
    let mut s = Session { stream };
    let greeting = s.read(18, "initial magic").await?;
    if be64(&greeting, 0) != INIT_MAGIC {
        return Err(qerr!("Bad initial magic received: 0x{:016x}", be64(&greeting, 0)));
    }
    let flags = be16(&greeting, 16);
    if be64(&greeting, 8) == OLDSTYLE_MAGIC {
        if tls.is_some() {
            return Err(qerr!("Server does not support STARTTLS"));
        }
        // It has one export; the rest of its length, flags, and zeroes follow.
        let rest = s.read(6 + 4 + 124, "export length").await?;
        let size = u64::from(flags) << 48 | be64(&rest, 0) >> 16;
        let only = Found { export: Some((size, be16(&rest, 8))), ..Found::default() };
        return Ok(text(&[only], Width::Plain));
    }
    if be64(&greeting, 8) != OPTS_MAGIC {
        return Err(qerr!("Bad server magic received: 0x{:016x}", be64(&greeting, 8)));
    }
    if flags & FLAG_FIXED_NEWSTYLE == 0 {
        let what = if tls.is_some() { "STARTTLS" } else { "export lists" };
        return Err(qerr!("Server does not support {what}"));
    }
    let answer = u32::from(flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)).to_be_bytes();
    s.stream.write_all(&answer).await.map_err(send_failed)?;
    if let Some(creds) = tls {
        s.may(OPT_STARTTLS).await?;
        let host = c.tls_hostname.as_deref().unwrap_or(if c.socket.is_some() { "" } else { c.inet().0 });
        let encrypted = io::tls::connect(&s.stream, &creds, host).await;
        s.stream = encrypted.map_err(QError::new)?;
    }
    let width = match s.may(OPT_EXTENDED_HEADERS).await? {
        true => Width::Extended,
        false if s.may(OPT_STRUCTURED_REPLY).await? => Width::Structured,
        false => Width::Plain,
    };
    let mut found = s.exports().await?;
    for f in &mut found {
        s.info(f).await?;
        if width != Width::Plain {
            s.contexts(f).await?;
        }
    }
    // Whether the server hears this does not matter any more.
    _ = s.ask(OPT_ABORT, &[]).await;
    Ok(text(&found, width))
}

fn text(found: &[Found], width: Width) -> String {
    let mut out = format!("exports available: {}\n", found.len());
    for f in found {
        out += &format!(" export: '{}'\n", f.name);
        if let Some(d) = f.description.as_ref().filter(|d| !d.is_empty()) {
            out += &format!("  description: {d}\n");
        }
        if let Some((size, flags)) = f.export.filter(|(_, flags)| flags & TF_HAS_FLAGS != 0) {
            let names: String = FLAGS
                .iter()
                .filter(|(bit, _)| flags & bit != 0)
                .map(|(_, name)| format!(" {name}"))
                .collect();
            out += &format!("  size:  {size}\n  flags: 0x{flags:x} ({names} )\n");
        }
        if let Some((min, preferred, max)) = f.block {
            out += &format!("  min block: {min}\n  opt block: {preferred}\n  max block: {max}\n");
        }
        let bits = if width == Width::Extended { 64 } else { 32 };
        out += &format!("  transaction size: {bits}-bit\n");
        if !f.contexts.is_empty() {
            out += &format!("  available meta contexts: {}\n", f.contexts.len());
            f.contexts.iter().for_each(|c| out += &format!("   {c}\n"));
        }
    }
    out
}
