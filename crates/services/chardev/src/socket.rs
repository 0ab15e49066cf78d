//! Sockets, as servers and as clients.

use crate::config::SocketConfig;
use crate::core::{Chardev, Core, Hangup, Slot, pump};
use crate::telnet::{Filter, HELLO};
use crate::tls::Tls;
use device::CharEvent;
use io::{Listener, Stream};
use qapi::{QError, qerr};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a client that has ended its side may still be answered.
const LINGER: Duration = Duration::from_secs(5);

/// What `info chardev` shows before the address.
fn prefix(config: &SocketConfig) -> &'static str {
    if config.tls_creds.is_some() { "tls:" } else { "" }
}

/// What `info chardev` shows after the address.
fn suffix(config: &SocketConfig) -> &'static str {
    if config.server { ",server=on" } else { "" }
}

/// Serves one connection until it ends, encrypted where it is to be.
async fn secured(
    core: &Core,
    slot: &Slot,
    stream: Stream,
    config: &SocketConfig,
    tls: Option<&Tls>,
    addr: &str,
) {
    let stream = match tls {
        None => stream,
        Some(tls) => match tls.secure(&stream).await {
            Ok(encrypted) => encrypted,
            Err(e) => {
                tracing::warn!("chardev '{}': {}: {e}", core.id, stream.peer());
                return stream.shutdown();
            }
        },
    };
    connection(core, slot, stream, config, addr).await;
}

/// Serves one connection until it ends.
async fn connection(core: &Core, slot: &Slot, stream: Stream, config: &SocketConfig, addr: &str) {
    if config.telnet && config.server && stream.write_all(&HELLO).await.is_err() {
        return;
    }
    slot.set(Some(stream.clone()));
    core.set_filename(format!("{addr} <-> {}", stream.peer()));
    core.set_open(true);
    if config.telnet {
        let mut telnet = Filter::default();
        pump(core, &stream, Hangup::Ends, |bytes| {
            for _ in 0..telnet.filter(bytes) {
                core.send_event(CharEvent::Break);
            }
        })
        .await;
    } else {
        pump(core, &stream, Hangup::Ends, |_| {}).await;
    }
    core.set_filename(format!("disconnected:{addr}"));
    if core.linger.load(Ordering::Acquire) && !stream.is_hung_up() {
        // Only the client's side has ended: what it asked is still answered.
        core.set_open(false);
        rt::timeout(LINGER, stream.closed()).await;
    }
    stream.shutdown();
    slot.set(None);
    core.set_open(false);
}

pub(crate) async fn socket(
    core: Arc<Core>,
    config: SocketConfig,
    tls: Option<Tls>,
    log: Option<File>,
) -> Result<Arc<Chardev>, QError> {
    let slot = Slot::new(config.telnet);
    let (c, s) = (core.clone(), slot.clone());
    let task = if config.server {
        let listener = Listener::bind(&config.addr).await.map_err(|e| qerr!("{e}"))?;
        let addr = format!("{}{}{}", prefix(&config), listener.addr(), suffix(&config));
        core.set_filename(format!("disconnected:{addr}"));
        core.handle.spawn(move || async move {
            loop {
                match listener.accept().await {
                    Ok(stream) => secured(&c, &s, stream, &config, tls.as_ref(), &addr).await,
                    Err(e) => {
                        tracing::warn!("chardev '{}' no longer listens: {e}", c.id);
                        return;
                    }
                }
            }
        })
    } else {
        let addr = format!("{}{}{}", prefix(&config), config.addr, suffix(&config));
        core.set_filename(format!("disconnected:{addr}"));
        // Without a promise to try again, a refusal is an error of the configuration.
        let mut first = match config.reconnect {
            None => Some(io::connect(&config.addr).await.map_err(|e| qerr!("{e}"))?),
            Some(_) => None,
        };
        core.handle.spawn(move || async move {
            loop {
                let stream = match first.take() {
                    Some(s) => Ok(s),
                    None => io::connect(&config.addr).await,
                };
                match stream {
                    Ok(stream) => secured(&c, &s, stream, &config, tls.as_ref(), &addr).await,
                    Err(e) => trace::point!("chardev_connect_failed", id = c.id, error = %e),
                }
                match config.reconnect {
                    Some(after) => rt::sleep(after).await,
                    None => return,
                }
            }
        })
    };
    Ok(Chardev::of_socket(core, slot, log, task))
}
