//! The header of a RISC-V Linux `Image` (the kernel's documentation, "Boot image header in RISC-V Linux").

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// Offset from the start of RAM at which the kernel wants to be.
    pub text_offset: u64,
    /// Memory that the kernel takes, zero-initialised data included; 0 in old headers.
    pub image_size: u64,
    /// Major and minor version of the header.
    pub version: (u16, u16),
}

impl ImageHeader {
    /// The header's length.
    pub const LEN: usize = 64;

    /// The header of `image`, if it has one of a little-endian kernel.
    pub fn parse(image: &[u8]) -> Option<ImageHeader> {
        let u64_at = |at: usize| Some(u64::from_le_bytes(*image.get(at..)?.first_chunk()?));
        let u32_at = |at: usize| Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?));
        // "RISCV" is the deprecated magic number, "RSC\x05" the present one; kernels carry both.
        let magic = image.get(56..60)? == b"RSC\x05" || image.get(48..56)? == b"RISCV\0\0\0";
        let big_endian = u64_at(24)? & 1 != 0;
        let version = u32_at(32)?;
        (magic && !big_endian && image.len() >= Self::LEN).then_some(())?;
        Some(ImageHeader {
            text_offset: u64_at(8)?,
            image_size: u64_at(16)?,
            version: ((version >> 16) as u16, version as u16),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_rubbish() {
        let mut h = [0u8; 64];
        h[8..16].copy_from_slice(&0x20_0000u64.to_le_bytes());
        h[16..24].copy_from_slice(&0x150_0000u64.to_le_bytes());
        h[32] = 2;
        assert_eq!(ImageHeader::parse(&h), None);
        h[56..60].copy_from_slice(b"RSC\x05");
        let want = ImageHeader { text_offset: 0x20_0000, image_size: 0x150_0000, version: (0, 2) };
        assert_eq!(ImageHeader::parse(&h), Some(want));
        assert_eq!(ImageHeader::parse(&h[..63]), None);
        h[24] = 1;
        assert_eq!(ImageHeader::parse(&h), None, "big-endian");
    }
}
