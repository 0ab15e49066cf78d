//! What the tools' options say about the encryption of qcow and qcow2.

use qapi::{Dict, QError, Value, qerr};

/// Brings the options of a new qcow or qcow2 image into the contract's form: `encryption=on` is `encrypt.format=aes`, which the
/// contract calls `qcow`.
///
/// # Errors
/// Both names at once; no format; an option that the format `aes` does not have.
pub fn adapt_old(d: &mut Dict) -> Result<(), QError> {
    let on = d.remove("encryption").is_some_and(|v| v.as_str() == Some("on"));
    let given = d.get("encrypt").and_then(Value::as_dict).is_some_and(|e| e.contains_key("format"));
    if on && given {
        return Err(qerr!("'encrypt.format' and its alias 'encryption' can't be used at the same time"));
    }
    if on {
        block::create::put(d, "encrypt.format", Value::from("aes"));
    }
    let Some(Value::Dict(e)) = d.get_mut("encrypt") else { return Ok(()) };
    match e.get("format").and_then(Value::as_str) {
        None => return Err(qerr!("Parameter 'encrypt.format' is missing")),
        Some("aes" | "qcow") => e.insert("format", "qcow"),
        Some(_) => return Ok(()),
    };
    match e.keys().find(|k| !["format", "key-secret"].contains(k)) {
        Some(name) => Err(qerr!("Parameter 'encrypt.{name}' is unexpected")),
        None => Ok(()),
    }
}
