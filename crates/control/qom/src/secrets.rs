//! `secret` and `secret_keyring`: passwords and keys that other options name by the object's id.

use crate::object::{Object, Property};
use crate::tree::ObjectTree;
use api::qom::{QCryptoSecretFormat, SecretKeyringProperties, SecretProperties};
use base::Errno;
use crypto::Secret;
use qapi::{QError, QapiEnum, Value, qerr};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// The most bytes that a file with a secret may have.
const MAX_FILE: u64 = 1 << 20;

/// A secret, decoded and decrypted. It is wiped with the object; nothing shows it.
pub struct SecretObject {
    ty: &'static str,
    secret: Secret,
    /// What may be shown: name, type and value.
    shown: Vec<(&'static str, &'static str, Value)>,
}

impl SecretObject {
    /// The object of type `secret`; keys are looked up in `tree`.
    pub(crate) fn new(p: &SecretProperties, tree: &ObjectTree) -> Result<SecretObject, QError> {
        let input = match (&p.file, &p.data) {
            (Some(_), Some(_)) => return Err(qerr!("'file' and 'data' are mutually exclusive")),
            (None, None) => return Err(qerr!("Either 'file' or 'data' must be provided")),
            (Some(f), None) => read_file(f)?,
            (None, Some(d)) => Secret::new(d.as_bytes().to_vec()),
        };
        let mut made = SecretObject::decode("secret", &input, p.format, &p.keyid, &p.iv, tree)?;
        made.shown.push(("file", "string", text(&p.file)));
        // Its value is what this object is there to keep.
        made.shown.push(("data", "string", Value::Null));
        Ok(made)
    }

    /// The object of type `secret_keyring`.
    pub(crate) fn keyring(p: &SecretKeyringProperties, tree: &ObjectTree) -> Result<SecretObject, QError> {
        if p.serial == 0 {
            return Err(qerr!("'serial' should not be equal to 0"));
        }
        let input =
            rt::read_key(p.serial).map_err(|e| qerr!("Unable to read serial key {:08x}: {e}", p.serial))?;
        let mut made =
            SecretObject::decode("secret_keyring", &Secret::new(input), p.format, &p.keyid, &p.iv, tree)?;
        made.shown.push(("serial", "int32_t", Value::Int(p.serial.into())));
        Ok(made)
    }

    fn decode(
        ty: &'static str,
        input: &[u8],
        format: Option<QCryptoSecretFormat>,
        keyid: &Option<String>,
        iv: &Option<String>,
        tree: &ObjectTree,
    ) -> Result<SecretObject, QError> {
        let format = format.unwrap_or_default();
        let key = keyid.as_deref().map(|id| tree.secret(id)).transpose()?;
        let base64 = format == QCryptoSecretFormat::Base64;
        let secret = crypto::secret::decode(input, base64, key.as_ref().map(|k| &k[..]), iv.as_deref())?;
        let shown = vec![
            ("iv", "string", text(iv)),
            ("keyid", "string", text(keyid)),
            ("format", "QCryptoSecretFormat", Value::Str(format.as_str().into())),
        ];
        Ok(SecretObject { ty, secret, shown })
    }
}

fn text(v: &Option<String>) -> Value {
    Value::Str(v.clone().unwrap_or_default())
}

