use crate::object::{Object, Property};
use crate::objects::create;
use api::qom::ObjectOptions;
use parking_lot::Mutex;
use qapi::{ErrorClass, QError, Value, qerr};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A node that only holds others.
struct Container;

impl Object for Container {
    fn type_name(&self) -> &str {
        "container"
    }
}

/// The objects of a process by their paths: `/objects/io0`, `/machine/peripheral/disk0`.
///
/// Changes are made on the control thread; any thread may look.
pub struct ObjectTree {
    /// By path without the leading slash; the root is the empty path. A child's parent is always there.
    nodes: Mutex<BTreeMap<String, Arc<dyn Object>>>,
}

/// Where user-created objects stand.
const OBJECTS: &str = "objects";

impl Default for ObjectTree {
    fn default() -> ObjectTree {
        ObjectTree::new()
    }
}

/// Checks that `id` may name an object.
///
/// # Errors
/// `Parameter 'id' expects an identifier`, with a hint for people.
pub fn check_id(id: &str) -> Result<(), QError> {
    let mut chars = id.chars();
    let ok = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if ok {
        return Ok(());
    }
    Err(QError::new("Parameter 'id' expects an identifier")
        .with_hint("Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."))
}

fn not_found(path: &str) -> QError {
    QError::with_class(ErrorClass::DeviceNotFound, format!("Device '{path}' not found"))
}

impl ObjectTree {
    /// A tree with the containers that every process has.
    pub fn new() -> ObjectTree {
        let nodes = ["", "backend", "chardevs", OBJECTS]
            .into_iter()
            .map(|p| (p.to_owned(), Arc::new(Container) as Arc<dyn Object>))
            .collect();
        ObjectTree { nodes: Mutex::new(nodes) }
    }

    /// Makes the object that a user describes and puts it under `/objects`.
    ///
    /// # Errors
    /// An id that is none or that is taken; what the type itself says. Nothing is left behind.
    pub fn add(&self, options: &ObjectOptions) -> Result<Arc<dyn Object>, QError> {
        check_id(&options.id)?;
        let path = format!("{OBJECTS}/{}", options.id);
        self.check_free(&path)?;
        let object = create(options, self)?;
        self.insert(&path, object.clone())?;
        Ok(object)
    }

