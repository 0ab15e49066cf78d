//! Credentials: certificates, shared keys, or none.

use super::priority::Priority;
use openssl::asn1::Asn1Time;
use openssl::dh::Dh;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::pkey::PKey;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslFiletype, SslMethod, SslOptions, SslVerifyMode, SslVersion,
};
use openssl::x509::store::X509Lookup;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509NameRef};
use std::cmp::Ordering;
use std::path::Path;
use std::sync::OnceLock;

/// Which end of a connection one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that connects.
    Client,
    /// The one that is connected to.
    Server,
}

/// What the ends know each other by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Certificates.
    X509,
    /// A secret that both have.
    Psk,
    /// Nothing: it keeps out those who only listen.
    Anon,
}

/// What one shows to the peer, and what one wants to see.
pub struct Credentials {
    pub(super) context: SslContext,
    pub(super) kind: Kind,
    pub(super) verify: bool,
    role: Role,
    priority: Priority,
}

/// The longest file of keys that is read, bytes.
const MAX_FILE: u64 = 1 << 20;

/// OpenSSL's errors as one sentence.
pub(super) fn text(e: &ErrorStack) -> String {
    let all: Vec<_> = e.errors().iter().filter_map(|e| e.reason()).collect();
    if all.is_empty() { "TLS failed".into() } else { all.join(", ") }
}

/// A distinguished name as text (RFC 4514): the last part comes first.
pub(super) fn name_of(name: &X509NameRef) -> String {
    let mut parts: Vec<String> = Vec::new();
    for e in name.entries() {
        let key = e.object().nid().short_name().unwrap_or("OID");
        let value = e.data().to_string().unwrap_or_default();
        let mut escaped = String::new();
        for (i, c) in value.chars().enumerate() {
            let special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';');
            if special || (i == 0 && matches!(c, '#' | ' ')) {
                escaped.push('\\');
            }
            escaped.push(c);
        }
        parts.push(format!("{key}={escaped}"));
    }
    parts.reverse();
    parts.join(",")
}

/// Where a session keeps the name of the key that its client asked for: with TLS 1.3, OpenSSL does not.
pub(super) fn identity_index() -> Result<Index<Ssl, String>, String> {
    static INDEX: OnceLock<Result<Index<Ssl, String>, String>> = OnceLock::new();
    INDEX.get_or_init(|| Ssl::new_ex_index().map_err(|e| text(&e))).clone()
}

fn builder() -> Result<SslContextBuilder, String> {
    let mut b = SslContext::builder(SslMethod::tls()).map_err(|e| text(&e))?;
    b.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(|e| text(&e))?;
    b.set_options(SslOptions::NO_RENEGOTIATION | SslOptions::NO_COMPRESSION | SslOptions::NO_TICKET);
    // Nothing is resumed: every connection shows its credentials anew.
    b.set_session_cache_mode(openssl::ssl::SslSessionCacheMode::OFF);
    Ok(b)
}

fn key_exchange(b: &mut SslContextBuilder) -> Result<(), String> {
    let dh = Dh::get_2048_256().map_err(|e| text(&e))?;
    b.set_tmp_dh(&dh).map_err(|e| text(&e))
}

impl Credentials {
    /// Which end they are for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// What they are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same, limited to versions and ciphers that a priority string names, in the words of GnuTLS: a level (`NORMAL`,
    /// `SECURE128`, `SECURE192`, `SECURE256`, `PFS`), then words such as `-VERS-TLS1.3`. For sessions that begin from now on.
    ///
    /// # Errors
    /// It has words that have no meaning here, or leaves nothing that can be used.
    pub fn with_priority(self, priority: &str) -> Result<Credentials, String> {
        let priority = Priority::parse(priority)?;
        priority.suits(self.kind)?;
        Ok(Credentials { priority, ..self })
    }

    /// A session that begins.
    pub(super) fn session(&self) -> Result<Ssl, String> {
        let mut ssl = Ssl::new(&self.context).map_err(|e| text(&e))?;
        self.priority.apply(&mut ssl, self.kind)?;
        Ok(ssl)
    }

