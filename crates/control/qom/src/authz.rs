//! `authz-simple` and `authz-list`: who may connect, by the identity that TLS has proved.

use crate::object::{Object, Property};
use crate::tree::ObjectTree;
use api::qom::{
    AuthZListProperties, AuthZSimpleProperties, QAuthZListFormat, QAuthZListPolicy, QAuthZListRule,
};
use qapi::{QError, QapiEnum, Value, qerr, to_value};
use std::sync::Arc;

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
        let hit = |r: &&QAuthZListRule| match r.format.unwrap_or_default() {
            QAuthZListFormat::Exact => r.r#match == identity,
            QAuthZListFormat::Glob => glob(r.r#match.as_bytes(), identity.as_bytes()),
        };
        let rules = self.0.rules.as_deref().unwrap_or_default();
        let policy = rules.iter().find(hit).map_or(self.0.policy.unwrap_or_default(), |r| r.policy);
        Some(policy == QAuthZListPolicy::Allow)
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
}