    fn check_free(&self, path: &str) -> Result<(), QError> {
        let nodes = self.nodes.lock();
        if !nodes.contains_key(path) {
            return Ok(());
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let ty = nodes.get(parent).map_or("container", |o| o.type_name());
        Err(qerr!("attempt to add duplicate property '{name}' to object (type '{ty}')"))
    }

    /// The user's object `id`.
    pub fn get(&self, id: &str) -> Option<Arc<dyn Object>> {
        self.nodes.lock().get(&format!("{OBJECTS}/{id}")).cloned()
    }

    /// The ids of users' objects.
    pub fn ids(&self) -> Vec<String> {
        let nodes = self.nodes.lock();
        let all = nodes.keys().filter_map(|k| k.strip_prefix("objects/"));
        all.filter(|k| !k.contains('/')).map(Into::into).collect()
    }

    /// Deletes the user's object `id`.
    ///
    /// # Errors
    /// `object 'x' not found`, or that somebody uses it.
    pub fn del(&self, id: &str) -> Result<(), QError> {
        let path = format!("{OBJECTS}/{id}");
        let mut nodes = self.nodes.lock();
        let object = nodes.get(&path).ok_or_else(|| qerr!("object '{id}' not found"))?;
        if Arc::strong_count(object) > 1 {
            return Err(qerr!("object '{id}' is in use, can not be deleted"));
        }
        let gone = nodes.remove(&path);
        // An I/O thread's end is waited for; not with the tree locked.
        drop(nodes);
        drop(gone);
        Ok(())
    }

    /// Puts an object at `path` (with or without leading slash); missing containers on the way are made.
    ///
    /// # Errors
    /// `attempt to add duplicate property …` where there is one already.
    pub fn insert(&self, path: &str, object: Arc<dyn Object>) -> Result<(), QError> {
        let path = path.trim_matches('/');
        self.check_free(path)?;
        let mut nodes = self.nodes.lock();
        for (i, _) in path.match_indices('/') {
            nodes.entry(path[..i].to_owned()).or_insert_with(|| Arc::new(Container));
        }
        nodes.insert(path.to_owned(), object);
        Ok(())
    }

    /// Takes the object at `path`, and all below it, out of the tree.
    pub fn remove(&self, path: &str) {
        let path = path.trim_matches('/');
        let below = format!("{path}/");
        let mut nodes = self.nodes.lock();
        let (gone, kept) =
            std::mem::take(&mut *nodes).into_iter().partition(|(k, _)| k == path || k.starts_with(&below));
        *nodes = kept;
        drop(nodes);
        let gone: BTreeMap<_, _> = gone;
        drop(gone);
    }

    /// The object at an absolute path, or the only one whose path ends so.
    ///
    /// # Errors
    /// `Device 'x' not found`; that the path is ambiguous.
    pub fn resolve(&self, path: &str) -> Result<Arc<dyn Object>, QError> {
        self.find(path).map(|(_, o)| o)
    }

    fn find(&self, path: &str) -> Result<(String, Arc<dyn Object>), QError> {
        let nodes = self.nodes.lock();
        if path.starts_with('/') {
            let key = path.trim_matches('/');
            let hit = nodes.get(key).ok_or_else(|| not_found(path))?;
            return Ok((key.to_owned(), hit.clone()));
        }
        let tail = format!("/{path}");
        let mut hits = nodes.iter().filter(|(k, _)| !path.is_empty() && (*k == path || k.ends_with(&tail)));
        match (hits.next(), hits.next()) {
            (Some((k, o)), None) => Ok((k.clone(), o.clone())),
            (Some(_), Some(_)) => Err(qerr!("Path '{path}' does not uniquely identify an object")),
            _ => Err(not_found(path)),
        }
    }

    /// The properties of an object, `type` and its children among them.
    ///
    /// # Errors
    /// As [`ObjectTree::resolve`].
    pub fn list(&self, path: &str) -> Result<Vec<Property>, QError> {
        let (key, object) = self.find(path)?;
        let mut out = vec![Property::new("type", "string")];
        out.extend(object.properties());
        let below = if key.is_empty() { String::new() } else { format!("{key}/") };
        let nodes = self.nodes.lock();
        for (k, child) in nodes.iter() {
            let name = k.strip_prefix(&below).filter(|n| !n.is_empty() && !n.contains('/'));
            if let Some(name) = name {
                out.push(Property::new(name, format!("child<{}>", child.type_name())));
            }
        }
        Ok(out)
    }

    /// The value of a property; of a child, its path.
    ///
    /// # Errors
    /// As [`ObjectTree::resolve`]; `Property 'TYPE.x' not found`.
    pub fn get_property(&self, path: &str, name: &str) -> Result<Value, QError> {
        let (key, object) = self.find(path)?;
        if name == "type" {
            return Ok(Value::Str(object.type_name().into()));
        }
        if let Some(v) = object.get(name) {
            return Ok(v);
        }
        let child = format!("{key}/{name}");
        let child = child.trim_start_matches('/');
        if !name.is_empty() && !name.contains('/') && self.nodes.lock().contains_key(child) {
            return Ok(Value::Str(format!("/{child}")));
        }
        Err(qerr!("Property '{}.{name}' not found", object.type_name()))
    }

    /// Sets a property.
    ///
    /// # Errors
    /// As [`ObjectTree::resolve`]; what the object says.
    pub fn set_property(&self, path: &str, name: &str, value: &Value) -> Result<(), QError> {
        self.find(path)?.1.set(name, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qapi::{from_arg, from_json};

    fn json(text: &str) -> Result<ObjectOptions, QError> {
        from_json(Value::parse_json(text).unwrap())
    }

    fn names(tree: &ObjectTree, path: &str) -> Vec<String> {
        tree.list(path).unwrap().into_iter().map(|p| format!("{}:{}", p.name, p.ty)).collect()
    }

    #[test]
    fn objects_come_and_go_with_the_references_messages() {
        let tree = ObjectTree::new();
        let io = json("{'qom-type':'iothread','id':'io0'}").unwrap();
        drop(tree.add(&io).unwrap());
        let desc = |r: Result<Arc<dyn Object>, QError>| r.err().unwrap().desc().to_owned();
        assert_eq!(
            desc(tree.add(&io)),
            "attempt to add duplicate property 'io0' to object (type 'container')"
        );
        let bad = json("{'qom-type':'iothread','id':'1x'}").unwrap();
        assert_eq!(desc(tree.add(&bad)), "Parameter 'id' expects an identifier");
        for (given, name) in [("'poll-max-ns':-1", "poll-max-ns"), ("'poll-grow':-7", "poll-grow")] {
            let bad = json(&format!("{{'qom-type':'iothread','id':'y',{given}}}")).unwrap();
            let text = format!("{name} value must be in range [0, 9223372036854775807]");
            assert_eq!(desc(tree.add(&bad)), text);
        }
        let most = i64::MAX;
        let odd = format!("{{'qom-type':'iothread','id':'z','poll-max-ns':{most},'poll-grow':{most}}}");
        let thread = tree.add(&json(&odd).unwrap()).unwrap().iothread().unwrap();
        assert_eq!(rt::block_on(thread.spawn(|| async { 7 })), 7);
        assert_eq!(tree.get_property("z", "poll-max-ns").unwrap(), Value::Int(most));
        tree.del("z").unwrap();
        let bad = json("{'qom-type':'rng-random','id':'y','filename':'/nope'}").unwrap();
        assert_eq!(desc(tree.add(&bad)), "Could not open '/nope': No such file or directory");
        let bad = json("{'qom-type':'memory-backend-ram','id':'y','size':0}").unwrap();
        assert_eq!(desc(tree.add(&bad)), "property 'size' of memory-backend-ram doesn't take value '0'");

        assert_eq!(names(&tree, "/objects"), ["type:string", "io0:child<iothread>"]);
        let polling = ["type:string", "poll-grow:int", "poll-max-ns:int", "poll-shrink:int"];
        assert_eq!(names(&tree, "io0"), polling);
        assert_eq!(tree.get_property("io0", "poll-max-ns").unwrap(), Value::Int(32_768));
        assert_eq!(tree.get_property("/objects", "io0").unwrap(), Value::Str("/objects/io0".into()));

        let user = tree.get("io0").unwrap();
        assert_eq!(tree.del("io0").unwrap_err().desc(), "object 'io0' is in use, can not be deleted");
        drop(user);
        tree.del("io0").unwrap();
        assert_eq!(tree.del("io0").unwrap_err().desc(), "object 'io0' not found");
    }

    #[test]
    fn options_are_checked_before_anything_is_made() {
        let desc = |t: &str| json(t).unwrap_err().desc().to_owned();
        assert_eq!(desc("{'qom-type':'foo','id':'x'}"), "Parameter 'qom-type' does not accept value 'foo'");
        assert_eq!(desc("{'qom-type':'iothread'}"), "Parameter 'id' is missing");
        assert_eq!(desc("{'qom-type':'iothread','id':'y','foo':1}"), "Parameter 'foo' is unexpected");
        assert_eq!(desc("{'qom-type':'memory-backend-ram','id':'y'}"), "Parameter 'size' is missing");
        let o: ObjectOptions = from_arg("memory-backend-ram,id=m,size=4M", Some("qom-type")).unwrap();
        let tree = ObjectTree::new();
        let m = tree.add(&o).unwrap();
        assert_eq!(m.memory().unwrap().len(), 4 << 20);
        assert_eq!(tree.get_property("/objects/m", "size").unwrap(), Value::Int(4 << 20));
        assert_eq!(
            tree.set_property("m", "size", &Value::Int(1)).unwrap_err().desc(),
            "Property 'memory-backend-ram.size' is not writable"
        );
        assert_eq!(
            tree.get_property("m", "nope").unwrap_err().desc(),
            "Property 'memory-backend-ram.nope' not found"
        );
    }

    #[test]
    fn sources_give_bytes() {
        let tree = ObjectTree::new();
        for o in ["{'qom-type':'rng-random','id':'a'}", "{'qom-type':'rng-builtin','id':'b'}"] {
            let rng = tree.add(&json(o).unwrap()).unwrap().rng().unwrap();
            let (a, b) = rt::block_on(async { (rng.bytes(64).await.unwrap(), rng.bytes(64).await.unwrap()) });
            assert!(a != b && a.len() <= 64);
        }
        let empty = json("{'qom-type':'rng-random','id':'z','filename':'/dev/null'}").unwrap();
        let rng = tree.add(&empty).unwrap().rng().unwrap();
        assert!(rt::block_on(rng.bytes(8)).is_err());
    }

    #[test]
    fn paths() {
        let tree = ObjectTree::new();
        tree.insert("/machine/peripheral/disk0", Arc::new(Container)).unwrap();
        assert!(names(&tree, "/").contains(&"machine:child<container>".into()));
        assert_eq!(names(&tree, "peripheral"), ["type:string", "disk0:child<container>"]);
        assert!(tree.resolve("disk0").is_ok());
        tree.insert("/other/disk0", Arc::new(Container)).unwrap();
        assert!(tree.resolve("disk0").is_err());
        tree.remove("/machine");
        assert!(tree.resolve("/machine/peripheral").is_err());
        let e = tree.resolve("/nope").err().unwrap();
        assert_eq!((e.desc(), e.class()), ("Device '/nope' not found", ErrorClass::DeviceNotFound));
        assert!(help_is_complete());
    }

    fn help_is_complete() -> bool {
        let text = crate::objects::help();
        ["iothread", "memory-backend-ram", "rng-builtin", "rng-random", "secret_keyring"]
            .iter()
            .all(|t| text.contains(t))
            && crate::objects::type_help("foo").is_err()
            && crate::objects::type_help("rng-random")
                .is_ok_and(|t| t == "rng-random options:\n  filename=<string>\n")
    }
}