/// All of a file that may be a pipe; one whose writer takes its time is waited for.
fn read_file(name: &str) -> Result<Secret, QError> {
    let cannot = |what: &str, e: std::io::Error| {
        qerr!("Unable to read {name}: {what} file “{name}”: {}", Errno::from(e))
    };
    // Not blocking, so that a FIFO that nobody writes to does not hold up everybody.
    let file = File::options().read(true).custom_flags(crate::objects::O_NONBLOCK).open(name);
    let file = file.map_err(|e| cannot("Failed to open", e))?;
    // Room for all, so that growing leaves no copy behind.
    let len = file.metadata().map_or(0, |m| m.len()).clamp(4096, MAX_FILE);
    let mut out = Secret::new(Vec::with_capacity(len as usize + 64));
    let mut part = Secret::new(vec![0; 4096]);
    let mut waited = 0;
    loop {
        match (&file).read(&mut part) {
            Ok(0) => return Ok(out),
            Ok(n) if (out.len() + n) as u64 > MAX_FILE => {
                return Err(qerr!("Unable to read {name}: the file is larger than {MAX_FILE} bytes"));
            }
            Ok(n) => {
                if out.len() + n > out.capacity() {
                    let mut longer = Secret::new(Vec::with_capacity((out.len() + n) * 2));
                    longer.extend_from_slice(&out);
                    out = longer;
                }
                out.extend_from_slice(&part[..n]);
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && waited < 100 => {
                waited += 1;
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(cannot("Error reading", e)),
        }
    }
}

impl Object for SecretObject {
    fn type_name(&self) -> &str {
        self.ty
    }

    fn properties(&self) -> Vec<Property> {
        self.shown.iter().map(|(n, t, _)| Property::new(*n, *t)).collect()
    }

    fn get(&self, name: &str) -> Option<Value> {
        let (_, _, v) = self.shown.iter().find(|(n, _, _)| *n == name)?;
        // The secret itself is never given away.
        Some(if *v == Value::Null { Value::Str(String::new()) } else { v.clone() })
    }

    fn secret(&self) -> Option<&Secret> {
        Some(&self.secret)
    }
}

impl ObjectTree {
    /// A copy of the bytes of the secret `id`.
    ///
    /// # Errors
    /// `No secret with id 'x'`; `Object with id 'x' is not a secret`.
    pub fn secret(&self, id: &str) -> Result<Secret, QError> {
        let object = self.get(id).ok_or_else(|| qerr!("No secret with id '{id}'"))?;
        let secret = object.secret().cloned();
        secret.ok_or_else(|| qerr!("Object with id '{id}' is not a secret"))
    }

    /// The secret `id`, which must be text in UTF-8: a password.
    ///
    /// # Errors
    /// As [`ObjectTree::secret`]; `Data from secret x is not valid UTF-8`.
    pub fn password(&self, id: &str) -> Result<Secret, QError> {
        let secret = self.secret(id)?;
        match std::str::from_utf8(&secret) {
            Ok(_) => Ok(secret),
            Err(_) => Err(qerr!("Data from secret {id} is not valid UTF-8")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qapi::from_json;

    fn add(tree: &ObjectTree, json: &str) -> Result<(), String> {
        let o = from_json(Value::parse_json(json).unwrap()).map_err(|e: QError| e.desc().to_owned())?;
        tree.add(&o).map(drop).map_err(|e| e.desc().to_owned())
    }

    #[test]
    fn secrets_are_read_decoded_and_decrypted() {
        let tree = ObjectTree::new();
        let path = std::env::temp_dir().join(format!("rhea-secret-{}", std::process::id()));
        std::fs::write(&path, "from a file\n").unwrap();
        add(&tree, "{'qom-type':'secret','id':'d','data':'hunter2'}").unwrap();
        add(&tree, &format!("{{'qom-type':'secret','id':'f','file':'{}'}}", path.display())).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*tree.secret("d").unwrap(), b"hunter2");
        assert_eq!(*tree.secret("f").unwrap(), b"from a file\n");
        let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        add(&tree, &format!("{{'qom-type':'secret','id':'k','format':'base64','data':'{key}'}}")).unwrap();
        add(
            &tree,
            "{'qom-type':'secret','id':'e','format':'base64','data':'5Oc1d6/9hbpDg7sQDpNVfw==','keyid':'k',
              'iv':'AAECAwQFBgcICQoLDA0ODw=='}",
        )
        .unwrap();
        assert_eq!(*tree.password("e").unwrap(), b"hunter2");
        // The key is copied, so that it may go.
        tree.del("k").unwrap();
        let get = |p| tree.get_property("/objects/e", p).unwrap();
        assert_eq!((get("keyid"), get("format")), (Value::Str("k".into()), Value::Str("base64".into())));
        assert_eq!(get("data"), Value::Str(String::new()), "nothing shows a secret");
    }

    #[test]
    fn what_is_wrong_is_said_as_the_reference_says_it() {
        let tree = ObjectTree::new();
        tree.add(&from_json(Value::parse_json("{'qom-type':'iothread','id':'io'}").unwrap()).unwrap())
            .unwrap();
        for (rest, text) in [
            ("", "Either 'file' or 'data' must be provided"),
            (",'data':'a','file':''", "'file' and 'data' are mutually exclusive"),
            (
                ",'file':'/nope'",
                "Unable to read /nope: Failed to open file “/nope”: No such file or directory",
            ),
            (",'file':'/tmp'", "Unable to read /tmp: Error reading file “/tmp”: Is a directory"),
            (",'data':'@','format':'base64'", "Base64 data contains invalid characters"),
            (",'data':'a','format':'foo'", "Parameter 'format' does not accept value 'foo'"),
            (",'data':'a','keyid':'zz'", "No secret with id 'zz'"),
            (",'data':'a','keyid':'io'", "Object with id 'io' is not a secret"),
        ] {
            let e = add(&tree, &format!("{{'qom-type':'secret','id':'q'{rest}}}")).unwrap_err();
            assert_eq!(e, text);
        }
        add(&tree, "{'qom-type':'secret','id':'b','data':'gICA','format':'base64'}").unwrap();
        assert_eq!(tree.password("b").unwrap_err().desc(), "Data from secret b is not valid UTF-8");
        let ring =
            |n| add(&tree, &format!("{{'qom-type':'secret_keyring','id':'r','serial':{n}}}")).unwrap_err();
        assert_eq!(ring(0), "'serial' should not be equal to 0");
        assert!(ring(i32::MAX).starts_with("Unable to read serial key 7fffffff: "));
        let shown = format!("{:?}", SecretProperties { data: Some("hunter2".into()), ..Default::default() });
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
