//! Objects that a user makes, and the object tree: what `-object`, `object-add`, `object-del` and the `qom-` commands take and
//! give.

use qapi::{Qapi, Value};

/// A new object: its id, its type, and the type's properties.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct ObjectOptions {
    /// The type and its properties.
    #[qapi(union)]
    pub qom_type: ObjectProperties,
    /// The name under `/objects`.
    pub id: String,
}

/// The types of objects that users can make, with their properties.
#[allow(clippy::large_enum_variant, reason = "made by a user's command, one at a time")]
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(tag = "qom-type", tag_enum = "ObjectType")]
pub enum ObjectProperties {
    /// A thread that devices' queues can be served on.
    Iothread(IothreadProperties),
    /// Who may connect: a list of rules.
    AuthzList(AuthZListProperties),
    /// Who may connect: a list of rules in a file.
    AuthzListfile(AuthZListFileProperties),
    /// Who may connect: one identity.
    AuthzSimple(AuthZSimpleProperties),
    /// Guest RAM: anonymous memory.
    MemoryBackendRam(MemoryBackendProperties),
    /// Entropy from the host's system call.
    RngBuiltin,
    /// Entropy from a file.
    RngRandom(RngRandomProperties),
    /// A password or key.
    Secret(SecretProperties),
    /// A password or key in the kernel's keyring.
    #[qapi(name = "secret_keyring")]
    SecretKeyring(SecretKeyringProperties),
    /// Limits that block nodes share.
    ThrottleGroup(ThrottleGroupProperties),
    /// TLS without knowing who the peer is.
    TlsCredsAnon(TlsCredsAnonProperties),
    /// TLS with keys that both ends have.
    TlsCredsPsk(TlsCredsPskProperties),
    /// TLS with certificates.
    #[qapi(name = "tls-creds-x509")]
    TlsCredsX509(TlsCredsX509Properties),
}

/// Properties of `iothread`: how the thread looks for work before it sleeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct IothreadProperties {
    /// The longest time to look for work before sleeping, in nanoseconds, at most a second in effect; 0 for never. 32768 unless
    /// given.
    pub poll_max_ns: Option<i64>,
    /// What the time is multiplied with where it turned out to be too short; 0, the default, for 2.
    pub poll_grow: Option<i64>,
    /// What the time is divided by where there is less to do; 0, the default, to begin anew.
    pub poll_shrink: Option<i64>,
}

/// Properties of `memory-backend-ram`.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct MemoryBackendProperties {
    /// Commit all pages at once. Off unless given.
    pub prealloc: Option<bool>,
    /// The size in bytes; not 0.
    #[qapi(size)]
    pub size: u64,
}

/// Properties of `rng-random`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct RngRandomProperties {
    /// The file to read. `/dev/urandom` unless given.
    pub filename: Option<String>,
}

/// How a secret is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum QCryptoSecretFormat {
    /// As it is.
    #[default]
    Raw,
    /// In base64.
    Base64,
}

/// Properties of `secret`: one of `data` and `file` must be given.
#[derive(Clone, Default, PartialEq, Eq, Qapi)]
pub struct SecretProperties {
    /// How `data`, or what `file` holds, is written; `raw` unless given.
    pub format: Option<QCryptoSecretFormat>,
    /// The id of another secret of 32 bytes, with which this one is encrypted: AES-256 in CBC mode. Not encrypted unless given.
    pub keyid: Option<String>,
    /// The initialisation vector of the encryption, 16 bytes in base64. Needed with `keyid`.
    pub iv: Option<String>,
    /// The secret. Others on the host can see it on a command line: better use `file`, or encrypt it.
    pub data: Option<String>,
    /// The file that holds the secret, at most 1 MiB.
    pub file: Option<String>,
}

// By hand, so that no log shows a secret.
impl std::fmt::Debug for SecretProperties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let data = self.data.as_ref().map(|_| "…");
        f.debug_struct("SecretProperties")
            .field("data", &data)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Properties of `secret_keyring`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct SecretKeyringProperties {
    /// How the key's content is written; `raw` unless given.
    pub format: Option<QCryptoSecretFormat>,
    /// The id of another secret of 32 bytes, with which this one is encrypted: AES-256 in CBC mode. Not encrypted unless given.
    pub keyid: Option<String>,
    /// The initialisation vector of the encryption, 16 bytes in base64. Needed with `keyid`.
    pub iv: Option<String>,
    /// The key's serial number; not 0.
    pub serial: i32,
}

