//! `authz-simple`, `authz-list` and `authz-listfile`: who may connect, by the identity that TLS has proved.

use crate::object::{Object, Property};
use crate::tree::ObjectTree;
use api::qom::{
    AuthZListFileProperties, AuthZListProperties, AuthZSimpleProperties, QAuthZListFormat, QAuthZListPolicy,
    QAuthZListRule,
};
use parking_lot::Mutex;
use qapi::{QError, QapiEnum, Value, from_json, qerr, to_value};
use std::io::Read;
use std::sync::Arc;
use std::time::SystemTime;

/// The largest file of rules, bytes.
const MAX_FILE: u64 = 1 << 20;

/// `authz-simple`: one identity may.
pub struct AuthzSimple(pub(crate) AuthZSimpleProperties);

impl Object for AuthzSimple {
    fn type_name(&self) -> &str {
        "authz-simple"
    }

    fn properties(&self) -> Vec<Property> {
        vec![Property::new("identity", "string")]
    }

    fn get(&self, name: &str) -> Option<Value> {
        (name == "identity").then(|| Value::Str(self.0.identity.clone()))
    }

    fn allows(&self, identity: &str) -> Option<bool> {
        Some(self.0.identity == identity)
    }
}

/// `authz-list`: the first rule that matches decides.
pub struct AuthzList(pub(crate) AuthZListProperties);

impl Object for AuthzList {
    fn type_name(&self) -> &str {
        "authz-list"
    }

    fn properties(&self) -> Vec<Property> {
        vec![Property::new("policy", "QAuthZListPolicy"), Property::new("rules", "QAuthZListRule")]
    }

    fn get(&self, name: &str) -> Option<Value> {
        match name {
            "policy" => Some(Value::Str(self.0.policy.unwrap_or_default().as_str().into())),
            "rules" => Some(to_value(&self.0.rules.clone().unwrap_or_default())),
            _ => None,
        }
    }

    fn allows(&self, identity: &str) -> Option<bool> {
        Some(decide(&self.0, identity))
    }
}

