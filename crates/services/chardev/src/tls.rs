//! TLS on sockets: nothing of the device's own goes over a connection before the peer has shown who it is.

use crate::config::SocketConfig;
use io::tls::{Credentials, Role};
use io::{Addr, Stream};
use qapi::{QError, qerr};
use qom::ObjectTree;
use std::sync::Arc;
use std::time::Duration;

/// How long a handshake may take: meanwhile nobody else can connect.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What a socket with `tls-creds` needs.
pub(crate) struct Tls {
    creds: Arc<Credentials>,
    /// The object that decides, looked up anew for each client.
    authz: Option<(String, Arc<ObjectTree>)>,
    /// The name that a server's certificate must be for.
    host: String,
}

impl Tls {
    /// What the options ask for, if they do.
    pub(crate) fn new(
        config: &SocketConfig,
        objects: Option<&Arc<ObjectTree>>,
    ) -> Result<Option<Tls>, QError> {
        let Some(id) = &config.tls_creds else { return Ok(None) };
        let role = if config.server { Role::Server } else { Role::Client };
        let objects = objects.ok_or_else(|| qerr!("No TLS credentials with id '{id}'"))?;
        let creds = objects.tls(id, role)?;
        let host = match &config.addr {
            Addr::Inet(a) => a.host.clone(),
            _ => String::new(),
        };
        let authz = config.tls_authz.clone().filter(|_| config.server).map(|id| (id, objects.clone()));
        Ok(Some(Tls { creds, authz, host }))
    }

    /// The encrypted stream over a new connection; what went wrong otherwise.
    pub(crate) async fn secure(&self, stream: &Stream) -> Result<Stream, String> {
        let handshake = async {
            match self.creds.role() {
                Role::Server => {
                    let accepted = io::tls::accept(stream, &self.creds).await;
                    accepted.map_err(|e| format!("TLS handshake failed: {e}"))
                }
                Role::Client => io::tls::connect(stream, &self.creds, &self.host).await,
            }
        };
        let encrypted = rt::timeout(HANDSHAKE, handshake)
            .await
            .unwrap_or_else(|| Err("TLS handshake failed: it takes too long".into()));
        let encrypted = encrypted?;
        let Some((id, objects)) = &self.authz else { return Ok(encrypted) };
        // Nobody in particular is nobody who may; neither may anybody while there is nothing that decides.
        let who = encrypted.identity();
        let authz = objects.authz(id).map_err(|e| e.desc().to_owned());
        match (&who, authz) {
            (Some(who), Ok(authz)) if authz.allows(who) == Some(true) => Ok(encrypted),
            (_, Err(e)) => {
                encrypted.shutdown();
                Err(e)
            }
            (who, Ok(_)) => {
                encrypted.shutdown();
                Err(format!("TLS peer {} is denied", who.as_deref().unwrap_or("without a name")))
            }
        }
    }
}
