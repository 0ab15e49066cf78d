//! What a client tells people of a server that refuses.

use crate::client::Refused;
use crate::spec::*;

/// An option, as messages call it.
pub fn option_name(option: u32) -> &'static str {
    match option {
        OPT_EXPORT_NAME => "export name",
        OPT_ABORT => "abort",
        OPT_LIST => "list",
        OPT_STARTTLS => "starttls",
        OPT_INFO => "info",
        OPT_GO => "go",
        OPT_STRUCTURED_REPLY => "structured reply",
        OPT_LIST_META_CONTEXT => "list meta context",
        OPT_SET_META_CONTEXT => "set meta context",
        OPT_EXTENDED_HEADERS => "extended headers",
        _ => "<unknown>",
    }
}

/// A kind of reply to an option, as messages call it.
pub fn reply_name(kind: u32) -> &'static str {
    match kind {
        REP_ACK => "ack",
        REP_SERVER => "server",
        REP_INFO => "info",
        REP_META_CONTEXT => "meta context",
        REP_ERR_UNSUP => "unsupported",
        REP_ERR_POLICY => "denied by policy",
        REP_ERR_INVALID => "invalid",
        REP_ERR_PLATFORM => "platform lacks support",
        REP_ERR_TLS_REQD => "TLS required",
        REP_ERR_UNKNOWN => "export unknown",
        REP_ERR_SHUTDOWN => "server shutting down",
        REP_ERR_BLOCK_SIZE_REQD => "block size required",
        REP_ERR_TOO_BIG => "option payload too big",
        REP_ERR_EXT_HEADER_REQD => "extended headers required",
        _ => "<unknown>",
    }
}

/// The server answered an option with an error; `said` is the reply's data.
pub fn refused(option: u32, kind: u32, said: &[u8]) -> Refused {
    let at = format!("option {option} ({})", option_name(option));
    let text = match kind {
        REP_ERR_UNSUP => format!("Unsupported {at}"),
        REP_ERR_POLICY => format!("Denied by server for {at}"),
        REP_ERR_INVALID => format!("Invalid parameters for {at}"),
        REP_ERR_PLATFORM => format!("Server lacks support for {at}"),
        REP_ERR_TLS_REQD => format!("TLS negotiation required before {at}"),
        REP_ERR_UNKNOWN => "Requested export not available".into(),
        REP_ERR_SHUTDOWN => format!("Server shutting down before {at}"),
        REP_ERR_BLOCK_SIZE_REQD => format!("Server requires INFO_BLOCK_SIZE for {at}"),
        _ => format!("Unknown error code when asking for {at}"),
    };
    let mut hint = String::new();
    if kind == REP_ERR_TLS_REQD {
        hint.push_str("Did you forget a valid tls-creds?");
    }
    if !said.is_empty() {
        let said = String::from_utf8_lossy(&said[..said.len().min(MAX_STRING)]);
        hint.push_str(if hint.is_empty() { "" } else { "\n" });
        hint.push_str(&format!("server reported: {said}"));
    }
    Refused { text, hint: Some(hint).filter(|h| !h.is_empty()) }
}

/// The server answered another option than the one that it was asked for.
pub fn other_option(got: u32, option: u32) -> String {
    format!(
        "Unexpected option type {got} ({}), expected {option} ({})",
        option_name(got),
        option_name(option)
    )
}

/// The server answered with a kind of reply that the option does not have.
pub fn unexpected(option: u32, kind: u32) -> String {
    let (expected, word) = match option {
        OPT_LIST => (REP_SERVER, "Unexpected"),
        OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => (REP_META_CONTEXT, "Unexpected"),
        OPT_INFO | OPT_GO => (REP_INFO, "unexpected"),
        _ => {
            let (name, reply) = (option_name(option), reply_name(kind));
            return format!(
                "Server answered option {option} ({name}) with unexpected reply {kind:x} ({reply})"
            );
        }
    };
    format!("{word} reply type {kind} ({}), expected {expected} ({})", reply_name(kind), reply_name(expected))
}

/// A reply's data is longer than it may be.
pub fn too_long(option: u32, kind: u32) -> String {
    if kind & REP_FLAG_ERROR != 0 {
        return format!("server error {kind} ({}) message is too long", reply_name(kind));
    }
    format!("The server's reply to option {option} ({}) is too long", option_name(option))
}