/// Limits of a `throttle-group`. What is left out stays as it is; in a new group there is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct ThrottleLimits {
    /// How many requests a second; 0 for no limit.
    pub iops_total: Option<i64>,
    /// How many requests a second in a burst; 0 for a tenth of a second's worth at once.
    pub iops_total_max: Option<i64>,
    /// How many seconds a burst of requests may last; 1 unless given.
    pub iops_total_max_length: Option<i64>,
    /// How many requests that read a second; 0 for no limit.
    pub iops_read: Option<i64>,
    /// How many requests that read a second in a burst; 0 for a tenth of a second's worth at once.
    pub iops_read_max: Option<i64>,
    /// How many seconds a burst of requests that read may last; 1 unless given.
    pub iops_read_max_length: Option<i64>,
    /// How many requests that write a second; 0 for no limit.
    pub iops_write: Option<i64>,
    /// How many requests that write a second in a burst; 0 for a tenth of a second's worth at once.
    pub iops_write_max: Option<i64>,
    /// How many seconds a burst of requests that write may last; 1 unless given.
    pub iops_write_max_length: Option<i64>,
    /// How many bytes a second; 0 for no limit.
    pub bps_total: Option<i64>,
    /// How many bytes a second in a burst; 0 for a tenth of a second's worth at once.
    pub bps_total_max: Option<i64>,
    /// How many seconds a burst of bytes may last; 1 unless given.
    pub bps_total_max_length: Option<i64>,
    /// How many bytes read a second; 0 for no limit.
    pub bps_read: Option<i64>,
    /// How many bytes read a second in a burst; 0 for a tenth of a second's worth at once.
    pub bps_read_max: Option<i64>,
    /// How many seconds a burst of bytes read may last; 1 unless given.
    pub bps_read_max_length: Option<i64>,
    /// How many bytes written a second; 0 for no limit.
    pub bps_write: Option<i64>,
    /// How many bytes written a second in a burst; 0 for a tenth of a second's worth at once.
    pub bps_write_max: Option<i64>,
    /// How many seconds a burst of bytes written may last; 1 unless given.
    pub bps_write_max_length: Option<i64>,
    /// Bytes that count as one request; a longer one counts as several. 0, the default, counts each as one.
    pub iops_size: Option<i64>,
}

/// Properties of `throttle-group`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct ThrottleGroupProperties {
    /// The limits.
    pub limits: Option<ThrottleLimits>,
    /// As `iops-total` in `limits`.
    #[qapi(unstable)]
    pub x_iops_total: Option<i64>,
    /// As `iops-total-max` in `limits`.
    #[qapi(unstable)]
    pub x_iops_total_max: Option<i64>,
    /// As `iops-total-max-length` in `limits`.
    #[qapi(unstable)]
    pub x_iops_total_max_length: Option<i64>,
    /// As `iops-read` in `limits`.
    #[qapi(unstable)]
    pub x_iops_read: Option<i64>,
    /// As `iops-read-max` in `limits`.
    #[qapi(unstable)]
    pub x_iops_read_max: Option<i64>,
    /// As `iops-read-max-length` in `limits`.
    #[qapi(unstable)]
    pub x_iops_read_max_length: Option<i64>,
    /// As `iops-write` in `limits`.
    #[qapi(unstable)]
    pub x_iops_write: Option<i64>,
    /// As `iops-write-max` in `limits`.
    #[qapi(unstable)]
    pub x_iops_write_max: Option<i64>,
    /// As `iops-write-max-length` in `limits`.
    #[qapi(unstable)]
    pub x_iops_write_max_length: Option<i64>,
    /// As `bps-total` in `limits`.
    #[qapi(unstable)]
    pub x_bps_total: Option<i64>,
    /// As `bps-total-max` in `limits`.
    #[qapi(unstable)]
    pub x_bps_total_max: Option<i64>,
    /// As `bps-total-max-length` in `limits`.
    #[qapi(unstable)]
    pub x_bps_total_max_length: Option<i64>,
    /// As `bps-read` in `limits`.
    #[qapi(unstable)]
    pub x_bps_read: Option<i64>,
    /// As `bps-read-max` in `limits`.
    #[qapi(unstable)]
    pub x_bps_read_max: Option<i64>,
    /// As `bps-read-max-length` in `limits`.
    #[qapi(unstable)]
    pub x_bps_read_max_length: Option<i64>,
    /// As `bps-write` in `limits`.
    #[qapi(unstable)]
    pub x_bps_write: Option<i64>,
    /// As `bps-write-max` in `limits`.
    #[qapi(unstable)]
    pub x_bps_write_max: Option<i64>,
    /// As `bps-write-max-length` in `limits`.
    #[qapi(unstable)]
    pub x_bps_write_max_length: Option<i64>,
    /// As `iops-size` in `limits`.
    #[qapi(unstable)]
    pub x_iops_size: Option<i64>,
}

/// Which end of a connection credentials are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum QCryptoTLSCredsEndpoint {
    /// The one that connects.
    #[default]
    Client,
    /// The one that is connected to.
    Server,
}

