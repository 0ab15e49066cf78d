//! Tables in two levels: entries of 64 bits in a directory lead to tables of such entries.

use super::{At, Level, Slot, Space, table_run};
use base::{Errno, IoResult};

/// Where the tables are, and how numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwoLevel {
    /// Offset of the directory, bytes.
    pub directory: u64,
    /// Entries of a table.
    pub entries: u64,
    /// Tables begin at multiples of this.
    pub align: u64,
    /// Whether numbers are big-endian.
    pub big_endian: bool,
}

impl TwoLevel {
    fn number(&self, b: [u8; 8]) -> u64 {
        if self.big_endian { u64::from_be_bytes(b) } else { u64::from_le_bytes(b) }
    }

    fn bytes(&self, n: u64) -> [u8; 8] {
        if self.big_endian { n.to_be_bytes() } else { n.to_le_bytes() }
    }

    /// The table that has the entry of a block; 0 for none.
    pub async fn table(&self, at: &At<'_>, block: u64) -> IoResult<u64> {
        let place = self.directory + 8 * (block / self.entries);
        let table = self.number(at.meta.array(&at.io, place).await?);
        match table.is_multiple_of(8) && table <= block::MAX_OFFSET / 2 {
            true => Ok(table),
            false => Err(Errno::IO),
        }
    }

    /// A run of blocks; `decode` says what an entry means.
    pub async fn find(
        &self,
        at: &At<'_>,
        block: u64,
        max: u64,
        block_size: u64,
        decode: impl Fn(u64) -> IoResult<Slot>,
    ) -> IoResult<(Slot, u64)> {
        let index = block % self.entries;
        let max = max.min(self.entries - index);
        match self.table(at, block).await? {
            0 => Ok((Slot::Unallocated, max)),
            table => {
                table_run::<8>(at, table + 8 * index, max, block_size, |_, e| decode(self.number(e))).await
            }
        }
    }

    /// Where the table of a block is; makes it where there is none.
    pub async fn made(&self, at: &At<'_>, space: &mut Space, block: u64) -> IoResult<u64> {
        let mut table = self.table(at, block).await?;
        if table == 0 {
            space.next = space.next.next_multiple_of(self.align);
            table = space.take((8 * self.entries).next_multiple_of(self.align))?;
            at.meta.clear(&at.io, table, 8 * self.entries, Level::Entry).await?;
            let place = self.directory + 8 * (block / self.entries);
            at.meta.write(&at.io, place, &self.bytes(table), Level::Directory).await?;
        }
        Ok(table)
    }

    /// Sets an entry; makes its table where there is none.
    pub async fn set(&self, at: &At<'_>, space: &mut Space, block: u64, entry: u64) -> IoResult<()> {
        let table = self.made(at, space, block).await?;
        let place = table + 8 * (block % self.entries);
        at.meta.write(&at.io, place, &self.bytes(entry), Level::Entry).await
    }
}