    /// No credentials: whoever comes is taken. Anonymous Diffie-Hellman, TLS 1.2.
    ///
    /// # Errors
    /// The library's.
    pub fn anonymous(role: Role) -> Result<Credentials, String> {
        let mut b = builder()?;
        b.set_max_proto_version(Some(SslVersion::TLS1_2)).map_err(|e| text(&e))?;
        b.set_cipher_list("aNULL:!eNULL:!3DES:@SECLEVEL=0").map_err(|e| text(&e))?;
        key_exchange(&mut b)?;
        Ok(Credentials {
            context: b.build(),
            kind: Kind::Anon,
            verify: false,
            role,
            priority: Priority::default(),
        })
    }

    /// Shared keys. A server's `dir` has them in the file `keys.psk`, a line `NAME:HEXDIGITS` each; so has a client's, which
    /// shows the name `user`.
    ///
    /// # Errors
    /// The file cannot be read; it has no key for a client's name.
    pub fn psk(role: Role, dir: &Path, user: &str) -> Result<Credentials, String> {
        let path = dir.join("keys.psk");
        let file = read(&path)?;
        let lines = file.lines().filter_map(|l| l.trim().split_once(':'));
        let keys: Vec<(String, Vec<u8>)> =
            lines.filter_map(|(n, k)| Some((n.to_owned(), unhex(k)?))).collect();
        let find = |name: &[u8]| keys.iter().find(|(n, _)| n.as_bytes() == name).map(|(_, k)| k.clone());
        let mut b = builder()?;
        b.set_cipher_list("PSK:!eNULL:!3DES").map_err(|e| text(&e))?;
        // The only one of TLS 1.3 that goes with a key that has no hash of its own.
        b.set_ciphersuites("TLS_AES_128_GCM_SHA256").map_err(|e| text(&e))?;
        match role {
            Role::Client => {
                let key = find(user.as_bytes())
                    .ok_or_else(|| format!("Username {user} not found in PSK file {}", path.display()))?;
                let user = user.to_owned();
                b.set_psk_client_callback(move |_, _, identity, secret| {
                    let (name, n) = (user.as_bytes(), key.len());
                    // The identity ends with a zero byte.
                    if name.len() >= identity.len() || n > secret.len() {
                        return Ok(0);
                    }
                    identity[..name.len()].copy_from_slice(name);
                    identity[name.len()] = 0;
                    secret[..n].copy_from_slice(&key);
                    Ok(n)
                });
            }
            Role::Server => {
                key_exchange(&mut b)?;
                let index = identity_index()?;
                b.set_psk_server_callback(move |ssl, identity, secret| {
                    let hit = keys.iter().find(|(n, _)| Some(n.as_bytes()) == identity);
                    Ok(match hit {
                        Some((name, key)) if key.len() <= secret.len() => {
                            ssl.set_ex_data(index, name.clone());
                            secret[..key.len()].copy_from_slice(key);
                            key.len()
                        }
                        _ => 0,
                    })
                });
            }
        }
        Ok(Credentials {
            context: b.build(),
            kind: Kind::Psk,
            verify: true,
            role,
            priority: Priority::default(),
        })
    }

    /// A client of servers that anybody may have: their certificates are checked against the authorities that this host
    /// trusts (those of the library, or of the environment's `SSL_CERT_FILE` and `SSL_CERT_DIR`), and for their name; not at all
    /// without `verify`.
    ///
    /// # Errors
    /// The library's.
    pub fn public(verify: bool) -> Result<Credentials, String> {
        let mut b = builder()?;
        if verify {
            b.set_default_verify_paths().map_err(|e| text(&e))?;
        }
        b.set_verify(if verify { SslVerifyMode::PEER } else { SslVerifyMode::NONE });
        Ok(Credentials {
            context: b.build(),
            kind: Kind::X509,
            verify,
            role: Role::Client,
            priority: Priority::default(),
        })
    }

