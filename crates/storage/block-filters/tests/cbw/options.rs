//! Options, permissions, and the texts of errors.

use crate::bed::{Bed, SIZE, options, sim};
use block::RootConfig;
use block::perm::Perm;

#[test]
fn options_that_make_no_sense_are_refused() {
    sim(1, async {
        let bed = Bed::bare().await;
        bed.graph.bitmap_add("t", "b", None, false, false).await.unwrap();
        for (more, message) in [
            (
                "'min-cluster-size':3",
                "Cannot create block-copy-state: min-cluster-size needs to be a power of 2",
            ),
            (
                "'min-cluster-size':9223372036854775808",
                "Cannot create block-copy-state: min-cluster-size too large: 9223372036854775808 > 9223372036854775807",
            ),
            ("'bitmap':{'node':'nope','name':'b'}", "Node 'nope' not found"),
            ("'bitmap':{'node':'s','name':'b'}", "Dirty bitmap 'b' not found"),
        ] {
            let text =
                format!("{{'driver':'copy-before-write','node-name':'w','file':'s','target':'t',{more}}}");
            assert_eq!(bed.add(&text).await.unwrap_err(), message);
        }
        let e = bed.add("{'driver':'copy-before-write','node-name':'w','file':'s','target':'x'}").await;
        assert_eq!(e.unwrap_err(), "Cannot find device='x' nor node-name='x'");
    });
}

#[test]
fn they_cannot_be_reopened() {
    sim(2, async {
        let bed = Bed::with("").await;
        for (text, name, driver) in [
            (
                "{'driver':'copy-before-write','node-name':'cbw','file':'s','target':'t'}",
                "cbw",
                "copy-before-write",
            ),
            ("{'driver':'snapshot-access','node-name':'past','file':'cbw'}", "past", "snapshot-access"),
        ] {
            let e = bed.graph.reopen(vec![options(text)]).await.unwrap_err();
            let want =
                format!("Block format '{driver}' used by node '{name}' does not support reopening files");
            assert_eq!(e.desc(), want);
        }
    });
}

#[test]
fn nobody_writes_past_a_filter_in_use() {
    sim(3, async {
        let bed = Bed::with("").await;
        let config = || RootConfig {
            name: "other".into(),
            perm: Perm::WRITE,
            shared: Perm::all(),
            ..RootConfig::default()
        };
        // As long as nobody uses the filter, the guest may still be below.
        let direct = bed.graph.attach("s", config()).await.unwrap();
        let guest = RootConfig { name: "guest".into(), ..config() };
        let e = bed.graph.attach("cbw", guest).await.err().unwrap();
        assert_eq!(
            e.desc(),
            "Permission conflict on node 's': permissions 'write' are both required by block device 'other' \
             (uses node 's' as 'root' child) and unshared by node 'cbw' (uses node 's' as 'file' child)."
        );
        direct.detach().await;
        let guest = bed.guest().await;
        let e = bed.graph.attach("s", config()).await.err().unwrap();
        assert!(e.desc().starts_with("Permission conflict on node 's': permissions 'write'"), "{e}");
        assert_eq!(guest.len(), SIZE);
    });
}

#[test]
fn there_is_no_past_without_the_filter() {
    sim(4, async {
        let bed = Bed::bare().await;
        bed.add("{'driver':'snapshot-access','node-name':'past','file':'s'}").await.unwrap();
        let past = bed.reader("past").await;
        assert_eq!(bed.read(&past, 0, 1).await, Err(base::Errno::NOTSUP));
    });
}