/// What the first rule that matches says of somebody.
fn decide(list: &AuthZListProperties, identity: &str) -> bool {
    let hit = |r: &&QAuthZListRule| match r.format.unwrap_or_default() {
        QAuthZListFormat::Exact => r.r#match == identity,
        QAuthZListFormat::Glob => glob(r.r#match.as_bytes(), identity.as_bytes()),
    };
    let rules = list.rules.as_deref().unwrap_or_default();
    let policy = rules.iter().find(hit).map_or(list.policy.unwrap_or_default(), |r| r.policy);
    policy == QAuthZListPolicy::Allow
}

/// By what one sees that a file has changed.
type Stamp = (Option<SystemTime>, u64);

/// `authz-listfile`: as `authz-list`, with the rules in a file.
pub struct AuthzListFile {
    file: AuthZListFileProperties,
    rules: Mutex<(Stamp, AuthZListProperties)>,
}

impl AuthzListFile {
    pub(crate) fn new(file: AuthZListFileProperties) -> Result<AuthzListFile, QError> {
        let rules = load(&file.filename)?;
        Ok(AuthzListFile { file, rules: Mutex::new(rules) })
    }

    /// Reads the file again if it is another now. While it cannot be read, the rules are the old ones.
    fn refresh(&self) {
        let name = &self.file.filename;
        let stamp = std::fs::metadata(name).map(|m| (m.modified().ok(), m.len()));
        let mut rules = self.rules.lock();
        if stamp.is_ok_and(|s| s == rules.0) {
            return;
        }
        match load(name) {
            Ok(new) => *rules = new,
            Err(e) => tracing::warn!("the rules stay as they were: {}", e.desc()),
        }
    }
}

fn load(name: &str) -> Result<(Stamp, AuthZListProperties), QError> {
    let cannot = |e: std::io::Error| qerr!("Unable to read '{name}': {}", base::Errno::from(e));
    let file = std::fs::File::open(name).map_err(cannot)?;
    let about = file.metadata().map_err(cannot)?;
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > MAX_FILE {
        return Err(qerr!("File '{name}' is larger than {MAX_FILE} bytes"));
    }
    let value = Value::parse_json(&text)?;
    if !matches!(value, Value::Dict(_)) {
        return Err(qerr!("File '{name}' must contain a JSON object"));
    }
    Ok(((about.modified().ok(), about.len()), from_json(value)?))
}

impl Object for AuthzListFile {
    fn type_name(&self) -> &str {
        "authz-listfile"
    }

    fn properties(&self) -> Vec<Property> {
        vec![Property::new("filename", "string"), Property::new("refresh", "bool")]
    }

    fn get(&self, name: &str) -> Option<Value> {
        match name {
            "filename" => Some(Value::Str(self.file.filename.clone())),
            "refresh" => Some(Value::Bool(self.file.refresh.unwrap_or(true))),
            _ => None,
        }
    }

    fn allows(&self, identity: &str) -> Option<bool> {
        if self.file.refresh.unwrap_or(true) {
            self.refresh();
        }
        Some(decide(&self.rules.lock().1, identity))
    }
}

/// Whether `text` matches: `*` stands for any bytes, `?` for one. Takes at most the product of the lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much it covers so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, covered)) => {
                    star = Some((at, covered + 1));
                    p = at + 1;
                    t = covered + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

impl ObjectTree {
    /// The object `id` that decides who may connect.
    ///
    /// # Errors
    /// There is none of this name, or it is something else.
    pub fn authz(&self, id: &str) -> Result<Arc<dyn Object>, QError> {
        let object = self.get(id).ok_or_else(|| qerr!("Unable to find authz object '{id}'"))?;
        match object.allows("") {
            Some(_) => Ok(object),
            None => Err(qerr!("Object with id '{id}' is not an authz object")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qapi::from_json;

    #[test]
    fn globs() {
        for (p, t, yes) in [
            ("*", "", true),
            ("CN=*,O=x", "CN=a,b,O=x", true),
            ("CN=*,O=x", "CN=a,O=y", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*a*a*b", &"a".repeat(500), false),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(glob(p.as_bytes(), t.as_bytes()), yes, "{p} {t}");
        }
    }

    #[test]
    fn the_first_rule_decides() {
        let tree = ObjectTree::new();
        let add = |json: &str| tree.add(&from_json(Value::parse_json(json).unwrap()).unwrap()).unwrap();
        add("{'qom-type':'authz-simple','id':'s','identity':'CN=a'}");
        add("{'qom-type':'authz-list','id':'l','rules':[{'match':'CN=b','policy':'deny'},
             {'match':'CN=*','policy':'allow','format':'glob'}]}");
        add("{'qom-type':'iothread','id':'io'}");
        let may = |id, who: &str| tree.authz(id).unwrap().allows(who).unwrap();
        assert!(may("s", "CN=a") && !may("s", "CN=b"));
        assert!(may("l", "CN=a") && !may("l", "CN=b") && !may("l", "O=x"));
        assert!(tree.authz("io").is_err() && tree.authz("zz").is_err());
    }

    #[test]
    fn rules_in_a_file_that_changes() {
        let path = std::env::temp_dir().join(format!("rhea-authz-{}", std::process::id()));
        let name = path.display().to_string();
        let tree = ObjectTree::new();
        let add = |json: &str| {
            let done = tree.add(&from_json(Value::parse_json(json).unwrap()).unwrap());
            done.map(drop).map_err(|e| e.desc().to_owned())
        };
        let new = |id: &str, more: &str| {
            add(&format!("{{'qom-type':'authz-listfile','id':'{id}','filename':'{name}'{more}}}"))
        };
        _ = std::fs::remove_file(&path);
        assert_eq!(new("l", "").unwrap_err(), format!("Unable to read '{name}': No such file or directory"));
        for (text, error) in [
            ("[]", format!("File '{name}' must contain a JSON object")),
            ("{'rule':[]}", "Parameter 'rule' is unexpected".into()),
            ("{'policy':'maybe'}", "Parameter 'policy' does not accept value 'maybe'".into()),
        ] {
            std::fs::write(&path, text.replace('\'', "\"")).unwrap();
            assert_eq!(new("l", "").unwrap_err(), error);
        }
        std::fs::write(&path, "{ ").unwrap();
        new("l", "").unwrap_err();
        let rules = |who: &str| format!("{{\"rules\":[{{\"match\":\"{who}\",\"policy\":\"allow\"}}]}}");
        std::fs::write(&path, rules("anna")).unwrap();
        new("l", "").unwrap();
        new("once", ",'refresh':false").unwrap();
        let may = |id: &str, who: &str| tree.authz(id).unwrap().allows(who).unwrap();
        assert!(may("l", "anna") && !may("l", "bob") && may("once", "anna"));
        std::fs::write(&path, rules("barbara")).unwrap();
        assert!(may("l", "barbara") && !may("l", "anna"));
        assert!(may("once", "anna") && !may("once", "barbara"));
        // What cannot be read changes nothing.
        std::fs::write(&path, "nonsense").unwrap();
        assert!(may("l", "barbara"));
        std::fs::remove_file(&path).unwrap();
        assert!(may("l", "barbara"));
    }
}