/// Properties of `tls-creds-anon`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct TlsCredsAnonProperties {
    /// Which end they are for; `client` unless given.
    pub endpoint: Option<QCryptoTLSCredsEndpoint>,
    /// Limits versions and ciphers, in the words of GnuTLS: `NORMAL`, `SECURE128`, `SECURE192`, `SECURE256` or `PFS`, then
    /// maybe words such as `:-VERS-TLS1.3`. Words that have no meaning here are refused. `NORMAL` unless given.
    pub priority: Option<String>,
}

/// Properties of `tls-creds-psk`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct TlsCredsPskProperties {
    /// The directory with the file `keys.psk`: lines `NAME:HEXDIGITS`. Needed.
    pub dir: Option<String>,
    /// Which end they are for; `client` unless given.
    pub endpoint: Option<QCryptoTLSCredsEndpoint>,
    /// Limits versions and ciphers, in the words of GnuTLS: `NORMAL`, `SECURE128`, `SECURE192`, `SECURE256` or `PFS`, then
    /// maybe words such as `:-VERS-TLS1.3`. Words that have no meaning here are refused. `NORMAL` unless given.
    pub priority: Option<String>,
    /// The name that a client shows; `qemu` unless given.
    pub username: Option<String>,
}

/// Properties of `tls-creds-x509`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct TlsCredsX509Properties {
    /// Whether the peer must show a certificate that the authority has signed; a server's must be for its name. On unless given.
    pub verify_peer: Option<bool>,
    /// The directory with `ca-cert.pem`, maybe `ca-crl.pem`, and certificate and key of this end: `server-cert.pem` and
    /// `server-key.pem`, or `client-cert.pem` and `client-key.pem`, which a client may do without. Needed.
    pub dir: Option<String>,
    /// Which end they are for; `client` unless given.
    pub endpoint: Option<QCryptoTLSCredsEndpoint>,
    /// Limits versions and ciphers, in the words of GnuTLS: `NORMAL`, `SECURE128`, `SECURE192`, `SECURE256` or `PFS`, then
    /// maybe words such as `:-VERS-TLS1.3`. Words that have no meaning here are refused. `NORMAL` unless given.
    pub priority: Option<String>,
    /// Refuse certificates that are not valid at this time already when the object is made. On unless given.
    pub sanity_check: Option<bool>,
    /// The id of the secret with the password of the key's file. Not encrypted unless given.
    pub passwordid: Option<String>,
}

/// Properties of `authz-simple`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct AuthZSimpleProperties {
    /// Who may: a certificate's subject such as `CN=laptop,O=Example,C=GB`, or the name of a shared key.
    pub identity: String,
}

/// What becomes of somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum QAuthZListPolicy {
    /// May not.
    #[default]
    Deny,
    /// May.
    Allow,
}

/// How a rule is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum QAuthZListFormat {
    /// Byte for byte.
    #[default]
    Exact,
    /// With `*` for any text and `?` for one byte.
    Glob,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct QAuthZListRule {
    /// The identity, or a pattern for it.
    pub r#match: String,
    /// What becomes of whom it matches.
    pub policy: QAuthZListPolicy,
    /// How it is compared; `exact` unless given.
    pub format: Option<QAuthZListFormat>,
}

/// Properties of `authz-list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct AuthZListProperties {
    /// What becomes of those whom no rule matches; `deny` unless given.
    pub policy: Option<QAuthZListPolicy>,
    /// The rules; the first that matches decides.
    pub rules: Option<Vec<QAuthZListRule>>,
}

/// Properties of `authz-listfile`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct AuthZListFileProperties {
    /// The file: a JSON object with the properties `policy` and `rules` of `authz-list`, at most 1 MiB.
    pub filename: String,
    /// Whether the file is read again when it has changed. On unless given.
    pub refresh: Option<bool>,
}

/// Makes an object.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(command = "object-add")]
pub struct ObjectAdd(pub ObjectOptions);

/// Deletes an object that a user made and nobody uses.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(command = "object-del")]
pub struct ObjectDel {
    /// Its id.
    pub id: String,
}

/// A property of an object.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct ObjectPropertyInfo {
    /// Its name.
    pub name: String,
    /// Its type.
    pub r#type: String,
}

/// Lists the properties of an object, its children among them.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(command = "qom-list", ret = Vec<ObjectPropertyInfo>)]
pub struct QomList {
    /// The object's path, or the end of it where that says enough.
    pub path: String,
}

/// Reads a property.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(command = "qom-get", ret = Value)]
pub struct QomGet {
    /// The object's path, or the end of it where that says enough.
    pub path: String,
    /// The property's name.
    pub property: String,
}

/// Sets a property.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(command = "qom-set")]
pub struct QomSet {
    /// The object's path, or the end of it where that says enough.
    pub path: String,
    /// The property's name.
    pub property: String,
    /// The value.
    pub value: Value,
}
