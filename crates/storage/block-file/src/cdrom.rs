//! Drives whose disc comes and goes.

use crate::sys;
use std::fmt;
use std::os::fd::BorrowedFd;

/// What a drive is asked. It may block for a moment, and works on a descriptor that was opened without a disc.
pub(crate) trait Drive: Send + Sync + fmt::Debug {
    /// Whether there is a disc that can be read.
    fn has_disc(&self, fd: BorrowedFd<'_>) -> bool;
}

/// A drive of this host.
#[derive(Debug)]
pub(crate) struct HostDrive;

impl Drive for HostDrive {
    fn has_disc(&self, fd: BorrowedFd<'_>) -> bool {
        // What is no such drive does not know the question, and has no disc.
        sys::drive_status(fd).is_ok_and(|s| s == sys::CDS_DISC_OK)
    }
}

#[cfg(test)]
mod tests {
    use super::Drive;
    use crate::driver::{Config, FileDriver};
    use crate::open::{FileKind, Open, OpenMode, Want};
    use api::block_core::BlockdevOptionsFile;
    use base::Errno;
    use block::driver::{NodeFlags, Prealloc};
    use mem::IoBuf;
    use rt::AioMode;
    use std::os::fd::BorrowedFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Debug)]
    struct Tray(AtomicBool);

    impl Drive for Tray {
        fn has_disc(&self, _: BorrowedFd<'_>) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_disc_comes_and_goes() {
        let path = std::env::temp_dir().join(format!("rhea-disc-{}", std::process::id()));
        std::fs::write(&path, [7; 4096]).unwrap();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let options = BlockdevOptionsFile { filename: path.display().to_string(), ..Default::default() };
        let mut config = Config::new(Want::Cdrom, &options, NodeFlags::default()).unwrap();
        let tray = Arc::new(Tray(AtomicBool::new(false)));
        config.drive = Some(tray.clone());
        let open = Open {
            file: rt::file::File::from_fd(file.try_clone().unwrap().into(), AioMode::Threads),
            mode: OpenMode { write: true, direct: false },
            kind: FileKind::Block,
            request_alignment: 1,
            buffer_alignment: 1,
            discard_alignment: 512,
        };
        let d = FileDriver::over(config, open, None).unwrap().0;
        rt::block_on(async {
            let buf = IoBuf::zeroed(512);
            assert_eq!(d.read(0, buf.clone()).await, Err(Errno::NOMEDIUM));
            assert_eq!(d.write(0, buf.clone(), false).await, Err(Errno::NOMEDIUM));
            assert_eq!(d.truncate(0, false, Prealloc::Off).await, Err(Errno::NOMEDIUM));
            tray.0.store(true, Ordering::Relaxed);
            d.read(0, buf.clone()).await.unwrap();
            assert_eq!(buf.to_vec(), [7; 512]);
            assert_eq!(d.len(), 4096);
            // Another disc.
            file.set_len(8192).unwrap();
            assert_eq!(d.len(), 8192);
            d.write(4096, buf, false).await.unwrap();
            assert_eq!(d.discard(0, 4096).await, Err(Errno::NOTSUP));
        });
        std::fs::remove_file(path).unwrap();
    }
}
