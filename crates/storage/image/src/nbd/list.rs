//! What another server exports.

use super::options::Connection;
use super::serve::address;
use base::Errno;
use io::Stream;
use nbd::spec::*;
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

fn broke(e: Errno) -> QError {
    qerr!("Failed to read from the server: {e}")
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
    async fn read(&self, len: usize) -> Result<Vec<u8>, QError> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).await.map_err(broke)?;
        Ok(bytes)
    }

    async fn ask(&self, option: u32, data: &[u8]) -> Result<(), QError> {
        let mut out = Vec::from(OPTS_MAGIC.to_be_bytes());
        out.extend(option.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
        self.stream.write_all(&out).await.map_err(|e| qerr!("Failed to send to the server: {e}"))
    }

    /// One reply to an option: its kind and its data.
    async fn reply(&self, option: u32) -> Result<(u32, Vec<u8>), QError> {
        let head = self.read(20).await?;
        if be64(&head, 0) != OPTION_REPLY_MAGIC || be32(&head, 8) != option {
            return Err(qerr!("Unexpected reply of the server"));
        }
        let len = be32(&head, 16) as usize;
        if len > MAX_OPTION {
            return Err(qerr!("A reply of the server is too long"));
        }
        Ok((be32(&head, 12), self.read(len).await?))
    }

    /// Asks for something that is answered by yes or no.
    async fn may(&self, option: u32) -> Result<bool, QError> {
        self.ask(option, &[]).await?;
        Ok(self.reply(option).await?.0 == REP_ACK)
    }

    async fn exports(&self) -> Result<Vec<Found>, QError> {
        self.ask(OPT_LIST, &[]).await?;
        let mut found = Vec::new();
        loop {
            let (kind, data) = self.reply(OPT_LIST).await?;
            match kind {
                REP_ACK => return Ok(found),
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
                REP_ERR_TLS_REQD => {
                    return Err(qerr!("Server requires TLS for option 3 (list)")
                        .with_hint("Did you forget a valid tls-creds?"));
                }
                REP_ERR_POLICY => return Err(qerr!("Denied by server for option 3 (list)")),
                _ => return Err(qerr!("The server cannot list its exports")),
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
            if kind != REP_INFO {
                return Ok(());
            }
            match be16(&data, 0) {
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
            if kind != REP_META_CONTEXT || f.contexts.len() >= MAX_LISTED {
                return Ok(());
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
    let greeting = s.read(18).await?;
    if be64(&greeting, 0) != INIT_MAGIC {
        return Err(qerr!("Bad initial magic received: 0x{:016x}", be64(&greeting, 0)));
    }
    let flags = be16(&greeting, 16);
    if be64(&greeting, 8) != OPTS_MAGIC || flags & FLAG_FIXED_NEWSTYLE == 0 {
        return Err(qerr!("The server is too old to list its exports"));
    }
    let answer = u32::from(flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)).to_be_bytes();
    s.stream.write_all(&answer).await.map_err(broke)?;
    if let Some(creds) = tls {
        if !s.may(OPT_STARTTLS).await? {
            return Err(qerr!("Server does not support TLS"));
        }
        let host = c.tls_hostname.as_deref().unwrap_or(if c.socket.is_some() { "" } else { c.inet().0 });
        let encrypted = io::tls::connect(&s.stream, &creds, host).await;
        s.stream = encrypted.map_err(|e| qerr!("TLS handshake failed: {e}"))?;
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
