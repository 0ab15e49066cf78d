//! Compressing and decompressing one cluster.

use std::io::Read;

use base::{Errno, IoResult};
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

use crate::header::Compression;

/// Largest zstd window that an image may ask for, as a power of two: 16 MiB, eight of the largest clusters.
const ZSTD_WINDOW_LOG: u32 = 24;

/// log2 of the deflate window that readers of qcow2 images provide.
const ZLIB_WINDOW_BITS: u8 = 12;

/// Compresses one cluster; `None` where that does not make it smaller.
pub fn compress(kind: Compression, plain: &[u8]) -> IoResult<Option<Vec<u8>>> {
    let mut out = Vec::with_capacity(plain.len());
    match kind {
        Compression::Zlib => {
            let mut z =
                Compress::new_with_window_bits(flate2::Compression::default(), false, ZLIB_WINDOW_BITS);
            // The output has no more room than a plain cluster takes.
            let status = z.compress_vec(plain, &mut out, FlushCompress::Finish).map_err(|_| Errno::IO)?;
            if status != Status::StreamEnd {
                return Ok(None);
            }
        }
        Compression::Zstd => out = zstd::bulk::compress(plain, 0).map_err(|_| Errno::IO)?,
    }
    Ok((out.len() < plain.len()).then_some(out))
}

/// Expands one cluster of `size` bytes. `raw` may go on behind the compressed data, up to its last sector's end.
/// Anything but exactly `size` bytes of output is `EIO`.
pub fn decompress(kind: Compression, raw: &[u8], size: usize) -> IoResult<Vec<u8>> {
    let mut out = vec![0u8; size];
    match kind {
        Compression::Zlib => {
            let mut z = Decompress::new(false);
            let status = z.decompress(raw, &mut out, FlushDecompress::Finish).map_err(|_| Errno::IO)?;
            let full = z.total_out() == size as u64;
            if !full || !matches!(status, Status::StreamEnd | Status::BufError | Status::Ok) {
                return Err(Errno::IO);
            }
        }
        Compression::Zstd => {
            let mut d = zstd::stream::read::Decoder::with_buffer(raw).map_err(|_| Errno::IO)?.single_frame();
            d.window_log_max(ZSTD_WINDOW_LOG).map_err(|_| Errno::IO)?;
            d.read_exact(&mut out).map_err(|_| Errno::IO)?;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_kinds_expand_and_ignore_what_follows() {
        let plain: Vec<u8> = (0..65536u32).map(|i| (i / 97) as u8).collect();
        let mut z = Vec::with_capacity(70000);
        Compress::new(flate2::Compression::default(), false)
            .compress_vec(&plain, &mut z, FlushCompress::Finish)
            .unwrap();
        z.extend_from_slice(&[0xee; 300]);
        assert_eq!(decompress(Compression::Zlib, &z, 65536).unwrap(), plain);
        assert!(decompress(Compression::Zlib, &z[..50], 65536).is_err());
        let mut z = zstd::bulk::compress(&plain, 3).unwrap();
        z.extend_from_slice(&[0xee; 300]);
        assert_eq!(decompress(Compression::Zstd, &z, 65536).unwrap(), plain);
        assert!(decompress(Compression::Zstd, &z[..50], 65536).is_err());
        // Noise does not get smaller.
        let mut noise = vec![0u8; 4096];
        rt::sim::Rng::new(1).fill(&mut noise);
        assert_eq!(compress(Compression::Zlib, &noise).unwrap(), None);
        assert_eq!(compress(Compression::Zstd, &noise).unwrap(), None);
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(runs in proptest::collection::vec((any::<u8>(), 1usize..3000), 1..60)) {
            let mut plain: Vec<u8> = runs.iter().flat_map(|(b, n)| std::iter::repeat_n(*b, *n)).collect();
            plain.resize(65536, 7);
            for kind in [Compression::Zlib, Compression::Zstd] {
                let small = compress(kind, &plain).unwrap().unwrap();
                prop_assert_eq!(&decompress(kind, &small, 65536).unwrap(), &plain);
            }
        }

        #[test]
        fn rubbish_is_an_error_and_no_more(raw in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decompress(Compression::Zlib, &raw, 4096);
            let _ = decompress(Compression::Zstd, &raw, 4096);
        }
    }
}
