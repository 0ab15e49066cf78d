use super::conf::BlkConf;
use super::port::BlockPort;
use super::spec::*;
use base::Errno;
use block::Access;
use mem::IoBuf;

/// What a request asks for, after its checks.
pub(super) enum Request {
    Read {
        off: u64,
        data: IoBuf,
    },
    Write {
        off: u64,
        data: IoBuf,
    },
    WriteZeroes {
        off: u64,
        len: u64,
        unmap: bool,
    },
    Discard {
        off: u64,
        len: u64,
    },
    Flush,
    GetId {
        data: IoBuf,
    },
    /// No I/O: this status at once.
    Refused(u8),
}

impl Request {
    /// What `readable` and `writable` (without the status byte) say. A request without a header makes no sense.
    pub(super) fn parse(
        conf: &BlkConf,
        port: &dyn BlockPort,
        readable: &IoBuf,
        data: IoBuf,
    ) -> Result<Request, &'static str> {
        if readable.len() < HEADER {
            return Err("a request is too short for its header");
        }
        let mut h = [0; HEADER];
        readable.copy_to(0, &mut h);
        let kind = u32::from_le_bytes([h[0], h[1], h[2], h[3]]) & !T_BARRIER;
        let sector = u64::from_le_bytes([h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15]]);
        let body = readable.slice(HEADER..readable.len());
        Ok(match kind {
            T_IN => match range(conf, port, sector, data.len() as u64) {
                Some(off) => Request::Read { off, data },
                None => refused(port, Access::Read),
            },
            T_OUT => match range(conf, port, sector, body.len() as u64) {
                Some(off) if !port.read_only() => Request::Write { off, data: body },
                _ => refused(port, Access::Write),
            },
            T_FLUSH => Request::Flush,
            T_GET_ID => Request::GetId { data },
            T_DISCARD if conf.discard => ranged(conf, port, &body, false),
            T_WRITE_ZEROES if conf.write_zeroes => ranged(conf, port, &body, true),
            _ => Request::Refused(S_UNSUPP),
        })
    }

    /// Whether an error is one of reading.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Request::Read { .. } | Request::GetId { .. } | Request::Refused(_))
    }

    /// Does it. `fua`: a write is stable when done.
    pub(super) async fn run(&self, conf: &BlkConf, port: &dyn BlockPort, fua: bool) -> Result<u8, Errno> {
        match self {
            Request::Read { off, data } => port.read(*off, data.clone()).await?,
            Request::Write { off, data } => port.write(*off, data.clone(), fua).await?,
            Request::WriteZeroes { off, len, unmap } => port.write_zeroes(*off, *len, *unmap, fua).await?,
            Request::Discard { off, len } => port.discard(*off, *len).await?,
            Request::Flush => port.flush().await?,
            Request::GetId { data } => {
                let mut id = [0; ID_BYTES];
                let n = conf.serial.len().min(ID_BYTES);
                id[..n].copy_from_slice(&conf.serial.as_bytes()[..n]);
                data.copy_from(0, &id[..data.len().min(ID_BYTES)]);
            }
            Request::Refused(status) => return Ok(*status),
        }
        Ok(S_OK)
    }
}

/// The byte offset of a range that is whole blocks and lies on the disk.
fn range(conf: &BlkConf, port: &dyn BlockPort, sector: u64, len: u64) -> Option<u64> {
    let off = sector.checked_mul(SECTOR)?;
    let block = u64::from(conf.logical_block_size);
    let whole = off.is_multiple_of(block) && len.is_multiple_of(block);
    (whole && off.checked_add(len)? <= port.len()).then_some(off)
}

/// A discard or write-zeroes request: one segment (section 5.2.6).
fn ranged(conf: &BlkConf, port: &dyn BlockPort, body: &IoBuf, zeroes: bool) -> Request {
    if body.len() != RANGE {
        // We say that we take one segment.
        let status = if body.len() > RANGE { S_UNSUPP } else { S_IOERR };
        return Request::Refused(status);
    }
    let mut b = [0; RANGE];
    body.copy_to(0, &mut b);
    let sector = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    let sectors = u32::from_le_bytes([b[8], b[9], b[10], b[11]]);
    let flags = u32::from_le_bytes([b[12], b[13], b[14], b[15]]);
    // Unknown flags, and unmap in a discard, are not supported (5.2.6.2).
    if flags & !RANGE_UNMAP != 0 || (!zeroes && flags != 0) {
        return Request::Refused(S_UNSUPP);
    }
    let max = if zeroes { conf.max_write_zeroes_sectors } else { conf.max_discard_sectors };
    let len = u64::from(sectors) * SECTOR;
    match range(conf, port, sector, len) {
        Some(off) if sectors <= max && !port.read_only() => {
            if zeroes {
                Request::WriteZeroes { off, len, unmap: flags & RANGE_UNMAP != 0 }
            } else {
                Request::Discard { off, len }
            }
        }
        _ => refused(port, if zeroes { Access::Write } else { Access::Unmap }),
    }
}

/// A request that makes no sense.
fn refused(port: &dyn BlockPort, access: Access) -> Request {
    port.refused(access);
    Request::Refused(S_IOERR)
}
