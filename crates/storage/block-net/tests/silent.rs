//! A server that takes connections and never says a word: only those who asked for it wait.

use api::block_core::BlockdevOptions;
use block::BlockGraph;
use io::Listener;
use monitor::EventBus;
use qapi::{Value, from_json};
use std::time::{Duration, Instant};

fn opt(text: &str) -> BlockdevOptions {
    Value::parse_json(text).and_then(from_json).unwrap()
}

#[test]
fn others_do_not_wait_for_a_server_that_does_not_answer() {
    rt::block_on(async {
        let socket = std::env::temp_dir().join(format!("rhea-silent-{}", std::process::id()));
        _ = std::fs::remove_file(&socket);
        let listener = Listener::unix(&socket).unwrap();
        let drivers: Vec<_> = block_net::DRIVERS.iter().chain(block::testing::DRIVERS).copied().collect();
        let graph = BlockGraph::new(&drivers, EventBus::new());
        let server = format!("'server':{{'type':'unix','path':'{}'}}", socket.display());
        let slow = |name: &str| {
            let options = opt(&format!("{{'driver':'nbd','node-name':'{name}','open-timeout':60,{server}}}"));
            let graph = graph.clone();
            rt::spawn_local(async move { graph.add(options).await.map_err(|e| e.desc().to_owned()) })
        };
        let (a, b) = (slow("a"), slow("b"));
        let accepted = (listener.accept().await.unwrap(), listener.accept().await.unwrap());
        let start = Instant::now();
        graph.add(opt("{'driver':'null-co','node-name':'n'}")).await.unwrap();
        assert_eq!(graph.query_named_block_nodes(false).len(), 1);
        graph.reopen(vec![opt("{'driver':'null-co','node-name':'n','read-only':true}")]).await.unwrap();
        graph.del("n").await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(1));
        graph.close_all().await;
        assert!(start.elapsed() < Duration::from_secs(1));
        assert!(!a.is_finished() && !b.is_finished());
        drop((accepted, listener));
        _ = std::fs::remove_file(&socket);
    });
}