    /// Certificates, in PEM files of `dir`: `ca-cert.pem`, whom one trusts; `ca-crl.pem`, what was revoked, if it is there;
    /// `server-cert.pem` and `server-key.pem`, or `client-cert.pem` and `client-key.pem` if they are there. `verify`: a server
    /// wants a certificate from its clients, and a client one from its server that is for its name. `sane`: certificates must be valid now. `password` opens the
    /// key's file.
    ///
    /// # Errors
    /// What is missing, cannot be read, does not fit, or is not valid at this time.
    pub fn x509(
        role: Role,
        dir: &Path,
        verify: bool,
        sane: bool,
        password: Option<&[u8]>,
    ) -> Result<Credentials, String> {
        let mut b = builder()?;
        let ca = dir.join("ca-cert.pem");
        let exists = |p: &Path| p.exists();
        let need_ca = role == Role::Client || verify;
        if exists(&ca) || need_ca {
            let pem = read(&ca)?;
            let list = X509::stack_from_pem(pem.as_bytes()).map_err(|e| {
                format!("Unable to import CA certificate list {}: {}", ca.display(), text(&e))
            })?;
            for c in list.iter().filter(|_| sane) {
                in_time(c, &ca, "CA")?;
            }
            b.set_ca_file(&ca)
                .map_err(|e| format!("Cannot load CA certificate '{}': {}", ca.display(), text(&e)))?;
        }
        let crl = dir.join("ca-crl.pem");
        if exists(&crl) {
            let fail = |e: ErrorStack| format!("Cannot load CRL '{}': {}", crl.display(), text(&e));
            let store = b.cert_store_mut();
            let lookup = store.add_lookup(X509Lookup::file()).map_err(fail)?;
            lookup.load_crl_file(&crl, SslFiletype::PEM).map_err(fail)?;
            store.set_flags(X509VerifyFlags::CRL_CHECK).map_err(fail)?;
        }
        let name = if role == Role::Server { "server" } else { "client" };
        let (cert, key) = (dir.join(format!("{name}-cert.pem")), dir.join(format!("{name}-key.pem")));
        if role == Role::Server || exists(&cert) || exists(&key) {
            load_own(&mut b, &cert, &key, sane.then_some(name), password)?;
        }
        let mode = match (verify, role) {
            (true, Role::Server) => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
            (true, Role::Client) => SslVerifyMode::PEER,
            (false, _) => SslVerifyMode::NONE,
        };
        b.set_verify(mode);
        Ok(Credentials { context: b.build(), kind: Kind::X509, verify, role, priority: Priority::default() })
    }
}

fn load_own(
    b: &mut SslContextBuilder,
    cert: &Path,
    key: &Path,
    check: Option<&str>,
    password: Option<&[u8]>,
) -> Result<(), String> {
    let fail = |e: ErrorStack| {
        format!("Cannot load certificate '{}' & key '{}': {}", cert.display(), key.display(), text(&e))
    };
    let own = X509::from_pem(read(cert)?.as_bytes()).map_err(fail)?;
    if let Some(name) = check {
        in_time(&own, cert, name)?;
    }
    let pem = read(key)?;
    let private = match password {
        Some(p) => PKey::private_key_from_pem_passphrase(pem.as_bytes(), p),
        // Nobody is asked for a password that was not given.
        None => PKey::private_key_from_pem_callback(pem.as_bytes(), |_| Ok(0)),
    };
    b.set_certificate_chain_file(cert).map_err(fail)?;
    b.set_private_key(&*private.map_err(fail)?).map_err(fail)?;
    b.check_private_key().map_err(fail)
}

fn in_time(c: &X509, path: &Path, what: &str) -> Result<(), String> {
    let now = Asn1Time::days_from_now(0).map_err(|e| text(&e))?;
    let path = path.display();
    if c.not_after().compare(&now).is_ok_and(|o| o == Ordering::Less) {
        return Err(format!("The {what} certificate {path} has expired"));
    }
    if c.not_before().compare(&now).is_ok_and(|o| o == Ordering::Greater) {
        return Err(format!("The {what} certificate {path} is not yet active"));
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    let cannot = |e: std::io::Error| {
        format!("Unable to access credentials {}: {}", path.display(), base::Errno::from(e))
    };
    let len = std::fs::metadata(path).map_err(cannot)?.len();
    if len > MAX_FILE {
        return Err(format!("Credentials {} are larger than {MAX_FILE} bytes", path.display()));
    }
    std::fs::read_to_string(path).map_err(cannot)
}

fn unhex(s: &str) -> Option<Vec<u8>> {
    let s = s.trim();
    let pairs = (0..s.len()).step_by(2);
    pairs.map(|i| s.get(i..i + 2).and_then(|p| u8::from_str_radix(p, 16).ok())).collect()
}
