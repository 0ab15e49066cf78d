//! The envelope of a request and of a reply.

use qapi::{Dict, QError, Value};

/// A request whose envelope is right.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) command: String,
    pub(crate) arguments: Value,
    pub(crate) oob: bool,
}

/// A request's `id`, whatever else is wrong with it.
pub(crate) fn id(request: &Value) -> Option<Value> {
    request.as_dict().and_then(|d| d.get("id")).cloned()
}

/// Whether a request asks for out-of-band execution (and so is not queued behind others).
pub(crate) fn is_oob(request: &Value) -> bool {
    request.as_dict().is_some_and(|d| d.contains_key("exec-oob") && !d.contains_key("execute"))
}

/// Checks a request's envelope. `oob_enabled`: whether the session negotiated out-of-band execution.
pub(crate) fn check(request: Value, oob_enabled: bool) -> Result<Request, QError> {
    let Value::Dict(dict) = request else {
        return Err(QError::new("QMP input must be a JSON object"));
    };
    let mut command: Option<(String, bool)> = None;
    let mut arguments = Value::Dict(Dict::new());
    for (name, value) in dict {
        match name.as_str() {
            "execute" | "exec-oob" if name == "execute" || oob_enabled => {
                let Value::Str(text) = value else {
                    return Err(qapi::qerr!("QMP input member '{name}' must be a string"));
                };
                if command.is_some() {
                    return Err(QError::new("QMP input member 'execute' clashes with 'exec-oob'"));
                }
                command = Some((text, name == "exec-oob"));
            }
            "arguments" => {
                if !matches!(value, Value::Dict(_)) {
                    return Err(QError::new("QMP input member 'arguments' must be an object"));
                }
                arguments = value;
            }
            "id" => {}
            _ => return Err(qapi::qerr!("QMP input member '{name}' is unexpected")),
        }
    }
    match command {
        Some((command, oob)) => Ok(Request { command, arguments, oob }),
        None => Err(QError::new("QMP input lacks member 'execute'")),
    }
}

/// The reply to a request.
pub(crate) fn reply(result: Result<Value, QError>, id: Option<Value>) -> Value {
    let mut d = Dict::new();
    match result {
        Ok(v) => d.insert("return", v),
        Err(e) => {
            let mut error = Dict::new();
            error.insert("class", e.class().as_str());
            error.insert("desc", e.desc());
            d.insert("error", error)
        }
    };
    if let Some(id) = id {
        d.insert("id", id);
    }
    Value::Dict(d)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(text: &str, oob: bool) -> Result<Request, String> {
        check(Value::parse_json(text).unwrap(), oob).map_err(|e| e.desc().to_owned())
    }

    #[test]
    fn envelopes() {
        for (text, oob, want) in [
            ("1", true, "QMP input must be a JSON object"),
            ("[{}]", true, "QMP input must be a JSON object"),
            ("{}", true, "QMP input lacks member 'execute'"),
            ("{'arguments': {}}", true, "QMP input lacks member 'execute'"),
            ("{'execute': 1}", true, "QMP input member 'execute' must be a string"),
            ("{'exec-oob': 1}", true, "QMP input member 'exec-oob' must be a string"),
            ("{'exec-oob': 'x'}", false, "QMP input member 'exec-oob' is unexpected"),
            ("{'execute': 'a', 'exec-oob': 'b'}", false, "QMP input member 'exec-oob' is unexpected"),
            ("{'execute': 'a', 'exec-oob': 'b'}", true, "QMP input member 'execute' clashes with 'exec-oob'"),
            ("{'execute': 'a', 'arguments': 1}", true, "QMP input member 'arguments' must be an object"),
            ("{'execute': 'a', 'x': 1}", true, "QMP input member 'x' is unexpected"),
            ("{'execute': 'a', 'control': {}}", true, "QMP input member 'control' is unexpected"),
        ] {
            assert_eq!(go(text, oob), Err(want.to_owned()), "{text}");
        }
        let r = go("{'exec-oob': 'a', 'id': null}", true).unwrap();
        assert!(r.oob && r.command == "a");
        assert!(is_oob(&Value::parse_json("{'exec-oob': 'a'}").unwrap()));
        assert!(!is_oob(&Value::parse_json("{'exec-oob': 'a', 'execute': 'b'}").unwrap()));
    }

    #[test]
    fn replies() {
        let id = Some(Value::parse_json("{'a': 1}").unwrap());
        assert_eq!(
            reply(Ok(Value::Dict(Dict::new())), id.clone()).to_json_ranked(false),
            r#"{"return": {}, "id": {"a": 1}}"#
        );
        assert_eq!(
            reply(Err(QError::new("no")), id).to_json_ranked(false),
            r#"{"id": {"a": 1}, "error": {"class": "GenericError", "desc": "no"}}"#
        );
    }
}
