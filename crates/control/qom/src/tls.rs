//! `tls-creds-anon`, `tls-creds-psk` and `tls-creds-x509`: what one end of an encrypted connection is known by.

use crate::object::{Object, Property};
use crate::tree::ObjectTree;
use api::qom::{
    QCryptoTLSCredsEndpoint, TlsCredsAnonProperties, TlsCredsPskProperties, TlsCredsX509Properties,
};
use io::tls::{Credentials, Role};
use qapi::{QError, QapiEnum, Value, qerr};
use std::path::Path;
use std::sync::Arc;

/// Credentials, loaded when the object is made.
pub struct TlsCredsObject {
    ty: &'static str,
    credentials: Arc<Credentials>,
    shown: Vec<(&'static str, &'static str, Value)>,
}

fn role(endpoint: Option<QCryptoTLSCredsEndpoint>) -> Role {
    match endpoint.unwrap_or_default() {
        QCryptoTLSCredsEndpoint::Client => Role::Client,
        QCryptoTLSCredsEndpoint::Server => Role::Server,
    }
}

fn dir(dir: &Option<String>) -> Result<&Path, QError> {
    dir.as_deref().map(Path::new).ok_or_else(|| qerr!("Missing 'dir' property value"))
}

fn text(v: &Option<String>) -> Value {
    Value::Str(v.clone().unwrap_or_default())
}

impl TlsCredsObject {
    fn new(
        ty: &'static str,
        endpoint: Option<QCryptoTLSCredsEndpoint>,
        priority: &Option<String>,
        made: Result<Credentials, String>,
    ) -> Result<TlsCredsObject, QError> {
        let made = match priority {
            Some(p) => made.and_then(|c| c.with_priority(p)),
            None => made,
        };
        let credentials = Arc::new(made.map_err(QError::new)?);
        let endpoint = Value::Str(endpoint.unwrap_or_default().as_str().into());
        let shown =
            vec![("endpoint", "QCryptoTLSCredsEndpoint", endpoint), ("priority", "string", text(priority))];
        Ok(TlsCredsObject { ty, credentials, shown })
    }

    pub(crate) fn anon(p: &TlsCredsAnonProperties) -> Result<TlsCredsObject, QError> {
        TlsCredsObject::new(
            "tls-creds-anon",
            p.endpoint,
            &p.priority,
            Credentials::anonymous(role(p.endpoint)),
        )
    }

    pub(crate) fn psk(p: &TlsCredsPskProperties) -> Result<TlsCredsObject, QError> {
        let user = p.username.as_deref().unwrap_or("qemu");
        let made = Credentials::psk(role(p.endpoint), dir(&p.dir)?, user);
        let mut o = TlsCredsObject::new("tls-creds-psk", p.endpoint, &p.priority, made)?;
        o.shown.push(("dir", "string", text(&p.dir)));
        o.shown.push(("username", "string", text(&p.username)));
        Ok(o)
    }

    pub(crate) fn x509(p: &TlsCredsX509Properties, tree: &ObjectTree) -> Result<TlsCredsObject, QError> {
        let (verify, sane) = (p.verify_peer.unwrap_or(true), p.sanity_check.unwrap_or(true));
        let password = p.passwordid.as_deref().map(|id| tree.password(id)).transpose()?;
        let password = password.as_ref().map(|p| &p[..]);
        let made = Credentials::x509(role(p.endpoint), dir(&p.dir)?, verify, sane, password);
        let mut o = TlsCredsObject::new("tls-creds-x509", p.endpoint, &p.priority, made)?;
        o.shown.push(("dir", "string", text(&p.dir)));
        o.shown.push(("verify-peer", "bool", Value::Bool(verify)));
        o.shown.push(("sanity-check", "bool", Value::Bool(sane)));
        o.shown.push(("passwordid", "string", text(&p.passwordid)));
        Ok(o)
    }
}

impl Object for TlsCredsObject {
    fn type_name(&self) -> &str {
        self.ty
    }

    fn properties(&self) -> Vec<Property> {
        self.shown.iter().map(|(n, t, _)| Property::new(*n, *t)).collect()
    }

    fn get(&self, name: &str) -> Option<Value> {
        self.shown.iter().find(|(n, _, _)| *n == name).map(|(_, _, v)| v.clone())
    }

    fn tls(&self) -> Option<Arc<Credentials>> {
        Some(self.credentials.clone())
    }
}

impl ObjectTree {
    /// The TLS credentials `id`, for this end of a connection.
    ///
    /// # Errors
    /// `No TLS credentials with id 'x'`; `Object with id 'x' is not TLS credentials`; that they are for the other end.
    pub fn tls(&self, id: &str, role: Role) -> Result<Arc<Credentials>, QError> {
        let object = self.get(id).ok_or_else(|| qerr!("No TLS credentials with id '{id}'"))?;
        let creds = object.tls().ok_or_else(|| qerr!("Object with id '{id}' is not TLS credentials"))?;
        if creds.role() != role {
            let end = if role == Role::Server { "server" } else { "client" };
            return Err(qerr!("Expected TLS credentials for a {end} endpoint"));
        }
        Ok(creds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qapi::from_json;

    #[test]
    fn credentials_are_found_by_their_end() {
        let tree = ObjectTree::new();
        let add = |json: &str| {
            let o = from_json(Value::parse_json(json).unwrap()).unwrap();
            tree.add(&o).map(drop).map_err(|e| e.desc().to_owned())
        };
        add("{'qom-type':'iothread','id':'io'}").unwrap();
        add("{'qom-type':'tls-creds-anon','id':'a','endpoint':'server'}").unwrap();
        assert!(tree.tls("a", Role::Server).is_ok());
        add("{'qom-type':'tls-creds-anon','id':'p','priority':'NORMAL:-VERS-TLS1.3'}").unwrap();
        let e = add("{'qom-type':'tls-creds-anon','id':'q','priority':'bogus'}").unwrap_err();
        assert!(e.starts_with("Unable to set TLS session priority to 'bogus': "), "{e}");
        let text = |id, role| tree.tls(id, role).err().unwrap().desc().to_owned();
        assert_eq!(text("a", Role::Client), "Expected TLS credentials for a client endpoint");
        assert_eq!(text("io", Role::Client), "Object with id 'io' is not TLS credentials");
        assert_eq!(text("zz", Role::Client), "No TLS credentials with id 'zz'");
        for ty in ["x509", "psk"] {
            let e = add(&format!("{{'qom-type':'tls-creds-{ty}','id':'x'}}")).unwrap_err();
            assert_eq!(e, "Missing 'dir' property value");
            let file = if ty == "psk" { "keys.psk" } else { "ca-cert.pem" };
            let e = add(&format!("{{'qom-type':'tls-creds-{ty}','id':'x','dir':'/nope'}}")).unwrap_err();
            assert_eq!(e, format!("Unable to access credentials /nope/{file}: No such file or directory"));
        }
    }
}
