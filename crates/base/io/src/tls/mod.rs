//! TLS over a [`Stream`], which stays a [`Stream`].
//!
//! [`Credentials`] say who one is and whom one trusts; [`accept`] and [`connect`] do the handshake on a stream and give the
//! stream that is encrypted. OpenSSL sees memory only: what it wants to send and what came from the peer lie in buffers
//! that are moved to and from the stream.

mod creds;
mod priority;
mod session;

pub use creds::{Credentials, Kind, Role};
pub(crate) use session::{RECORD, Session};

use crate::Stream;
use openssl::ssl::Ssl;

/// Waits for a client's handshake on `stream`, of which nothing may have been read ahead.
///
/// # Errors
/// What went wrong, for people.
pub async fn accept(stream: &Stream, creds: &Credentials) -> Result<Stream, String> {
    let ssl = creds.session()?;
    run(stream, ssl, Role::Server).await
}

/// Does the handshake with a server that is called `host`; with certificates, its own must be for that name (or IP address).
///
/// # Errors
/// What went wrong, for people: a whole sentence.
pub async fn connect(stream: &Stream, creds: &Credentials, host: &str) -> Result<Stream, String> {
    let mut ssl = creds.session()?;
    if creds.kind == Kind::X509 && creds.verify {
        let p = ssl.param_mut();
        let set = match host.parse() {
            Ok(ip) => p.set_ip(ip),
            Err(_) => p.set_host(host),
        };
        set.map_err(|e| creds::text(&e))?;
    }
    if creds.kind == Kind::X509 && host.parse::<std::net::IpAddr>().is_err() && !host.is_empty() {
        // Servers with several names choose by this; one that is no name is not sent.
        let _ = ssl.set_hostname(host);
    }
    run(stream, ssl, Role::Client).await.map_err(|e| match NAME_DIFFERS.contains(&e.as_str()) {
        true => format!("Certificate does not match the hostname {host}"),
        false => format!("TLS handshake failed: {e}"),
    })
}

/// What OpenSSL says where the server's certificate is for another name or address.
const NAME_DIFFERS: [&str; 2] = ["hostname mismatch", "IP address mismatch"];

async fn run(stream: &Stream, ssl: Ssl, role: Role) -> Result<Stream, String> {
    let session = Session::new(stream.clone(), ssl, role)?;
    session.handshake().await?;
    Ok(Stream::encrypted(session))
}

#[cfg(test)]
mod tests;
