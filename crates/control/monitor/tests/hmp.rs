//! The human monitor over a socket.

#[allow(dead_code, reason = "each test file uses its part")]
mod common;

use common::rig;
use io::{Channel, Stream};
use monitor::HmpOptions;
use std::sync::Arc;
use std::time::Duration;

/// Yields one stream.
struct Once(parking_lot::Mutex<Option<Stream>>);

impl io::Acceptor for Once {
    fn accept<'a>(&'a self) -> io::IoFut<'a, Arc<dyn Channel>> {
        let taken = self.0.lock().take();
        Box::pin(async move { taken.map(|s| Arc::new(s) as Arc<dyn Channel>).ok_or(base::Errno::SHUTDOWN) })
    }
}

async fn until(s: &Stream, end: &str) -> String {
    let mut got = Vec::new();
    let mut buf = [0; 256];
    while !got.ends_with(end.as_bytes()) {
        let n = rt::timeout(Duration::from_secs(10), s.read(&mut buf))
            .await
            .unwrap_or_else(|| panic!("no {end:?} in {:?}", String::from_utf8_lossy(&got)))
            .unwrap();
        assert!(n > 0, "ended in {:?}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&buf[..n]);
    }
    String::from_utf8(got).unwrap()
}

#[test]
fn a_terminal_session() {
    let rig = rig("terminal");
    rt::block_on(async {
        let (ours, theirs) = Stream::pair().unwrap();
        rig.monitor.serve_hmp(Arc::new(Once(Some(theirs).into())), HmpOptions::default());
        let first = until(&ours, "(qemu) ").await;
        assert!(first.starts_with("Rhea ") && first.contains("type 'help'"), "{first}");
        ours.write_all(b"say hi\r").await.unwrap();
        assert_eq!(until(&ours, "(qemu) ").await, "say hi\r\nhi\r\n(qemu) ");
        ours.write_all(b"sa\t-u you\r\n").await.unwrap();
        assert_eq!(until(&ours, "(qemu) ").await, "say -u you\r\nYOU\r\n(qemu) ");
        ours.write_all(b"nonsense\n").await.unwrap();
        assert_eq!(until(&ours, "(qemu) ").await, "nonsense\r\nunknown command: 'nonsense'\r\n(qemu) ");
        ours.write_all(b"in\tve\t\n").await.unwrap();
        assert!(until(&ours, "(qemu) ").await.starts_with("info version \r\n10.0.2"));
        ours.write_all(b"\t").await.unwrap();
        let list = until(&ours, "\x1b[K(qemu) ").await;
        assert!(list.contains("help") && list.contains("say"), "{list}");
    });
}

#[test]
fn a_plain_session() {
    let rig = rig("plain");
    rt::block_on(async {
        let (ours, theirs) = Stream::pair().unwrap();
        rig.monitor.serve_hmp(Arc::new(Once(Some(theirs).into())), HmpOptions { readline: false });
        ours.write_all(b"say a\nsay b\n").await.unwrap();
        assert_eq!(until(&ours, "b\r\n").await, "a\r\nb\r\n");
        ours.shutdown_write();
        assert_eq!(ours.read(&mut [0; 4]).await, Ok(0));
    });
}
