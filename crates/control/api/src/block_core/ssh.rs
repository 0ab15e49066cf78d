//! Files of other hosts, over SSH.

use qapi::Qapi;

use crate::sockets::InetSocketAddress;

/// A kind of hash of a host's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum SshHostKeyCheckHashType {
    /// MD5.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// The hash that a host's key must have.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct SshHostKeyHash {
    /// The kind of hash.
    pub r#type: SshHostKeyCheckHashType,
    /// The hash in hexadecimal digits, with or without colons.
    pub hash: String,
}

/// How it is found out whether a host is the one that it should be.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "mode", tag_enum = "SshHostKeyCheckMode")]
pub enum SshHostKeyCheck {
    /// Not at all: whoever can redirect the connection can read and change what is sent.
    None,
    /// Its key has this hash.
    Hash(SshHostKeyHash),
    /// Its key is among the known hosts of the user, or of the system.
    #[qapi(name = "known_hosts")]
    KnownHosts,
}

/// Options of a file of another host. The program `ssh` connects, with the user's configuration, agent and keys.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct BlockdevOptionsSsh {
    /// Where the host's SSH server listens. The host may also be a name that the user's configuration explains.
    pub server: InetSocketAddress,
    /// The file.
    pub path: String,
    /// The user on that host. The one that the configuration names, or the user's own name, unless given.
    pub user: Option<String>,
    /// How the host's key is checked. `known_hosts` unless given.
    pub host_key_check: Option<SshHostKeyCheck>,
}
